"""The numbers that Word shows but does not store: 第一条, (二), 1.2.3.

A paragraph refers to a list and a level; the list says how its numbers look. Chinese regulations are numbered this
way more often than by hand, and people ask for 第十二条.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from kbqa.readers.markup import Element, attribute, children, first

__all__ = ["Numbering", "number_text"]

_DIGITS = "零一二三四五六七八九"
_MAX_LEVELS = 9


@dataclass(frozen=True, slots=True)
class _Level:
    form: str  # decimal, chineseCounting, bullet, ...
    text: str  # "第%1条"
    start: int


def number_text(number: int, form: str) -> str:
    """`number` as Word writes it in a numbering format; decimal for the rare ones."""
    if form.startswith(
        ("chineseCounting", "ideographDigital", "japaneseCounting", "taiwaneseCounting", "chineseLegal")
    ):
        return _chinese(number)
    match form:
        case "upperLetter" | "lowerLetter":
            letters = chr(ord("A") + (number - 1) % 26) * ((number - 1) // 26 + 1)
            return letters if form == "upperLetter" else letters.lower()
        case "upperRoman" | "lowerRoman":
            return _roman(number) if form == "upperRoman" else _roman(number).lower()
        case "decimalEnclosedCircle" | "decimalEnclosedCircleChinese" if 1 <= number <= 20:
            return chr(0x2460 + number - 1)
        case "ideographTraditional" if 1 <= number <= 10:
            return "甲乙丙丁戊己庚辛壬癸"[number - 1]
        case "decimalZero":
            return f"{number:02}"
        case "none":
            return ""
        case _:
            return str(number)


def _chinese(number: int) -> str:
    """Up to 9999: 十二, 一百零五, 二千零二十."""
    if not 0 < number < 10_000:
        return str(number)
    text, zero = "", False
    for unit, mark in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // unit % 10
        if digit:
            text += ("零" if zero and text else "") + _DIGITS[digit] + mark
        zero = not digit
    return text.removeprefix("一") if 10 <= number < 20 else text


def _roman(number: int) -> str:
    values = ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"))
    text = ""
    for value, sign in (*values, (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        text += sign * (number // value)
        number %= value
    return text


class Numbering:
    """Counts the numbered paragraphs of one document, in reading order."""

    def __init__(self, root: Element | None) -> None:
        abstract: dict[str, dict[int, _Level]] = {}
        for element in children(root, "abstractNum"):
            levels = {}
            for level in children(element, "lvl"):
                levels[int(attribute(level, "ilvl") or 0)] = _Level(
                    _value(level, "numFmt", "decimal"), _value(level, "lvlText", ""), int(_value(level, "start", "1"))
                )
            abstract[attribute(element, "abstractNumId") or ""] = levels
        self._abstract_of = {
            attribute(element, "numId") or "": _value(element, "abstractNumId", "") for element in children(root, "num")
        }
        self._levels: Mapping[str, Mapping[int, _Level]] = abstract
        self._counts: dict[str, dict[int, int]] = defaultdict(dict)

    def next(self, number_id: str, depth: int) -> str:
        """The mark of the next paragraph on that level, with a space behind; "" where the list is unknown."""
        abstract = self._abstract_of.get(number_id, "")
        levels = self._levels.get(abstract, {})
        level = levels.get(depth)
        if level is None or not 0 <= depth < _MAX_LEVELS:
            return ""
        if level.form == "bullet":
            return "- "
        counts = self._counts[abstract]
        counts[depth] = counts.get(depth, level.start - 1) + 1
        for deeper in [other for other in counts if other > depth]:
            del counts[deeper]
        text = level.text
        for other in range(depth, -1, -1):
            upper = levels.get(other, level)
            form = upper.form if other == depth or upper.form != "bullet" else "decimal"
            text = text.replace(f"%{other + 1}", number_text(counts.get(other, upper.start), form))
        return f"{text} " if text.strip() else ""


def _value(element: Element, child: str, default: str) -> str:
    found = first(element, child)
    value = attribute(found, "val") if found is not None else None
    return default if value is None else value
