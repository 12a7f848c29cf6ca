"""Conditions on what is known of a passage, as Dify words them, and their values: text, numbers and times.

Text is compared without regard to case, width and traditional characters. What a document does not tell is empty: it
fulfils `empty`, `is not`, `not contains`, `not in` and `≠`, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from kbqa.analyzer import fold
from kbqa.server.errors import BadRequest

if TYPE_CHECKING:
    from kbqa.store import Store, StoredDocument
    from kbqa.types import Chunk

__all__ = ["FIELDS", "OPERATORS", "Condition", "Conditions", "Value", "metadata_of"]

Value = str | int | float | bool | None  # of a field

ALIASES = {"!=": "≠", "==": "=", ">=": "≥", "<=": "≤", "null": "empty", "not null": "not empty"}

_TEXT: Mapping[str, Callable[[str, str], bool]] = {
    "contains": lambda it, given: given in it,
    "start with": str.startswith,
    "end with": str.endswith,
    "is": str.__eq__,
}
_NUMBER: Mapping[str, Callable[[float, float], bool]] = {
    "=": float.__eq__,
    ">": float.__gt__,
    "<": float.__lt__,
    "≥": float.__ge__,
    "≤": float.__le__,
}
_NOT = {"not contains": "contains", "is not": "is", "not in": "in", "not empty": "empty", "≠": "="}
OPERATORS = (*_TEXT, *_NUMBER, "in", "empty", "before", "after", *_NOT)


@dataclass(frozen=True, slots=True)
class Condition:
    """BadRequest when it cannot be looked for. One of several `names` is enough; of those with a not, all must hold."""

    names: tuple[str, ...]
    operator: str
    value: Any = None
    _holds: Callable[[Value], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        operator = ALIASES.get(self.operator.strip().lower(), self.operator.strip().lower())
        if operator not in OPERATORS:
            known = ", ".join(OPERATORS)
            raise BadRequest(f"comparison_operator is {self.operator!r}; there are: {known}")
        if not self.names:
            raise BadRequest("a condition names no field")
        object.__setattr__(self, "operator", operator)
        object.__setattr__(self, "_holds", _test(_NOT.get(operator, operator), self.value, " or ".join(self.names)))

    def holds(self, known: Mapping[str, Value]) -> bool:
        found = any(self._holds(known.get(name)) for name in self.names)
        return found != (self.operator in _NOT)


@dataclass(frozen=True, slots=True)
class Conditions:
    parts: tuple[Condition, ...]
    joined: Literal["and", "or"] = "and"

    def among(self, store: Store) -> Callable[[Chunk], bool]:
        """Whether a passage of this store fulfils them. BadRequest for a field that none of its documents has."""
        self._check_names(store)
        documents: dict[str, StoredDocument | None] = {}

        def fits(chunk: Chunk) -> bool:
            if chunk.source not in documents:
                documents[chunk.source] = store.document(chunk.source)
            known = metadata_of(chunk, documents[chunk.source])
            return (all if self.joined == "and" else any)(part.holds(known) for part in self.parts)

        return fits

    def _check_names(self, store: Store) -> None:
        asked = {name for part in self.parts for name in part.names}
        if asked <= FIELDS.keys():
            return
        known = {name for document in store.documents() for name in document.metadata} | FIELDS.keys()
        if unknown := asked - known:
            raise BadRequest(f"no document here has {min(unknown)!r}; there are: {', '.join(sorted(known))}")


def metadata_of(chunk: Chunk, document: StoredDocument | None) -> dict[str, Value]:
    """What is known of a passage. `document` None: it was removed a moment ago."""
    known: dict[str, Value] = {} if document is None else dict(document.metadata)
    return known | {name: get(chunk, document) for name, get in FIELDS.items()}


def _of_document(name: str) -> Callable[[Chunk, StoredDocument | None], Value]:
    return lambda chunk, document: getattr(document, name) if document is not None else None


def _moment(name: str) -> Callable[[Chunk, StoredDocument | None], Value]:
    def told(chunk: Chunk, document: StoredDocument | None) -> Value:
        if document is None:
            return None
        return datetime.fromtimestamp(getattr(document, name)).astimezone().isoformat(timespec="seconds")

    return told


def _modified(chunk: Chunk, document: StoredDocument | None) -> Value:
    if document is None or not document.mtime_ns:
        return None
    return datetime.fromtimestamp(document.mtime_ns / 1e9).astimezone().isoformat(timespec="seconds")


FIELDS: Mapping[str, Callable[[Chunk, StoredDocument | None], Value]] = {
    "source": lambda chunk, document: chunk.source,
    "document_name": lambda chunk, document: PurePosixPath(chunk.source).name,
    "title": lambda chunk, document: chunk.title,
    "heading": lambda chunk, document: chunk.heading,
    "page": lambda chunk, document: chunk.page,
    "format": lambda chunk, document: PurePosixPath(chunk.source).suffix.lower().lstrip("."),
    "origin": _of_document("origin"),
    "bytes": _of_document("size"),
    "added_at": _moment("added_at"),
    "ingested_at": _moment("updated_at"),
    "modified_at": _modified,
}


# --- tests ------------------------------------------------------------------------------------------------------------


def _test(operator: str, given: Any, name: str) -> Callable[[Value], bool]:
    """BadRequest when `given` is nothing that the operator can compare with."""
    if operator == "empty":
        return lambda value: value is None or value == ""
    if operator == "in":
        wanted = {_text(one, operator, name) for one in _several(given)}
        return lambda value: _as_text(value) in wanted
    if operator in ("before", "after"):
        first, last = _span(given, operator, name)
        if operator == "before":
            return lambda value: (moment := _time(value)) is not None and moment < first
        return lambda value: (moment := _time(value)) is not None and moment >= last
    if operator in _NUMBER:
        number, compare = _number(given), _NUMBER[operator]
        if number is None:
            raise BadRequest(f"{name} {operator} needs a number, not {_short(given)}")
        return lambda value: (it := _comparable(value)) is not None and compare(it, number)
    text, match = _text(given, operator, name), _TEXT[operator]
    return lambda value: (it := _as_text(value)) is not None and match(it, text)


def _several(given: Any) -> Sequence[Any]:
    """A list, or a text with commas between them."""
    if isinstance(given, str):
        return [one.strip() for one in given.split(",")]
    return given if isinstance(given, list) and given else [given]


def _text(given: Any, operator: str, name: str) -> str:
    text = None if isinstance(given, list) else _as_text(given)
    if not text:
        raise BadRequest(f"{name} {operator} needs a value, not {_short(given)}")
    return text


def _as_text(value: Value) -> str | None:
    match value:
        case None | "":
            return None
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
    return fold(str(value))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _comparable(value: Value) -> float | None:
    """A number; of a time the seconds since 1970."""
    number = _number(value)
    return _time(value) if number is None else number


def _time(value: Any) -> float | None:
    """Seconds since 1970 of a number of them or of a time as ISO 8601 writes it, that of this machine unless told."""
    number = _number(value)
    if number is not None or not isinstance(value, str):
        return number
    try:
        return datetime.fromisoformat(value.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _span(given: Any, operator: str, name: str) -> tuple[float, float]:
    """From when to when the time is that was given: a day has an end, a moment is its own."""
    moment = _time(given)
    if moment is None:
        raise BadRequest(
            f"{name} {operator} needs a time (2026-11-21, 2026-11-21T09:00, or seconds since 1970), not {_short(given)}"
        )
    if isinstance(given, str) and _is_day(given.strip()):
        return moment, (datetime.fromtimestamp(moment) + timedelta(days=1)).timestamp()
    return moment, math.nextafter(moment, math.inf)


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return _number(text) is None  # 20261121 is a number of seconds


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else text[:59] + "…"
