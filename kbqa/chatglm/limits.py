"""How much of what others hand over is taken: tools, arguments of calls, and what chat templates make of them."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["MOST", "TooMuch", "measure", "to_json"]

MOST = 1 << 20  # characters and parts of one thing
DEEP = 50  # levels of JSON, each of which is indented further


class TooMuch(ValueError):
    """Something is beyond a limit."""


def to_json(value: Any, indent: int | None = None) -> str:
    """TooMuch for what is too large or too deep, TypeError and its kin for what is no JSON."""
    measure(value)
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def measure(value: Any) -> None:
    """TooMuch for what has too many characters and parts (what is in it twice counts twice), or is nested too deep."""
    left, waiting = MOST, [(value, 0)]
    while waiting:
        it, level = waiting.pop()
        left -= 1 + (len(it) if isinstance(it, str | list | tuple | dict) else 0)
        if left < 0:
            raise TooMuch(f"something has more than {MOST} characters or parts")
        if level > DEEP:
            raise TooMuch(f"something is nested more than {DEEP} levels deep")
        if isinstance(it, dict):
            waiting += [(part, level + 1) for part in (*it.keys(), *it.values())]
        elif isinstance(it, list | tuple):
            waiting += [(part, level + 1) for part in it]
