"""Products with weights of 8 or 4 bits on CUDA GPUs, of any generation for which Triton compiles them.

Weights stay as the checkpoint packs them (quantization.py) and are restored in registers, so what is read from memory
is the packed bytes. Products are summed in float32, which a row's scale then multiplies; whole numbers of 8 bits lose
nothing in float16 or bfloat16.

    by_sums   one row that comes in, or a few: multiply and add; meant to be bound by memory alone
    by_tiles  some dozens, for tensor cores: each weight is read once for 16, 32 or 64 rows
    restored  the matrix itself, in the type of what comes in, which pays where many rows share it

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

__all__ = ["TILES", "Packed", "by_sums", "by_tiles", "dot_has_tensor_cores", "restored", "try_out"]

SUMS = {"ROWS": 4, "BYTES": 512}
TILES = {  # by rows that come in: rows of the matrix and columns that a program has at a time, loads under way
    16: {"ROWS": 16, "COLUMNS": 256, "num_stages": 4},
    32: {"ROWS": 16, "COLUMNS": 256, "num_stages": 3},
    64: {"ROWS": 32, "COLUMNS": 128, "num_stages": 4},
}
RESTORE = {"ROWS": 8, "COLUMNS": 512}


class Packed(NamedTuple):
    """A matrix of `bits`, (rows, columns) or (rows, columns / 2) int8, contiguous.

    `scale` is (rows,), or like `zero` (rows, groups), a group being 16 columns, 32, 64 or 128.
    """

    weight: Tensor
    bits: Bits
    scale: Tensor
    zero: Tensor | None
    bias: Tensor | None

    def rows(self, first: int, end: int) -> Packed:
        zero, bias = (None if it is None else it[first:end] for it in (self.zero, self.bias))
        return Packed(self.weight[first:end], self.bits, self.scale[first:end], zero, bias)

    @property
    def columns(self) -> int:
        return self.weight.shape[1] * 8 // self.bits

    @property
    def group(self) -> int:
        """Columns that share a scale; 0 where the whole row does."""
        return 0 if self.zero is None else self.columns // self.scale.shape[1]


def dot_has_tensor_cores(device: torch.device) -> bool:
    """Whether Triton computes products of tiles with them there. Turing has some, which Triton does not use."""
    if device.type != "cuda":  # the interpreter's
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def try_out(device: torch.device) -> None:
    """Compiles and starts a product there; what is missing for that raises one of many kinds of exceptions."""
    weight = torch.ones(16, 32, dtype=torch.int8, device=device)
    scale = torch.ones(16, dtype=torch.float16, device=device)
    got = by_sums(torch.ones(1, 32, dtype=torch.float16, device=device), Packed(weight, 8, scale, None, None))
    if not torch.equal(got, torch.full_like(got, 32)):
        raise ArithmeticError(f"Triton's product of ones is {got.flatten()[0]}, not 32")


def by_sums(x: Tensor, matrix: Packed) -> Tensor:
    """(N, columns) times the matrix that stands, with its bias, in the type of x: (N, rows)."""
    out = x.new_empty(len(x), len(matrix.weight))
    grid = (len(x), triton.cdiv(len(matrix.weight), SUMS["ROWS"]))  # neighbours want the same weights
    return _launched(_sums, grid, x, matrix, out, SUMS)


def by_tiles(x: Tensor, matrix: Packed) -> Tensor:
    """As by_sums, in float16 or bfloat16."""
    out = x.new_empty(len(x), len(matrix.weight))
    tokens = next((each for each in TILES if len(x) <= each), 64)
    grid = (triton.cdiv(len(matrix.weight), TILES[tokens]["ROWS"]), triton.cdiv(len(x), tokens))
    return _launched(_tiles, grid, x, matrix, out, {"TOKENS": tokens, **TILES[tokens]})


def _launched(
    kernel: triton.JITFunction, grid: tuple[int, int], x: Tensor, matrix: Packed, out: Tensor, sizes: dict[str, int]
) -> Tensor:
    weight, bits, scale, zero, bias = matrix
    zero, bias = (x if it is None else it for it in (zero, bias))  # what is not there is not read
    with torch.cuda.device_of(x):
        kernel[grid](
            x.contiguous(), weight, scale, zero, bias, out, len(x), *weight.shape,
            BITS=bits, GROUP=matrix.group, BIAS=matrix.bias is not None, **sizes,
        )  # fmt: skip
    return out


def restored(matrix: Packed, dtype: torch.dtype) -> Tensor:
    """(rows, columns)."""
    weight, bits, scale, zero, _ = matrix
    out = weight.new_empty(len(weight), matrix.columns, dtype=dtype)
    grid = (triton.cdiv(len(weight), RESTORE["ROWS"]), triton.cdiv(matrix.columns, RESTORE["COLUMNS"]))
    with torch.cuda.device_of(weight):
        _restore[grid](
            weight, scale, scale if zero is None else zero, out, *weight.shape,
            BITS=bits, GROUP=matrix.group, **RESTORE,
        )  # fmt: skip
    return out


# --- one row or a few ------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["tokens"])
def _sums(
    x, weight, scale, zero, bias, out, tokens, rows, packed,
    BITS: tl.constexpr, GROUP: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """A program has one token and ROWS rows; `packed` is the bytes of a row.

    What comes in is read in the shape of the weights, by the thread that needs it: no thread waits for another before
    the end. What a group's zero adds is the zero times the sum of what comes in.
    """
    each: tl.constexpr = 8 // BITS
    span: tl.constexpr = (GROUP if GROUP else 16) // each
    token = tl.program_id(0).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    none = tl.zeros((ROWS,), tl.int32)
    sums = tl.zeros((ROWS, BYTES // span), tl.float32)
    for begin in range(0, packed, BYTES):
        byte = begin + tl.arange(0, BYTES)
        there = (row < rows)[:, None] & (byte < packed)[None, :]
        q = tl.load(weight + row[:, None] * packed + byte[None, :], there, 0)
        at = none[:, None] + byte[None, :]
        if BITS == 8:
            given = tl.load(x + token * packed + at, at < packed, 0.0).to(tl.float32)
            products = q.to(tl.float32) * given
        else:
            first, second = _neighbours(x + token * packed * 2, at, packed)
            high, low = _halves(q)
            products = high * first + low * second
            given = first + second
        products = tl.sum(tl.reshape(products, ROWS, BYTES // span, span), 2)
        if GROUP:
            products *= _by_group(scale, row, begin * each, rows, packed * each, GROUP, BYTES * each)
            in_group = tl.sum(tl.reshape(given, ROWS, BYTES // span, span), 2)
            products += in_group * _by_group(zero, row, begin * each, rows, packed * each, GROUP, BYTES * each)
        sums += products
    total = tl.sum(sums, 1)
    if GROUP == 0:
        total *= tl.load(scale + row, row < rows, 0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + row, row < rows, 0.0).to(tl.float32)
    tl.store(out + token * rows + row, total.to(out.dtype.element_ty), row < rows)


@triton.jit
def _neighbours(x, at, pairs):
    """float32, shaped as `at`: the first and the second number of these pairs. Two of 16 bits are read as one of 32."""
    if x.dtype.element_ty.primitive_bitwidth == 16:
        both = tl.load(x.to(tl.pointer_type(tl.int32), bitcast=True) + at, at < pairs, 0)
        first = (both & 0xFFFF).to(tl.int16).to(x.dtype.element_ty, bitcast=True)
        second = (both >> 16).to(tl.int16).to(x.dtype.element_ty, bitcast=True)
    else:
        first, second = tl.load(x + 2 * at, at < pairs, 0.0), tl.load(x + 2 * at + 1, at < pairs, 0.0)
    return first.to(tl.float32), second.to(tl.float32)


@triton.jit
def _halves(q):
    """float32: the whole numbers in the high and in the low half of bytes, -8..7."""
    byte = q.to(tl.int32)
    return _small(((byte >> 4) & 15) ^ 8), _small((byte & 15) ^ 8)


@triton.jit
def _small(number):
    """number - 8 as float32: 2 ** 23 + number is that number in the last bits, which is cheaper than a conversion."""
    return (number | 0x4B000000).to(tl.float32, bitcast=True) - 8388616.0


# --- more, and the matrix itself -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["tokens"])
def _tiles(
    x, weight, scale, zero, bias, out, tokens, rows, packed,
    BITS: tl.constexpr, GROUP: tl.constexpr, BIAS: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program has TOKENS tokens and ROWS rows."""
    columns = packed * (8 // BITS)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    token = (tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    sums = tl.zeros((TOKENS, ROWS), tl.float32)
    for begin in range(0, columns, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        there = (token < tokens)[:, None] & (column < columns)[None, :]
        given = tl.load(x + token[:, None] * columns + column[None, :], there, 0.0)
        weights = _integers(weight, row, begin, rows, packed, BITS, COLUMNS)
        if GROUP:
            weights = _scaled(weights, scale, zero, row, begin, rows, columns, GROUP, COLUMNS)
        sums = tl.dot(given, tl.trans(weights.to(given.dtype)), sums, input_precision="ieee")
    if GROUP == 0:
        sums *= tl.load(scale + row, row < rows, 0.0).to(tl.float32)[None, :]
    if BIAS:
        sums += tl.load(bias + row, row < rows, 0.0).to(tl.float32)[None, :]
    there = (token < tokens)[:, None] & (row < rows)[None, :]
    tl.store(out + token[:, None] * rows + row[None, :], sums.to(out.dtype.element_ty), there)


@triton.jit
def _restore(
    weight, scale, zero, out, rows, packed,
    BITS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program has ROWS rows and COLUMNS columns."""
    columns = packed * (8 // BITS)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    begin = tl.program_id(1) * COLUMNS
    column = begin + tl.arange(0, COLUMNS)
    weights = _integers(weight, row, begin, rows, packed, BITS, COLUMNS)
    if GROUP:
        weights = _scaled(weights, scale, zero, row, begin, rows, columns, GROUP, COLUMNS)
    else:
        weights = weights.to(tl.float32) * tl.load(scale + row, row < rows, 0.0).to(tl.float32)[:, None]
    there = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(out + row[:, None] * columns + column[None, :], weights.to(out.dtype.element_ty), there)


@triton.jit
def _integers(weight, row, begin, rows, packed, BITS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) int8: the weights without scale and zero."""
    each: tl.constexpr = 8 // BITS
    byte = begin // each + tl.arange(0, COLUMNS // each)
    there = (row < rows)[:, None] & (byte < packed)[None, :]
    q = tl.load(weight + row[:, None] * packed + byte[None, :], there, 0)
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
