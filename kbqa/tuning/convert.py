"""Files of questions and answers, of whatever kind, to one file of rows to train on, and one to measure with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbqa.tuning.checks import without_duplicates
from kbqa.tuning.data import Row
from kbqa.tuning.tables import Dropped, Named, Read, read_table

__all__ = ["Converted", "convert"]


@dataclass(frozen=True, slots=True)
class Converted:
    """`files` are (path, what it held); `repeated` is what stands elsewhere already."""

    rows: Sequence[Row]
    files: Sequence[tuple[Path, Read]]
    repeated: Sequence[Dropped]

    def as_json(self) -> dict[str, Any]:
        return {
            "files": [
                {
                    "path": str(path),
                    "rows": len(read.rows),
                    "dropped": [{"where": it.where, "reason": it.reason} for it in read.dropped],
                    "warnings": list(read.warnings),
                }
                for path, read in self.files
            ],
            "duplicates": [{"where": it.where, "reason": it.reason} for it in self.repeated],
        }


def convert(
    paths: Sequence[Path], named: Named | None = None, *, unanswered: bool = False, keep_duplicates: bool = False
) -> Converted:
    """The rows of all files in their order, each once unless `keep_duplicates`.

    With `unanswered` also questions without an answer, unless one stands elsewhere. ConfigError for a file that holds
    no row.
    """
    files = [(path, read_table(path, named, unanswered)) for path in paths]
    placed = [(row, _place(path, place, paths)) for path, it in files for row, place in _pairs(it)]
    answers = {(row.prompt, row.history): place for row, place in placed if row.response}
    needless = [
        (place, answers[row.prompt, row.history])
        for row, place in placed
        if not row.response and (row.prompt, row.history) in answers
    ]
    placed = [(row, place) for row, place in placed if row.response or (row.prompt, row.history) not in answers]
    rows = [row for row, _ in placed]
    repeated = [*_repeated(placed), *(Dropped(place, f"its answer stands in {other}") for place, other in needless)]
    return Converted(rows if keep_duplicates else without_duplicates(rows), files, repeated)


def _pairs(read: Read) -> list[tuple[Row, str]]:
    return list(zip(read.rows, read.places, strict=True))


def _place(path: Path, place: str, paths: Sequence[Path]) -> str:
    return place if len(paths) == 1 else f"{path.name}, {place}"


def _repeated(placed: Sequence[tuple[Row, str]]) -> list[Dropped]:
    first: dict[Any, str] = {}
    said: Counter[Any] = Counter()
    found = []
    for row, place in placed:
        key = (row.prompt, row.response, row.history)
        said[key] += 1
        if said[key] > 1:
            found.append(Dropped(place, f"the same as {first[key]}"))
        first.setdefault(key, place)
    return found
