"""Products with weights of 8 or 4 bits on CUDA GPUs, of any generation for which Triton compiles them.

Weights stay as the checkpoint packs them (quantization.py) and are restored in registers, so what is read from memory
is the packed bytes. Products are summed in float32, which a row's scale then multiplies; whole numbers of 8 bits lose
nothing in float16 or bfloat16.

    by_sums   one row that comes in, or a few: multiply and add, as fast as the memory gives the weights
    by_tiles  some dozens, for tensor cores: each weight is read once for 16 or 64 rows
    restored  the matrix itself, which pays where many rows share it

torch's own CUDA kernel for 8 bits gives each thread a row of weights to walk through (aten/native/cuda/int8mm.cu of
2.9), so that neighbours read memory that lies far apart; its own for 4 bits wants bfloat16 and a GPU from 2020 on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kbqa.chatglm.quantization import Bits

__all__ = ["Packed", "by_sums", "by_tiles", "has_tensor_cores", "restored", "try_out"]

TILES = {16: (16, 256, 4), 64: (64, 64, 3)}  # rows that come in: rows of the matrix, their columns, loads under way


class Packed(NamedTuple):
    """A matrix of `bits`, (rows, columns) or (rows, columns / 2) int8.

    `scale` is (rows,), or like `zero` (rows, groups), a group being 16 columns, 32, 64, ...
    """

    weight: Tensor
    bits: Bits
    scale: Tensor
    zero: Tensor | None
    bias: Tensor | None

    @property
    def columns(self) -> int:
        return self.weight.shape[1] * 8 // self.bits

    @property
    def group(self) -> int:
        """Columns that share a scale; 0 where the whole row does."""
        return 0 if self.zero is None else self.columns // self.scale.shape[1]


def has_tensor_cores(device: torch.device) -> bool:
    """Whether Triton uses them there."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def try_out(device: torch.device) -> None:
    """Compiles and starts a product there; what is missing for that raises one of many kinds of exceptions."""
    weight = torch.ones(16, 32, dtype=torch.int8, device=device)
    scale = torch.ones(16, dtype=torch.float16, device=device)
    got = by_sums(torch.ones(1, 32, dtype=torch.float16, device=device), Packed(weight, 8, scale, None, None))
    if not torch.equal(got, torch.full_like(got, 32)):
        raise ArithmeticError(f"Triton's product of ones is {got.flatten()[0]}, not 32")


def by_sums(x: Tensor, m: Packed) -> Tensor:
    """(N, columns) times the matrix that stands, with its bias, in the type of x: (N, rows)."""
    out = x.new_empty(len(x), len(m.weight))
    grid = (len(x), triton.cdiv(len(m.weight), 4))  # neighbours want the same weights
    return _started(_sums, grid, x, m, out, ROWS=4, COLUMNS=512, num_warps=4)


def by_tiles(x: Tensor, m: Packed) -> Tensor:
    """As by_sums."""
    out = x.new_empty(len(x), len(m.weight))
    tokens = 16 if len(x) <= 16 else 64
    rows, columns, stages = TILES[tokens]
    grid = (triton.cdiv(len(m.weight), rows), triton.cdiv(len(x), tokens))
    sizes = {"TOKENS": tokens, "ROWS": rows, "COLUMNS": columns}
    return _started(_tiles, grid, x, m, out, num_warps=4, num_stages=stages, **sizes)


def restored(m: Packed, dtype: torch.dtype) -> Tensor:
    """(rows, columns)."""
    out = m.weight.new_empty(len(m.weight), m.columns, dtype=dtype)
    grid = (triton.cdiv(len(m.weight), 8), triton.cdiv(m.columns, 512))
    return _started(_restore, grid, out, m, out, ROWS=8, COLUMNS=512, num_warps=4)


def _started(
    kernel: triton.JITFunction, grid: tuple[int, int], x: Tensor, m: Packed, out: Tensor, **sizes: int
) -> Tensor:
    zero, bias = (x if it is None else it for it in (m.zero, m.bias))  # what is not there is not read
    with torch.cuda.device_of(x):
        kernel[grid](
            x.contiguous(), m.weight, m.scale, zero, bias, out, len(x), len(m.weight), m.columns,
            BITS=m.bits, GROUP=m.group, BIAS=m.bias is not None, **sizes,
        )  # fmt: skip
    return out


@triton.jit
def _whole(weight, row, begin, rows, columns, BITS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) int8: the weights without scale and zero."""
    each: tl.constexpr = 8 // BITS
    byte = begin // each + tl.arange(0, COLUMNS // each)
    there = (row < rows)[:, None] & (byte < columns // each)[None, :]
    q = tl.load(weight + row[:, None] * (columns // each) + byte[None, :], there, 0)
    if BITS == 4:
        high, low = q >> 4, (q << 4).to(tl.int8) >> 4  # the first column lies in the high half
        q = tl.reshape(tl.join(high, low), q.shape[0], COLUMNS)
    return q


@triton.jit
def _by_group(values, row, begin, rows, columns, GROUP: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, groups) float32."""
    group = begin // GROUP + tl.arange(0, COLUMNS // GROUP)
    there = (row < rows)[:, None] & (group < columns // GROUP)[None, :]
    return tl.load(values + row[:, None] * (columns // GROUP) + group[None, :], there, 0.0).to(tl.float32)


@triton.jit
def _scaled(q, scale, zero, row, begin, rows, columns, GROUP: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) float32, with the scales and zeros of groups."""
    by_group = tl.reshape(q.to(tl.float32), q.shape[0], COLUMNS // GROUP, GROUP)
    by_group *= _by_group(scale, row, begin, rows, columns, GROUP, COLUMNS)[:, :, None]
    by_group += _by_group(zero, row, begin, rows, columns, GROUP, COLUMNS)[:, :, None]
    return tl.reshape(by_group, q.shape[0], COLUMNS)


@triton.jit(do_not_specialize=["tokens"])
def _sums(
    x, weight, scale, zero, bias, out, tokens, rows, columns,
    BITS: tl.constexpr, GROUP: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program has one token and ROWS rows. What a group's zero adds is the zero times the sum of what comes in."""
    span: tl.constexpr = GROUP if GROUP else 16
    token = tl.program_id(0).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    sums = tl.zeros((ROWS, COLUMNS // span), tl.float32)
    for begin in range(0, columns, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        given = tl.load(x + token * columns + column, column < columns, 0.0).to(tl.float32)
        q = _whole(weight, row, begin, rows, columns, BITS, COLUMNS).to(tl.float32)
        products = tl.sum(tl.reshape(q * given[None, :], ROWS, COLUMNS // span, span), 2)
        if GROUP:
            products *= _by_group(scale, row, begin, rows, columns, GROUP, COLUMNS)
            whole = tl.sum(tl.reshape(given, COLUMNS // span, span), 1)
            products += whole[None, :] * _by_group(zero, row, begin, rows, columns, GROUP, COLUMNS)
        sums += products
    total = tl.sum(sums, 1)
    if GROUP == 0:
        total *= tl.load(scale + row, row < rows, 0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + row, row < rows, 0.0).to(tl.float32)
    tl.store(out + token * rows + row, total.to(out.dtype.element_ty), row < rows)


@triton.jit(do_not_specialize=["tokens"])
def _tiles(
    x, weight, scale, zero, bias, out, tokens, rows, columns,
    BITS: tl.constexpr, GROUP: tl.constexpr, BIAS: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program has TOKENS tokens and ROWS rows."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    token = (tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    sums = tl.zeros((TOKENS, ROWS), tl.float32)
    for begin in range(0, columns, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        there = (token < tokens)[:, None] & (column < columns)[None, :]
        given = tl.load(x + token[:, None] * columns + column[None, :], there, 0.0)
        weights = _whole(weight, row, begin, rows, columns, BITS, COLUMNS)
        if GROUP:
            weights = _scaled(weights, scale, zero, row, begin, rows, columns, GROUP, COLUMNS)
        sums = tl.dot(given, tl.trans(weights.to(given.dtype)), sums, input_precision="ieee")
    if GROUP == 0:
        sums *= tl.load(scale + row, row < rows, 0.0).to(tl.float32)[None, :]
    if BIAS:
        sums += tl.load(bias + row, row < rows, 0.0).to(tl.float32)[None, :]
    there = (token < tokens)[:, None] & (row < rows)[None, :]
    tl.store(out + token[:, None] * rows + row[None, :], sums.to(out.dtype.element_ty), there)


@triton.jit(do_not_specialize=["tokens"])
def _restore(
    x, weight, scale, zero, bias, out, tokens, rows, columns,
    BITS: tl.constexpr, GROUP: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program has ROWS rows and COLUMNS columns; `x`, `bias` and `tokens` mean nothing here."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    begin = tl.program_id(1) * COLUMNS
    column = begin + tl.arange(0, COLUMNS)
    weights = _whole(weight, row, begin, rows, columns, BITS, COLUMNS)
    if GROUP:
        weights = _scaled(weights, scale, zero, row, begin, rows, columns, GROUP, COLUMNS)
    else:
        weights = weights.to(tl.float32) * tl.load(scale + row, row < rows, 0.0).to(tl.float32)[:, None]
    there = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(out + row[:, None] * columns + column[None, :], weights.to(out.dtype.element_ty), there)
