"""Weights in 8 or 4 bits with a scale for each row, packed as the published checkpoints pack them.

    scale[row] = max|weight[row]| / 127 (8 bits) or / 7 (4 bits), in float16
    q          = round(weight / scale), the quotient in float16, halves to the even neighbour
    4 bits     byte j of a row holds column 2j in its high half and 2j + 1 in its low half, signed

This is the exact path: a weight counts `q * scale`, and an answer is what the originals would compute from it.

Beside it stands one form that nobody published, `GroupedLinear`: 4 bits with a scale and a zero for each 32 columns.
One large weight in a row then spoils 32 weights, and not thousands.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

__all__ = ["Bits", "GroupedLinear", "QuantizedEmbedding", "QuantizedLinear", "dequantize", "pack", "quantize", "unpack"]

Bits = Literal[4, 8]
BLOCK = 256  # rows of a matrix that are quantized at a time: in the processor's cache, and with little memory


def quantize(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """(rows, columns) to its packed int8 form, (rows, columns) or (rows, columns / 2), and float16 scales, (rows,)."""
    half = weight.to(torch.float16)
    largest = 127 if bits == 8 else 7
    scale = half.abs().amax(dim=1) / largest
    rounded = (half / scale.where(scale > 0, 1)[:, None]).round()  # a row of zeros has the scale 0
    q = rounded.clamp(-largest, largest).to(torch.int8)
    return (pack(q) if bits == 4 else q), scale


def pack(q: Tensor) -> Tensor:
    """(rows, columns) int8 in -8..7 to (rows, columns / 2)."""
    return (q[:, 0::2] << 4) | (q[:, 1::2] & 15)


def unpack(packed: Tensor) -> Tensor:
    """(rows, columns / 2) to (rows, columns) int8 in -8..7."""
    return torch.stack([packed >> 4, (packed << 4) >> 4], dim=-1).flatten(-2)


def dequantize(weight: Tensor, scale: Tensor, bits: Bits) -> Tensor:
    """(rows, columns) float32."""
    q = unpack(weight) if bits == 4 else weight
    return q.float() * scale.float().unsqueeze(-1)


class _Quantized(nn.Module):
    weight: Tensor
    scale: Tensor

    def __init__(self, rows: int, columns: int, bits: Bits) -> None:
        super().__init__()
        self.bits: Bits = bits
        packed = columns // 2 if bits == 4 else columns
        self.register_buffer("weight", torch.empty(rows, packed, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(rows, dtype=torch.float16))


class QuantizedLinear(_Quantized):
    """A linear layer that restores its weights whenever it is used, in the type of what comes in."""

    def __init__(self, linear: nn.Linear, bits: Bits) -> None:
        """Made in place of `linear`, on its device; weights are to be filled in."""
        with linear.weight.device:
            super().__init__(linear.out_features, linear.in_features, bits)
        self.bias = linear.bias
        self.shape = tuple(linear.weight.shape)

    def fill(self, weight: Tensor) -> None:
        """Takes (rows, columns) in any float type."""
        self.weight, self.scale = (torch.empty_like(it, device=weight.device) for it in (self.weight, self.scale))
        for full, packed, scale in zip(*(it.split(BLOCK) for it in (weight, self.weight, self.scale)), strict=True):
            new = quantize(full, self.bits)
            packed.copy_(new[0])
            scale.copy_(new[1])

    @property
    def out_features(self) -> int:
        return self.shape[0]

    @property
    def in_features(self) -> int:
        return self.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return _Restoring.apply(x, self.weight, self.scale, self.bits, self.bias)
        return F.linear(x, dequantize(self.weight, self.scale, self.bits).to(x.dtype), self.bias)


class _Restoring(torch.autograd.Function):
    """The same product where what comes in is learnt: for the way back weights are restored once more.

    Left to itself, torch would keep the restored weights of all layers until then: those of the full model.
    """

    @staticmethod
    def forward(
        context: FunctionCtx, x: Tensor, weight: Tensor, scale: Tensor, bits: Bits, bias: Tensor | None
    ) -> Tensor:
        context.save_for_backward(weight, scale)
        context.bits = bits  # type: ignore[attr-defined]
        return F.linear(x, dequantize(weight, scale, bits).to(x.dtype), bias)

    @staticmethod
    def backward(context: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = context.saved_tensors  # type: ignore[attr-defined]
        restored = dequantize(weight, scale, context.bits).to(gradient.dtype)  # type: ignore[attr-defined]
        return gradient @ restored, None, None, None, None


class GroupedLinear(nn.Module):
    """A linear layer of 4-bit weights `q * scale + zero`, packed as above, restored whenever it is used."""

    GROUP = 32
    bits: Bits = 4
    weight: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, linear: nn.Linear, bits: Bits = 4, group: int = GROUP) -> None:
        """Made in place of `linear`, on its device; weights are to be filled in."""
        super().__init__()
        assert bits == self.bits
        rows, columns = self.shape = tuple(linear.weight.shape)
        self.group, device = group, linear.weight.device
        self.register_buffer("weight", torch.empty(rows, columns // 2, dtype=torch.int8, device=device))
        for name in ("scale", "zero"):
            self.register_buffer(name, torch.empty(rows, columns // group, dtype=torch.bfloat16, device=device))
        self.bias = linear.bias

    def fill(self, weight: Tensor) -> None:
        """Takes (rows, columns) in any float type. Scale and zero are rounded first, so that q makes up for it."""
        new = [torch.empty_like(it, device=weight.device) for it in (self.weight, self.scale, self.zero)]
        self.weight, self.scale, self.zero = new
        for full, packed, scale, zero in zip(*(it.split(BLOCK) for it in (weight, *new)), strict=True):
            groups = full.float().unflatten(1, (-1, self.group))
            low, high = groups.amin(dim=-1), groups.amax(dim=-1)
            scale.copy_((high - low) / 15)
            scale[scale == 0] = 1  # where all are equal
            zero.copy_(low + 8 * scale.float())
            q = groups.sub(zero.float()[..., None]).div_(scale.float()[..., None]).round_().clamp_(-8, 7)
            packed.copy_(pack(q.flatten(1).to(torch.int8)))

    def restored(self) -> Tensor:
        """(rows, columns) float32."""
        q = unpack(self.weight).float().unflatten(1, (-1, self.group))
        return (q * self.scale.float()[..., None] + self.zero.float()[..., None]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.restored().to(x.dtype), self.bias)


class QuantizedEmbedding(_Quantized):
    """An embedding that restores the rows it is asked for, in `dtype`."""

    def __init__(self, embedding: nn.Embedding, bits: Bits, dtype: torch.dtype) -> None:
        with embedding.weight.device:
            super().__init__(embedding.num_embeddings, embedding.embedding_dim, bits)
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        rows = dequantize(self.weight[ids].flatten(0, -2), self.scale[ids].flatten(), self.bits)
        return rows.unflatten(0, ids.shape).to(self.dtype)
