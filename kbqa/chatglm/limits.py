"""How much of what others hand over is taken: tools, arguments of calls, and what chat templates make of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["MOST", "TooMuch", "measure", "to_json"]

MOST = 1 << 20  # characters and parts of one thing
DEEP = 50  # levels of JSON, each of which is indented further


class TooMuch(ValueError):
    """Something is beyond a limit."""


def to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    """TooMuch for what is too large or too deep, TypeError and its kin for what is no JSON. `options` are those of
    json.dumps that change how it is written."""
    measure([value, list(options.values())])
    told = {name: options[name] for name in ("separators", "sort_keys") if name in options}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=None if indent is None else min(indent, 8), **told)


def measure(value: Any, known: Mapping[int, int] = MappingProxyType({})) -> int:
    """How many characters and parts it has (what is in it twice counts twice). `known` are those of things by their
    id, which need not be gone through again.

    TooMuch for what has too many, or is nested too deep.
    """
    left, waiting = MOST, [(value, 0)]
    while waiting:
        it, level = waiting.pop()
        measured = known.get(id(it))
        left -= measured or 1 + (len(it) if isinstance(it, str | list | tuple | dict) else 0)
        if left < 0:
            raise TooMuch(f"something has more than {MOST} characters or parts")
        if level > DEEP:
            raise TooMuch(f"something is nested more than {DEEP} levels deep")
        if measured:
            continue
        if isinstance(it, dict):
            waiting += [(part, level + 1) for part in (*it.keys(), *it.values())]
        elif isinstance(it, list | tuple):
            waiting += [(part, level + 1) for part in it]
    return MOST - left
