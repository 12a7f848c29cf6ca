"""Sixteen numbers at a time, for code that Numba compiles: what its own types cannot say.

A value of the type `Rows` is some vectors of sixteen 32-bit numbers, one vector for each row of what comes in. Where a
value of one row meets one of several, it counts for all of them. LLVM makes of each operation what the processor has.

Addresses are plain integers, and nothing is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

__all__ = [
    "FLOAT", "WORD", "as_float", "bits", "constant", "dot", "everywhere", "floats_at", "fma", "high", "loading", "low",
    "multiply", "prefetch", "shorts_at", "store", "whole", "words_at",
]  # fmt: skip

SHORT, WORD, FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
WORDS, FLOATS = ir.VectorType(WORD, 16), ir.VectorType(FLOAT, 16)
HALVES, PRODUCTS = ir.VectorType(SHORT, 32), ir.VectorType(WORD, 32)


class Rows(types.Type):
    def __init__(self, vector: ir.VectorType, count: int) -> None:
        super().__init__(f"{count} rows of {vector}")
        self.vector, self.count = vector, count


@register_model(Rows)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Rows) -> None:
        super().__init__(manager, kind, ir.ArrayType(kind.vector, kind.count))


def _operation(function: Callable[..., Any]) -> Any:
    return intrinsic(function)


def _each(builder: ir.IRBuilder, kind: Rows, compute: Callable[..., Any], *values: Any) -> Any:
    """What `compute(row, ...)` makes of the values' vectors of each row; scalars are passed as they are."""
    result = ir.Constant(ir.ArrayType(kind.vector, kind.count), ir.Undefined)
    for row in range(kind.count):
        taken = [
            builder.extract_value(it, row if it.type.count > 1 else 0) if isinstance(it.type, ir.ArrayType) else it
            for it in values
        ]
        result = builder.insert_value(result, compute(row, *taken), row)
    return result


def _of_rows(vector: ir.VectorType) -> Callable[[Callable[..., Any]], Any]:
    """An operation that Numba's code may call, from what it does with one row."""

    def wrapped(compute: Callable[..., Any]) -> Any:
        @_operation
        @wraps(compute)  # Numba looks at the signature
        def operation(context: Any, *given: Any) -> Any:
            kind = Rows(vector, max(it.count for it in given if isinstance(it, Rows)))
            taken = [it if isinstance(it, Rows) else types.int32 for it in given]

            def build(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
                return _each(builder, kind, lambda row, *each: compute(builder, *each), *values)

            return kind(*taken), build

        return operation

    return wrapped


def _all(builder: ir.IRBuilder, value: Any) -> Any:
    """A vector of one number."""
    vector = ir.VectorType(value.type, 16)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(WORD, 0))
    return builder.shuffle_vector(first, first, ir.Constant(WORDS, [0] * 16))


def _words(value: int) -> Any:
    return ir.Constant(WORDS, [value] * 16)


# --- numbers ---------------------------------------------------------------------------------------------------------


@_of_rows(FLOATS)
def multiply(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    return builder.fmul(x, y)


@_of_rows(FLOATS)
def fma(builder: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x * y + z"""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32"), [x, y, z])


@_of_rows(WORDS)
def dot(builder: ir.IRBuilder, total: Any, x: Any, y: Any) -> Any:
    """total + x[0] * y[0] + x[1] * y[1], where a word is two signed numbers of 16 bits: one instruction on x86."""
    wide = [builder.sext(builder.bitcast(it, HALVES), PRODUCTS) for it in (x, y)]
    products = builder.mul(*wide)
    pair = [
        builder.shuffle_vector(products, products, ir.Constant(WORDS, list(range(first, 32, 2)))) for first in (0, 1)
    ]
    return builder.add(total, builder.add(*pair))


@_of_rows(WORDS)
def bits(builder: ir.IRBuilder, value: Any, shift: Any, mask: Any) -> Any:
    return builder.and_(builder.lshr(value, _all(builder, shift)), _all(builder, mask))


@_of_rows(FLOATS)
def whole(builder: ir.IRBuilder, value: Any) -> Any:
    """Words as floats of the same value."""
    return builder.sitofp(value, FLOATS)


@_of_rows(FLOATS)
def low(builder: ir.IRBuilder, value: Any) -> Any:
    """The bfloat16 in the lower half of each word."""
    return builder.bitcast(builder.shl(value, _words(16)), FLOATS)


@_of_rows(FLOATS)
def high(builder: ir.IRBuilder, value: Any) -> Any:
    """The bfloat16 in the upper half of each word."""
    return builder.bitcast(builder.and_(value, _words(0xFFFF0000)), FLOATS)


@_operation
def as_float(context: Any, pattern: Any) -> Any:
    """The one float with these 32 bits."""
    return types.float32(types.int32), lambda target, builder, signature, values: builder.bitcast(values[0], FLOAT)


@lru_cache
def constant(element: Any, count: int, value: float) -> Any:
    """An operation without arguments: `count` rows of one number."""
    kind = Rows(ir.VectorType(element, 16), count)

    @_operation
    def operation(context: Any) -> Any:
        return kind(), lambda target, builder, signature, values: _each(
            builder, kind, lambda row: ir.Constant(kind.vector, [value] * 16)
        )

    return operation


# --- memory ----------------------------------------------------------------------------------------------------------


def _at(builder: ir.IRBuilder, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _row_at(builder: ir.IRBuilder, place: Any, row: int, kind: Any) -> Any:
    address, stride = place
    return _at(builder, builder.add(address, builder.mul(stride, ir.Constant(stride.type, row))), kind)


def _nothing() -> Any:
    return ir.Constant(ir.IntType(8).as_pointer(), None)


def _reading(element: Any, count: int, read: Callable[[ir.IRBuilder, Any, int, Rows], Any]) -> Any:
    """An operation (address, stride): each row is what `read` takes from its address, `stride` bytes apart."""
    kind = Rows(ir.VectorType(element, 16), count)

    @_operation
    def operation(context: Any, address: Any, stride: Any) -> Any:
        def build(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            return _each(builder, kind, lambda row: read(builder, values, row, kind))

        return kind(types.int64, types.int64), build

    return operation


@lru_cache
def everywhere(element: Any, count: int) -> Any:
    """An operation (address, stride): each row is filled with the one number at its address, `stride` bytes apart."""

    def filled(builder: ir.IRBuilder, place: Any, row: int, kind: Rows) -> Any:
        return _all(builder, builder.load(_row_at(builder, place, row, element), align=4))

    return _reading(element, count, filled)


@lru_cache
def loading(element: Any, count: int) -> Any:
    """An operation (address, stride): each row is the sixteen numbers at its address, `stride` bytes apart."""

    def loaded(builder: ir.IRBuilder, place: Any, row: int, kind: Rows) -> Any:
        return builder.load(_row_at(builder, place, row, kind.vector), align=4)

    return _reading(element, count, loaded)


@_operation
def store(context: Any, address: Any, stride: Any, value: Any) -> Any:
    """Each row to its address, `stride` bytes apart."""

    def build(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        *place, rows = values
        for row in range(value.count):
            builder.store(builder.extract_value(rows, row), _row_at(builder, place, row, value.vector), align=4)
        return _nothing()

    return types.none(types.int64, types.int64, value), build


@_operation
def prefetch(context: Any, address: Any) -> Any:
    """Fetches the line of 64 bytes there into the cache; an address where nothing is does no harm."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])

    def build(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read_often_data = [ir.Constant(WORD, it) for it in (0, 3, 1)]
        builder.call(function, [builder.inttoptr(values[0], byte), *read_often_data])
        return _nothing()

    return types.none(types.int64), build


def _pointer(element: Any, named: Any) -> Any:
    """An operation (address): a pointer, to be used like an array."""

    @_operation
    def operation(context: Any, address: Any) -> Any:
        return types.CPointer(named)(types.int64), lambda target, builder, signature, values: _at(
            builder, values[0], element
        )

    return operation


floats_at, words_at, shorts_at = (
    _pointer(*it) for it in ((FLOAT, types.float32), (WORD, types.int32), (SHORT, types.int16))
)
