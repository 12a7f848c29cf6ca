"""Products of a matrix with few rows, written here and compiled by Numba when they are first wanted (1 second each).

They run on torch's own threads, those of OpenMP: others would wait for the same cores. A process that is forked after
a product has none of them, and waits for ever, as it does for torch's own products. Importing this module fails
(ImportError, OSError, AttributeError) where Numba is not installed or the system is not Linux with GNU's OpenMP.
Products take addresses and look at no shape: kernels.py, which calls them, does.

Two layouts. `integer_product` takes 16 rows of a matrix as a strip; its lines of 64 bytes hold 4 bytes of each row, 8
or 4 columns, each number moved up to 0 and above. `bfloat16_product` takes 64 rows as a strip, with pairs of columns
side by side, as oneDNN has them.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import suppress
from functools import lru_cache
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from numba.core.errors import NumbaError
from torch import Tensor

from kbqa.chatglm import lanes
from kbqa.chatglm.lanes import FLOAT, WORD, constant, everywhere, loading

__all__ = ["STRIP", "TALL", "bfloat16_product", "integer_product", "strips", "tall_strips", "try_out"]

STRIP, TALL = 16, 64  # rows of a matrix
BLOCK = 1024  # rows of a matrix that are rearranged at a time
TOGETHER = 4  # rows of what comes in that share the work of taking weights apart
AHEAD = 4096  # bytes

_openmp = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))  # with the one that it is bound to
_parallel, _barrier, _thread, _threads = (
    getattr(_openmp, name) for name in ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")
)
_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
_parallel.restype = _barrier.restype = None
for _function in (_barrier, _thread, _threads):
    _function.argtypes = []


def _run(kernel: Any, *numbers: int) -> None:
    """On each thread, with the numbers as its argument. Other Python threads may go on meanwhile."""
    arguments = (ctypes.c_int64 * len(numbers))(*numbers)
    _parallel(kernel.address, ctypes.addressof(arguments), torch.get_num_threads(), 0)


def _compiled(kernel: Any) -> Any:
    try:
        return cfunc("void(CPointer(int64))")(kernel)
    except NumbaError as error:
        raise NotImplementedError(f"it cannot compile: {str(error).partition(chr(10))[0]}") from error


@njit
def _mine(count: int) -> Any:
    """What this thread does of `count`."""
    return range(count * _thread() // _threads(), count * (_thread() + 1) // _threads())


def try_out() -> None:
    """An exception of whatever kind where nothing can be compiled, or what was computes something else."""
    load = loading(FLOAT, 1)

    def kernel(a: Any) -> None:
        for strip in _mine(1):
            there = a[0] + strip * 64
            lanes.store(there, 64, lanes.fma(load(there, 0), load(there, 0), load(there, 0)))

    numbers = torch.arange(16, dtype=torch.float32)
    wanted = numbers * numbers + numbers
    _run(_compiled(kernel), numbers.data_ptr())
    if not torch.equal(numbers, wanted):
        raise RuntimeError("what it compiles computes something else")


# --- 4 and 8 bits ----------------------------------------------------------------------------------------------------

# Columns of a line in the order in which they come to stand in halves of words, shifted by 0, 4, 8, 12 or by 0, 8.
ORDER = {4: (1, 5, 0, 4, 3, 7, 2, 6), 8: (0, 2, 1, 3)}
MASK = {4: 0x000F000F, 8: 0x00FF00FF}
HALF = {4: 8, 8: 128}


def strips(weight: Tensor, number: int, scale: Tensor, zero: Tensor) -> Tensor:
    """(rows, bytes) int8 of numbers of 4 or 8 bits, packed as published, with (rows, groups) bfloat16, to
    (strips, groups, lines, 16) int32. The first line of a group is its scales, in the lower halves, and zeros."""
    up = {4: 0x88888888, 8: 0x80808080}[number] - (1 << 32)  # each by HALF
    groups, lines = scale.shape[1], weight.shape[1] // 4 // scale.shape[1]
    made = _in_huge_pages(len(weight) // STRIP, groups, 1 + lines, STRIP)
    parts = (it.split(BLOCK) for it in (weight.view(torch.int32), scale, zero))
    for strips, words, *both in zip(made.split(BLOCK // STRIP), *parts, strict=True):
        first = torch.stack(both, dim=-1).view(torch.int32)  # (rows, groups, 1)
        full = torch.cat([first, words.bitwise_xor(up).unflatten(1, (groups, lines))], dim=-1)
        strips.copy_(full.unflatten(0, (-1, STRIP)).permute(0, 2, 3, 1))
    return made


def _in_huge_pages(*shape: int) -> Tensor:
    """int32 of that shape, for which the processor looks up fewer addresses: up to a sixth faster to read."""
    memory = mmap(-1, 4 * math.prod(shape), MAP_PRIVATE | MAP_ANONYMOUS)
    with suppress(OSError):  # the system may have none
        memory.madvise(MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.int32).view(shape)


def integer_product(x: Tensor, weight: Tensor, factor: Tensor, bias: Tensor, number: int, group: int) -> Tensor:
    """(N, columns) float32 to (N, rows) float32: x @ ((q * scale + zero) * factor).T + bias, scale and zero by group.

    What comes in is rounded to 16 bits, each row by its largest number. From there on the sum of a group is exact: it
    has 32 bits, which is enough for 256 columns.
    """
    count, columns = x.shape
    out = x.new_empty(count, len(factor))
    rounded = torch.empty(count * _pitch(columns, group), dtype=torch.uint8)
    addresses = [it.data_ptr() for it in (x, weight, factor, bias, out, rounded)]
    _run(_integer_kernel(number), *addresses, count, len(factor) // STRIP, columns, group)
    return out


def _pitch(columns: int, group: int) -> int:
    """Bytes of a rounded row: its columns in 16 bits, in 32 bits each group's sum, and what 1 of them stands for."""
    return 2 * columns + 4 * (columns // group) + 4


@lru_cache
def _integer_kernel(number: int) -> Any:
    rounding, single, several = _rounding(number), _strip_product(number, 1), _strip_product(number, TOGETHER)

    def kernel(a: Any) -> None:
        x, matrix, factor, bias, out, rounded = a[0], a[1], a[2], a[3], a[4], a[5]
        count, strips, columns, group = a[6], a[7], a[8], a[9]
        groups, wide = columns // group, strips * 64
        size = columns * 2 * number + groups * 64
        pitch = 2 * columns + 4 * groups + 4
        for row in range(_thread(), count, _threads()):
            rounding(x + row * columns * 4, columns, group, rounded + row * pitch)
        _barrier()
        for strip in _mine(strips):
            weight = matrix + strip * size
            end = (factor + strip * 64, bias + strip * 64)
            if count < TOGETHER:
                for row in range(count):
                    single(out + row * wide + strip * 64, wide, weight, end, rounded + row * pitch, columns, group)
            else:
                for row in range(0, count, TOGETHER):
                    first = min(row, count - TOGETHER)  # the last ones may be computed twice
                    several(out + first * wide + strip * 64, wide, weight, end, rounded + first * pitch, columns, group)

    return _compiled(kernel)


def _rounding(number: int) -> Any:
    order, line = ORDER[number], len(ORDER[number])

    @njit
    def rounding(x: int, columns: int, group: int, rounded: int) -> None:
        groups = columns // group
        row, patterns, digits = lanes.floats_at(x), lanes.words_at(x), lanes.shorts_at(rounded)
        sums = lanes.floats_at(rounded + 2 * columns)
        largest = 0  # as bits, by which floats without a sign are ordered as their values are
        for at in range(columns):
            largest = max(largest, patterns[at] & 0x7FFFFFFF)
        top = lanes.as_float(largest)
        if largest >= 0x7F800000:  # infinite or not a number: so is all that comes out
            top = np.float32(np.nan)
        factor = np.float32(32767) / max(top, np.float32(1e-30))
        for index in range(groups):
            total = 0
            for at in range(index * group, (index + 1) * group, line):
                for place in range(line):
                    digit = math.floor(row[at + order[place]] * factor + np.float32(0.5))
                    digits[at + place] = digit
                    total += digit
            sums[index] = total
        sums[groups] = top / np.float32(32767)

    return rounding


def _strip_product(number: int, rows: int) -> Any:
    words, numbers = everywhere(WORD, rows), everywhere(FLOAT, rows)
    load, load_floats = loading(WORD, 1), loading(FLOAT, 1)
    no_words, no_floats, down = constant(WORD, rows, 0), constant(FLOAT, rows, 0), constant(FLOAT, 1, -HALF[number])
    line, mask = len(ORDER[number]), MASK[number]

    @njit
    def product(out: int, wide: int, weight: int, end: Any, rounded: int, columns: int, group: int) -> None:
        groups = columns // group
        pitch = 2 * columns + 4 * groups + 4
        digits, sums = rounded, rounded + 2 * columns
        total = no_floats()
        for _ in range(groups):
            exact, both = no_words(), load(weight, 0)
            weight += 64
            for _ in range(group // line):
                if rows > 1:  # with one, the processor reads ahead well enough by itself
                    lanes.prefetch(weight + AHEAD)
                packed = load(weight, 0)
                for pair in range(line // 2):
                    exact = lanes.dot(exact, lanes.bits(packed, pair * number, mask), words(digits + 4 * pair, pitch))
                weight += 64
                digits += 2 * line
            scale, zero = lanes.low(both), lanes.high(both)
            total = lanes.fma(lanes.whole(exact), scale, total)
            total = lanes.fma(numbers(sums, pitch), lanes.fma(down(), scale, zero), total)
            sums += 4
        factor, bias = end
        lanes.store(
            out,
            wide,
            lanes.fma(lanes.multiply(total, numbers(sums, pitch)), load_floats(factor, 0), load_floats(bias, 0)),
        )

    return product


# --- bfloat16 --------------------------------------------------------------------------------------------------------


def tall_strips(weight: Tensor) -> Tensor:
    """(rows, columns) to (strips, columns / 2, 64, 2)."""
    return weight.unflatten(0, (-1, TALL)).unflatten(-1, (-1, 2)).transpose(1, 2).contiguous()


def bfloat16_product(x: Tensor, weight: int, bias: Tensor) -> Tensor:
    """(1, columns) float32 to (1, rows) float32; `weight` is the address of tall strips of bfloat16."""
    out = x.new_empty(1, len(bias))
    _run(_bfloat16_kernel(), x.data_ptr(), weight, bias.data_ptr(), out.data_ptr(), len(bias) // TALL, x.shape[1])
    return out


@lru_cache
def _bfloat16_kernel() -> Any:
    number, load, load_floats = everywhere(FLOAT, 1), loading(WORD, 4), loading(FLOAT, 4)

    def kernel(a: Any) -> None:
        x, matrix, bias, out, strips, columns = a[0], a[1], a[2], a[3], a[4], a[5]
        for strip in _mine(strips):
            weight, at = matrix + strip * columns * 128, strip * 256
            total = load_floats(bias + at, 64)
            for pair in range(columns // 2):
                words = load(weight, 64)  # 64 rows of the matrix, two columns of each
                total = lanes.fma(lanes.low(words), number(x + 8 * pair, 0), total)
                total = lanes.fma(lanes.high(words), number(x + 8 * pair + 4, 0), total)
                weight += 256
            lanes.store(out + at, 64, total)

    return _compiled(kernel)
