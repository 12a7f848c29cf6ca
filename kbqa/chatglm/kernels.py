"""Linear layers as fast as this machine allows, in place of the ordinary ones: the fast path.

To write one token, every weight is read once, so what counts is how few bytes are read and how near that comes to the
speed of the memory. Nothing here restores a whole matrix to write a token, unless dozens are written at once. The
better kernel that works is taken:

    bfloat16   on CPUs: the matrix, reordered once for oneDNN; one row by code of ours (compiled.py)
    8, 4 bits  x86 CPUs: whole numbers, by code of ours; what comes in is rounded to 16 bits, which keeps more of it
               than bfloat16 does
               CUDA GPUs: by code of ours as well (gpu.py), with what comes in as it is
    8 bits     where none of that runs, x86 CPUs: whole numbers by FBGEMM, what comes in being split into two digits of
               8 bits. Elsewhere: torch's int8 kernel, in bfloat16
    4 bits     where none of that runs: torch's int4 kernels, in bfloat16; on CPUs, many rows at once get the matrix
               restored block by block

A row's published scale multiplies what comes out, in float32, and is not rounded, but where a GPU restores the matrix
for many rows. Before a kernel is used it must get a small product right on the device at hand; where it does not, or is
not there, layers stay as they were.
How far all this is from the exact path: tests/test_chatglm_kernels.py.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from kbqa.chatglm.quantization import Bits, GroupedLinear, QuantizedLinear, unpack
from kbqa.importing import one_line

__all__ = ["faster", "speed_up"]

Layer = nn.Linear | QuantizedLinear | GroupedLinear
MANY = 64  # rows from which on it pays to restore an int4 matrix block by block
BLOCK = 1024  # rows of a matrix that are restored at a time: they stay in the processor's cache
TALL = 16384  # the same on a GPU: 130 MB of ChatGLM3-6B's

log = logging.getLogger("kbqa.chatglm")


def speed_up(decoder: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the linear layers, one after another, so that hardly more memory is needed than before."""
    tied = getattr(decoder.embedding, "weight", None)
    parents = [module for module in decoder.modules() if any(module.children())]  # no layers: each is to go at once
    for module in parents:
        for name, layer in list(module.named_children()):
            if getattr(layer, "weight", tied) is not tied:  # a tied head would need its matrix twice
                setattr(module, name, faster(layer, dtype))


def faster(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The fast layer with the weights of `layer`, which then may go; `layer` itself where there is none."""
    if not isinstance(layer, Layer):
        return layer
    for kind in _kinds(layer, dtype):
        if _right(kind, _Form.of(layer), layer.weight.device, dtype) and (made := _made(kind, layer)):
            _give_back()
            return made
    return layer


def _give_back() -> None:
    """Free memory to the system. Where the layers before stood, glibc keeps it, in holes that no other matrix fits."""
    with suppress(AttributeError, OSError, TypeError):  # other systems have no such function
        ctypes.CDLL(None).malloc_trim(0)


def _kinds(layer: Layer, dtype: torch.dtype) -> tuple[Callable[[Any], _Fast], ...]:
    """The better one first."""
    if isinstance(layer, nn.Linear):
        return (Reordered,) if dtype == torch.bfloat16 else ()
    return (Compiled4, OnGpu, Int4) if layer.bits == 4 else (Compiled8, OnGpu, TwoDigits, Int8)


def _made(kind: Callable[[Any], _Fast], layer: Layer) -> nn.Module | None:
    """None where the kernel is not there, or not for this shape or device."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that its quantized tensors will go one day: then this is None
            return kind(layer)
    except (RuntimeError, AttributeError, NotImplementedError, ValueError, ImportError, OSError):
        return None


class _Form(NamedTuple):
    """What kernels are compiled for, or choose by."""

    bits: Bits | None
    group: int  # 0: a scale for each row
    bias: bool

    @classmethod
    def of(cls, layer: Layer) -> _Form:
        return cls(getattr(layer, "bits", None), getattr(layer, "group", 0), layer.bias is not None)


@lru_cache
def _right(kind: Any, form: _Form, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel gets a product right, with the largest weights and sums that its integers must bear.

    What is compiled when it is first used is compiled here, before anybody waits for an answer.
    """
    rows, columns = 192, 256
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator)
    weight[:64] = weight[:64].sign()
    linear = nn.Linear(columns, rows, bias=form.bias, dtype=dtype, device=device).requires_grad_(False)
    linear.weight.copy_(weight)
    layer: Layer = linear
    if form.bits:
        layer = GroupedLinear(linear, 4, form.group) if form.group else QuantizedLinear(linear, form.bits)
        layer.fill(linear.weight)
    try:
        made = _made(kind, layer)
        if made is None:
            return False
        for count in (1, 3, 17, MANY, MANY + 1):
            x = torch.randn(count, columns, generator=generator)
            x[0] = x[0].sign()
            x = x.to(device, dtype)
            wanted, got = layer(x).float(), made(x).float()
            if not (got - wanted).abs().max() <= 0.02 * wanted.abs().max():
                return False
    except (RuntimeError, NotImplementedError):  # torch's, of what it has not
        return False
    except Exception as error:  # noqa: BLE001  (compilers have exceptions of their own)
        log.warning("%s does not work on %s, so models take slower code (%s)", kind.__name__, device, one_line(error))
        return False
    return True


@lru_cache
def _compiled() -> Any:
    """The module of our own products; None where Numba is not there, or does not work, which a warning tells of."""
    if sys.platform != "linux" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return None
    if find_spec("numba") is None:
        return None
    try:
        from kbqa.chatglm import compiled

        compiled.try_out()
    except Exception as error:  # noqa: BLE001  (a Numba that does not fit NumPy, LLVM or Python fails in many ways)
        log.warning(
            "Numba does not work here, so models on the CPU take slower code (%s); reinstall it: pip install -U numba",
            one_line(error),
        )
        return None
    return compiled


@lru_cache
def _triton(device: torch.device) -> Any:
    """The same for our products on GPUs, which need Triton."""
    if find_spec("triton") is None:
        return None
    try:
        from kbqa.chatglm import gpu

        gpu.try_out(device)
    except Exception as error:  # noqa: BLE001  (what Triton needs may be missing in as many ways)
        log.warning(
            "Triton does not work on %s, so models of 4 or 8 bits take slower code there (%s)%s",
            device,
            one_line(error),
            "; apt install gcc libc6-dev python3-dev, or what your system calls them" * _lacks_compiler(error),
        )
        return None
    return gpu


def _lacks_compiler(error: Exception) -> bool:
    """Triton compiles what starts its kernels: there is no compiler, or it found no headers and failed."""
    return "C compiler" in str(error) or isinstance(error, subprocess.CalledProcessError)


class _Fast(nn.Module):
    """Made from a layer of one of the kinds that it is for; an exception where it cannot work."""

    rows: int
    columns: int

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.bias: Tensor | None = layer.bias
        self.rows, self.columns = layer.weight.shape if isinstance(layer, nn.Linear) else layer.shape

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("layers of the fast path have no gradients; load the model with exact=True")
        if x.shape[-1] != self.columns:  # kernels would read on, or write, where nothing of it is
            raise RuntimeError(
                f"rows of {x.shape[-1]} numbers cannot be multiplied by a matrix of {self.columns} columns"
            )
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.rows)
        return self._product(x.reshape(-1, self.columns)).to(x.dtype).view(*x.shape[:-1], self.rows)

    def _product(self, rows: Tensor) -> Tensor:
        """(N, columns) to (N, rows), with the bias, in any type; N is 1 or more."""
        raise NotImplementedError


class Reordered(_Fast):
    """bfloat16 on a CPU. One row is multiplied by code of ours, which reads the same reordered matrix, at the speed of
    the memory; several by oneDNN, one and a half times as fast as F.linear."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise NotImplementedError
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.data, 1)
        self.row_product = _row_product(self.weight, layer.weight.data)
        self.addend = torch.zeros(len(layer.weight)) if self.bias is None else self.bias.data.float()

    def _product(self, rows: Tensor) -> Tensor:
        if len(rows) > 1:
            return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        if self.row_product is not None:
            return self.row_product(rows.float().contiguous(), torch.ops.mkldnn.data_ptr(self.weight), self.addend)
        four = rows.expand(4, -1).contiguous()  # four rows take less time than one
        return torch.ops.mkldnn._linear_pointwise(four, self.weight, self.bias, "none", [], "")[:1]


def _row_product(reordered: Tensor, weight: Tensor) -> Callable[[Tensor, int, Tensor], Tensor] | None:
    """None where the matrix was not reordered in the way that our code reads, or it does not run here."""
    compiled = _compiled()
    if compiled is None or len(weight) % compiled.TALL or weight.shape[1] % 2:
        return None
    if torch.ops.mkldnn._nbytes(reordered) != weight.nbytes:
        return None
    memory = (ctypes.c_char * weight.nbytes).from_address(torch.ops.mkldnn.data_ptr(reordered))
    got = torch.frombuffer(memory, dtype=weight.dtype).unflatten(0, (len(weight) // compiled.TALL, -1))
    ends = ((got[at], weight[at * compiled.TALL :][: compiled.TALL]) for at in (0, len(got) - 1))
    known = all(torch.equal(strip, compiled.tall_strips(rows).flatten()) for strip, rows in ends)
    return compiled.bfloat16_product if known else None


class _Compiled(_Fast):
    """Weights of 4 or 8 bits by whole numbers of 16 bits: as fast as the memory gives the weights, on x86 CPUs."""

    bits: Bits

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        if layer.weight.device.type != "cpu":  # before Numba is imported, for which GPUs have no use
            raise NotImplementedError
        compiled = _compiled()
        if compiled is None or self.rows % compiled.STRIP:
            raise NotImplementedError
        self.group, scale, zero, row_scale = _by_group(layer)
        rows = torch.ones(len(scale)) if row_scale is None else row_scale
        self.factor, self.addend = rows, torch.zeros_like(rows) if self.bias is None else self.bias.data.float()
        self.weight = compiled.strips(layer.weight, self.bits, scale, zero)
        self.product = compiled.integer_product

    def _product(self, rows: Tensor) -> Tensor:
        rows = rows.float().contiguous()
        return self.product(rows, self.weight, self.factor, self.addend, self.bits, self.group)


class Compiled4(_Compiled):
    bits = 4


class Compiled8(_Compiled):
    bits = 8


def _by_group(layer: QuantizedLinear | GroupedLinear) -> tuple[int, Tensor, Tensor, Tensor | None]:
    """Columns of a group, scale and zero of each, (rows, groups) bfloat16, and the rows' scale, if they have one."""
    if isinstance(layer, GroupedLinear):
        return layer.group, layer.scale, layer.zero, None
    rows, columns = layer.shape
    group = next((size for size in (256, 128, 64, 32) if columns % size == 0), 0)
    if not group:
        raise NotImplementedError
    scale = torch.ones(rows, columns // group, dtype=torch.bfloat16, device=layer.weight.device)
    return group, scale, torch.zeros_like(scale), layer.scale.float()


class OnGpu(_Fast):
    """Weights of 4 or 8 bits on a CUDA GPU, packed as they were. What comes in keeps its type."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        device, zero = layer.weight.device, getattr(layer, "zero", None)
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":  # which is for tests, and very slow
            raise NotImplementedError
        gpu = _triton(device)
        if gpu is None or (zero is not None and layer.group not in (16, 32, 64, 128)):
            raise NotImplementedError
        self.gpu, self.few, self.several = gpu, 8, 8
        if gpu.dot_has_tensor_cores(device):
            self.few, self.several = 1, 64
        scale, zero = layer.scale.contiguous(), None if zero is None else zero.contiguous()
        self.weight = gpu.Packed(layer.weight.contiguous(), layer.bits, scale, zero, layer.bias)

    def _product(self, rows: Tensor) -> Tensor:
        if len(rows) <= self.few:
            return self.gpu.by_sums(rows, self.weight)
        if len(rows) <= self.several and rows.dtype != torch.float32:
            return self.gpu.by_tiles(rows, self.weight)
        blocks = (self.weight.rows(at, at + TALL) for at in range(0, self.rows, TALL))
        return torch.cat([F.linear(rows, self.gpu.restored(it, rows.dtype), it.bias) for it in blocks], dim=-1)


class TwoDigits(_Fast):
    """8-bit weights by 8-bit integers on x86 CPUs.

    A row that comes in is written as `top / digit * (high + low / (2 * digit))` with whole numbers of -digit..digit, so
    that no outlier in it, or in another row, drowns the rest: 8 bits alone would. The kernel sees high and low as two
    rows and reads the weights once for both.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        if layer.weight.device.type != "cpu":
            raise NotImplementedError
        self.scale = layer.scale.float()
        self.digit = _digit()
        self.packed = _fbgemm(layer.weight)

    def _product(self, rows: Tensor) -> Tensor:
        high, low, top = _digits(rows.float(), self.digit)
        product = _integer_product(high, low, self.packed, self.digit)
        out = product.mul_(top / self.digit).mul_(self.scale)
        if self.bias is not None:
            out += self.bias
        return out


def _digits(rows: Tensor, digit: int) -> tuple[Tensor, Tensor, Tensor]:
    top = rows.abs().amax(dim=-1, keepdim=True).clamp_min_(1e-30)
    scaled = rows * (digit / top)
    high = scaled.round()
    return high, scaled.sub_(high).mul_(2 * digit).round_(), top


def _integer_product(high: Tensor, low: Tensor, packed: object, digit: int) -> Tensor:
    """The kernel fits its own scale to the smallest and largest number that it sees. A last row gives it the two for
    which the scale is 1, and nothing is rounded."""
    span = high.new_zeros(1, high.shape[1])
    span[0, 0], span[0, 1] = -digit, digit + 1
    out = torch.ops.quantized.linear_dynamic(torch.cat([high, low, span]), packed, digit < 127)
    return torch.add(out[: len(high)], out[len(high) : -1], alpha=1 / (2 * digit))


def _fbgemm(weight: Tensor) -> object:
    """Integers for FBGEMM; the scale is 1 for all."""
    ones = torch.ones(len(weight), dtype=torch.float64)
    quantized = torch._make_per_channel_quantized_tensor(weight, ones, torch.zeros(len(weight), dtype=torch.long), 0)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        return torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        torch.backends.quantized.engine = before


@lru_cache
def _digit() -> int:
    """127, or 63 for processors (without VNNI) that add pairs of products in 16 bits, where larger ones overflow."""
    packed = _fbgemm(torch.full((64, 256), 127, dtype=torch.int8))
    whole = torch.full((1, 256), 127.0)
    return 127 if float(_integer_product(whole, whole, packed, 127)[0, 0]) == 127 * 127 * 256 * (1 + 1 / 254) else 63


class Int8(_Fast):
    """8-bit weights elsewhere."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.weight, self.scale = layer.weight, layer.scale.float()
        self.ones = torch.ones_like(layer.scale, dtype=torch.bfloat16)

    def _product(self, rows: Tensor) -> Tensor:
        out = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), self.weight, self.ones) * self.scale
        if self.bias is not None:
            out += self.bias
        return out


class Int4(_Fast):
    """4-bit weights, with a scale for each row or with scale and zero for each group of columns."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.group, scale, zero, self.row_scale = _by_group(layer)
        self.scales = torch.stack([scale, zero], dim=-1).transpose(0, 1).contiguous()  # (groups, rows, 2)
        self.on_cpu = layer.weight.device.type == "cpu"
        self.weight = _int4_cpu(layer.weight) if self.on_cpu else _int4_cuda(layer.weight)

    def _product(self, rows: Tensor) -> Tensor:
        rows = rows.bfloat16()
        if not self.on_cpu:
            out = torch.ops.aten._weight_int4pack_mm(rows, self.weight, self.group, self.scales)
        elif len(rows) >= MANY and _layout_is_known() and self.rows % 64 == 0:
            out = torch.cat([rows @ self._restored(at) for at in range(0, self.rows, BLOCK)], dim=-1)
        else:
            out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, self.group, self.scales)
        if self.row_scale is not None:
            out = out * self.row_scale
        if self.bias is not None:
            out = out + self.bias
        return out

    def _restored(self, at: int) -> Tensor:
        """(columns, up to BLOCK) bfloat16: rows of the matrix from `at` on, standing. A row's scale is left out."""
        q = _unpacked(self.weight[at : at + BLOCK]).view(torch.int8).sub_(8).to(torch.bfloat16)  # (columns, rows)
        if self.row_scale is not None:
            return q
        scale, zero = (it.contiguous() for it in self.scales[:, at : at + BLOCK].unsqueeze(1).unbind(-1))
        return q.unflatten(0, (-1, self.group)).mul_(scale).add_(zero).flatten(0, 1)  # times (groups, 1, rows)


def _int4_cpu(weight: Tensor) -> Tensor:
    """Block by block: the kernel's own packing wants 4 bytes for every weight, and takes four times as long as ours."""
    pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    ours = _layout_is_known() and len(weight) % 64 == 0
    numbers = (unpack(rows).add_(8) for rows in weight.split(BLOCK))
    return torch.cat([_packed(it.view(torch.uint8)) if ours else pack(it.int(), 1) for it in numbers])


def _int4_cuda(weight: Tensor) -> Tensor:
    if torch.cuda.get_device_capability(weight.device) < (8, 0):
        raise NotImplementedError
    return torch.ops.aten._convert_weight_to_int4pack(weight.view(torch.uint8) ^ 0x88, 8)


def _packed(q: Tensor) -> Tensor:
    """The way back from `_unpacked`, but for a matrix that lies: (rows, columns)."""
    blocks = q.unflatten(0, (-1, 64)).transpose(1, 2).contiguous()  # (blocks, columns, 64)
    return (blocks[..., 32:] << 4).bitwise_or_(blocks[..., :32]).view(len(q), -1)


def _unpacked(packed: Tensor) -> Tensor:
    """(rows, columns / 2) as AVX-512 kernels want it, to (columns, rows) in 0..15.

    64 rows lie together; a byte holds one column of row j in its low half and of row j + 32 in its high half.
    """
    columns = 2 * packed.shape[1]
    blocks = packed.view(-1, columns, 32)
    return torch.cat([blocks & 15, blocks >> 4], dim=-1).transpose(0, 1).flatten(1)


@lru_cache
def _layout_is_known() -> bool:
    """Whether this processor's packing is the one that `_unpacked` undoes."""
    q = torch.randint(0, 16, (128, 64), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)
    small = q.to(torch.uint8)
    return torch.equal(_unpacked(packed).T, small) and torch.equal(_packed(small), packed)
