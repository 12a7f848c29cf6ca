"""Tables drawn with lines between their rows but none between their columns. Pure geometry.

The columns show in the white that runs down between the cells. There the missing lines are put, so that the table
becomes a ruled one like any other, in which cells may have several lines of text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from kbqa.readers.glyphs import Segment
from kbqa.readers.layout import merged_intervals, rows_of
from kbqa.readers.rulings import Ruling

__all__ = ["missing_rulings"]

_SAME = 4.0  # points by which the ends of the lines may differ
_MIN_LINES = 4  # a header and two rows; with a line above and below the header alone, rows are told by their text
_MAX_LINES = 500
_MIN_WIDTH = 100.0  # points
_MAX_HEIGHT = 200.0  # of a row


def missing_rulings(rulings: Sequence[Ruling], segments: Sequence[Segment]) -> list[Ruling]:
    """The upright lines that the tables on a page lack."""
    found: list[Ruling] = []
    for lines in _stacks(rulings):
        top, bottom, left, right = lines[0].at, lines[-1].at, lines[0].start, lines[0].end
        crossed = any(
            not line.across and left - _SAME < line.at < right + _SAME and line.start < bottom and line.end > top
            for line in rulings
        )
        if not crossed and (gutters := _gutters(lines, segments)):
            found += (Ruling(False, x, top, bottom) for x in (left, *gutters, right))
    return found


def _stacks(rulings: Sequence[Ruling]) -> Iterator[list[Ruling]]:
    """Lines across, below each other and equally long."""
    across = [line for line in rulings if line.across and line.end - line.start > _MIN_WIDTH]
    if len(across) > _MAX_LINES:
        return  # a drawing
    alike: defaultdict[tuple[int, int], list[Ruling]] = defaultdict(list)
    for line in across:
        alike[round(line.start / _SAME), round(line.end / _SAME)].append(line)
    for lines in alike.values():
        stack: list[Ruling] = []
        for line in sorted(lines, key=lambda line: line.at):
            if stack and line.at - stack[-1].at > _MAX_HEIGHT:
                if len(stack) >= _MIN_LINES:
                    yield stack
                stack = []
            stack.append(line)
        if len(stack) >= _MIN_LINES:
            yield stack


def _gutters(lines: Sequence[Ruling], segments: Sequence[Segment]) -> list[float]:
    """Where the white between the columns is; empty if these are no rows of a table."""
    left, right = lines[0].start - _SAME, lines[0].end + _SAME
    rows = [
        [segment for segment in segments if upper.at < segment.middle < lower.at and left < segment.x0 < right]
        for upper, lower in pairwise(lines)
    ]
    columns = merged_intervals([(segment.x0, segment.x1) for row in rows for segment in row])
    if len(columns) < 2 or not all(rows):
        return []
    for row in rows:
        labels = [segment for segment in row if segment.x1 <= columns[0][1]]
        cells = sum(any(start <= segment.x0 < end for segment in row) for start, end in columns)
        if len(rows_of(labels)) > 1 or cells < 2:  # several rows without a line between them, or a line of prose
            return []
    return [(one[1] + other[0]) / 2 for one, other in pairwise(columns)]
