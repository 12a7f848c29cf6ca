"""Ruling lines to tables: which cells the lines on a page enclose, and which of them are merged. Pure geometry."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Grid", "Ruling", "find_grids", "header_rows", "merge_rulings", "spans"]

_SAME = 2.5  # points within which two lines lie on each other
_MEET = 4.0  # points by which a line may miss the one it should meet
_MAX_CELLS = 20_000


@dataclass(frozen=True, slots=True)
class Ruling:
    """A horizontal (`across`) or vertical line: `at` is its y or x, from `start` to `end` along the other axis."""

    across: bool
    at: float
    start: float
    end: float

    @staticmethod
    def of(x0: float, top: float, x1: float, bottom: float) -> Ruling:
        """The line that a thin box stands for."""
        if bottom - top <= x1 - x0:
            return Ruling(True, (top + bottom) / 2, x0, x1)
        return Ruling(False, (x0 + x1) / 2, top, bottom)


@dataclass(frozen=True, slots=True)
class Grid:
    """A ruled table. `cells[row][column]` is the number of the cell there; merged ones share theirs."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    cells: tuple[tuple[int, ...], ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.xs[0], self.ys[0], self.xs[-1], self.ys[-1]

    def cell_at(self, x: float, y: float) -> int | None:
        """The number of the cell that holds the point; None outside."""
        if not (self.xs[0] <= x <= self.xs[-1] and self.ys[0] <= y <= self.ys[-1]):
            return None
        column = min(bisect_right(self.xs, x) - 1, len(self.xs) - 2)
        row = min(bisect_right(self.ys, y) - 1, len(self.ys) - 2)
        return self.cells[row][column]


def merge_rulings(rulings: Iterable[Ruling]) -> list[Ruling]:
    """Pieces of one line joined: borders are often drawn cell by cell, twice, or as two sides of a thin box."""
    merged: list[Ruling] = []
    for across in (True, False):
        lines = sorted((ruling for ruling in rulings if ruling.across == across), key=lambda ruling: ruling.at)
        for group in _close(lines):
            at = sum(line.at for line in group) / len(group)
            start, end = None, 0.0
            for line in sorted(group, key=lambda line: line.start):
                if start is None:
                    start, end = line.start, line.end
                elif line.start <= end + _MEET:
                    end = max(end, line.end)
                else:
                    merged.append(Ruling(across, at, start, end))
                    start, end = line.start, line.end
            if start is not None:
                merged.append(Ruling(across, at, start, end))
    return merged


def _close(lines: Sequence[Ruling]) -> Iterable[list[Ruling]]:
    group: list[Ruling] = []
    for line in lines:
        if group and line.at - group[0].at > _SAME:
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def find_grids(rulings: Sequence[Ruling]) -> list[Grid]:
    """Tables with at least two cells, top down. A frame around text is not a table."""
    lines = [ruling for ruling in rulings if ruling.end - ruling.start > _MEET]
    grids = [grid for part in _connected(lines) if (grid := _grid(part))]
    return sorted(grids, key=lambda grid: (grid.ys[0], grid.xs[0]))


def _connected(lines: Sequence[Ruling]) -> Iterable[list[Ruling]]:
    """Lines grouped by who meets whom."""
    groups = _Groups(len(lines))
    upright = [(index, line) for index, line in enumerate(lines) if not line.across]
    for index, line in enumerate(lines):
        if line.across:
            for other, vertical in upright:
                if (
                    line.start - _MEET <= vertical.at <= line.end + _MEET
                    and vertical.start - _MEET <= line.at <= vertical.end + _MEET
                ):
                    groups.join(index, other)
    parts: defaultdict[int, list[Ruling]] = defaultdict(list)
    for index, line in enumerate(lines):
        parts[groups.root(index)].append(line)
    return parts.values()


class _Groups:
    """Disjoint sets of the numbers below `count`."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, node: int) -> int:
        while self._parent[node] != node:
            self._parent[node] = node = self._parent[self._parent[node]]
        return node

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low


def _grid(lines: Sequence[Ruling]) -> Grid | None:
    ys = _positions(line.at for line in lines if line.across)
    xs = _positions(line.at for line in lines if not line.across)
    if len(xs) > 1 and len(ys) > 2:  # tables are often drawn without their left and right border
        xs = _with_ends(xs, [line for line in lines if line.across])
    columns, rows = len(xs) - 1, len(ys) - 1
    if not (columns > 0 and rows > 0 and 2 <= columns * rows <= _MAX_CELLS):
        return None
    upright = [[line for line in lines if not line.across and abs(line.at - x) <= _SAME] for x in xs]
    across = [[line for line in lines if line.across and abs(line.at - y) <= _SAME] for y in ys]
    groups = _Groups(columns * rows)
    for row in range(rows):
        for column in range(columns):
            here = row * columns + column
            if column + 1 < columns and not _covered(upright[column + 1], ys[row], ys[row + 1]):
                groups.join(here, here + 1)
            if row + 1 < rows and not _covered(across[row + 1], xs[column], xs[column + 1]):
                groups.join(here, here + columns)
    number = [groups.root(cell) for cell in range(columns * rows)]
    if len(set(number)) < 2:
        return None
    cells = tuple(tuple(number[row * columns : (row + 1) * columns]) for row in range(rows))
    return Grid(tuple(xs), tuple(ys), cells)


def _positions(values: Iterable[float]) -> list[float]:
    """Sorted, those within _SAME of each other made one."""
    positions: list[float] = []
    for value in sorted(values):
        if not positions or value - positions[-1] > _SAME:
            positions.append(value)
    return positions


def _with_ends(positions: list[float], crossing: Sequence[Ruling]) -> list[float]:
    """`positions` and the common ends of the lines that cross them, where those reach well beyond."""
    start, end = median(line.start for line in crossing), median(line.end for line in crossing)
    before = [start] if positions[0] - start > 4 * _MEET else []
    after = [end] if end - positions[-1] > 4 * _MEET else []
    return [*before, *positions, *after]


def _covered(lines: Sequence[Ruling], start: float, end: float) -> bool:
    """Whether one of the lines runs along most of the border from `start` to `end`."""
    return any(min(line.end, end) - max(line.start, start) > 0.6 * (end - start) for line in lines)


def spans(grid: Grid) -> dict[int, tuple[int, int, int, int]]:
    """Of each cell: first row, first column, rows, columns."""
    found: dict[int, tuple[int, int, int, int]] = {}
    for row, line in enumerate(grid.cells):
        for column, cell in enumerate(line):
            if cell not in found:
                found[cell] = (row, column, 1, 1)
            else:
                first_row, first_column, height, width = found[cell]
                found[cell] = (
                    first_row,
                    first_column,
                    max(height, row - first_row + 1),
                    max(width, column - first_column + 1),
                )
    return found


def header_rows(grid: Grid) -> int:
    """Rows that the cells of the first row reach down to, with one more under cells that span columns."""
    placed = spans(grid)
    depth = 1
    rows = len(grid.cells)
    row = 0
    while row < depth < rows:
        for cell in dict.fromkeys(grid.cells[row]):
            first, _, height, width = placed[cell]
            if first == row and height > 1:
                depth = max(depth, row + height)
            if first == row and width > 1 and _subdivided(grid, cell, placed):
                depth = max(depth, row + height + 1)
        row += 1
    return depth if depth < rows else 1


def _subdivided(grid: Grid, cell: int, placed: dict[int, tuple[int, int, int, int]]) -> bool:
    row, column, height, width = placed[cell]
    below = row + height
    return below < len(grid.cells) and len(set(grid.cells[below][column : column + width])) > 1
