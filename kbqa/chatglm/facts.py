"""The little text of our own (data/tiny.txt) that tiny models know: facts with numbers and names that change."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["NAMES", "NUMBERS", "facts"]

NAMES = ("温度传感器", "智能网关", "激光测距仪", "无线摄像头")
NUMBERS = ("3", "5", "8", "10", "15", "24", "60", "90")


@cache
def facts() -> tuple[tuple[str, str], ...]:
    """(question, the sentence that answers it), with # for a number and @ for a name."""
    lines = (files("kbqa") / "data" / "tiny.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("|") for line in lines if line and not line.startswith("#"))
    return tuple((question, sentence) for question, _, sentence in pairs)
