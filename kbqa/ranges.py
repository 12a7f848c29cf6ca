"""Ranges of numbers in words (满5年不满15年, 50万元以上, 3-5台), and the numbers that a question is about."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kbqa.analyzer import fold
from kbqa.numberwords import value

__all__ = ["Asked", "Range", "asked_amounts", "clause_ranges", "ranges"]

_GAP = r"[ \t]{0,3}"  # bounded: what follows a number is tried at every blank
_NUMBER = (
    r"(?<![第\d.零一二三四五六七八九十百千两])"  # 第3次 is no amount
    r"(\d{1,9}(?:\.\d{1,3})?|[一二三四五六七八九十百千两][零一二三四五六七八九十百千两]{0,8})"
)
_UNIT = (
    r"((?:万|亿|千)?(?:个?月|个工作日|小时|周岁|公里|千米|公斤|千克|平方米|[年天日周岁元人名台套件个吨级次]|分(?!之))|%"
    # 三十万 without a unit is money; 五十万用户, 十万分之一 and 三万英里 are not.
    r"|[万亿](?![万亿股里吨人次用户只辆条位字册份枚瓦千公平立亩英美欧日港像余多头株吨倍分]))"
)
_JOIN = rf"{_GAP}(?:-|—|~|至|到){{1,3}}{_GAP}"
_BOUND = re.compile(
    rf"(?P<before>不满|未满|不足|少于|低于|小于|不超过|不高于|不多于|满|超过|大于|高于|多于|不低于|不少于|达到|达|[<>≤≥])?"
    rf"{_GAP}{_NUMBER}{_GAP}{_UNIT}?(?P<behind>{_GAP}\(?(?:不?含|及)?\)?(?:以上|以下|以内|及以上|及以下))?"
)
_SPAN = re.compile(rf"{_NUMBER}{_GAP}{_UNIT}?{_JOIN}{_NUMBER}{_GAP}{_UNIT}")
_UPPER = {"不满", "未满", "不足", "少于", "低于", "小于", "不超过", "不高于", "不多于", "<", "≤"}
_OPEN = {"超过", "大于", "高于", "多于", ">"}  # the number itself does not belong to them
_CLOSED = {"不超过", "不高于", "不多于", "≤"}  # it does
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
_END = re.compile(r"[,;。!?\n]")
# 超过5万元，不超过50万元的: the comma parts the two bounds of one range, not two ranges.
_SAME = re.compile(
    rf"((?:满|超过|大于|高于|多于|不低于|不少于|达到|达|[>≥]){_GAP}{_NUMBER}{_GAP}{_UNIT}|{_NUMBER}{_GAP}{_UNIT}以上)(?:\(不?含\))?"
    rf",(?=[但且并]?(?:不满|未满|不足|少于|低于|小于|不超过|不高于|不多于|{_NUMBER}{_GAP}{_UNIT}以[下内]))"
)
_SIZES = {"万": 10**4, "亿": 10**8, "千": 10**3}


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high` of one unit; `low_in`, `high_in`: whether these belong to it."""

    unit: str
    low: float = -math.inf
    high: float = math.inf
    low_in: bool = True
    high_in: bool = False

    def holds(self, number: float) -> bool:
        above = number > self.low or (self.low_in and number == self.low)
        below = number < self.high or (self.high_in and number == self.high)
        return above and below

    @property
    def tightness(self) -> tuple[float, float]:
        """Of ranges that hold a number, that with the greatest tells of it: 满10年 of 满1年 and 满10年."""
        return -(self.high - self.low), self.low if self.low > -math.inf else -self.high

    def and_(self, other: Range) -> Range:
        """What lies in both."""
        low, high = (self if self.low >= other.low else other), (self if self.high <= other.high else other)
        return Range(self.unit, low.low, high.high, low.low_in, high.high_in)


@dataclass(frozen=True, slots=True)
class Asked:
    """A number of a question: `text` is how it is written there, folded, `before` what stands before it."""

    number: float
    unit: str
    text: str
    before: str


def asked_amounts(question: str) -> list[Asked]:
    """The numbers with units in a question, 「满十五年的员工」: neither years nor ranges of its own (五台以上)."""
    folded = _THOUSANDS.sub("", fold(question))
    if _SPAN.search(folded):
        return []
    found = []
    for match in _BOUND.finditer(folded):
        number, unit = _amount(match[2], match[3])
        ranged = match["behind"] or match["before"] in _UPPER | _OPEN
        dated = unit in ("月", "日") or (unit == "年" and number is not None and number >= 1000)
        if number is None or not unit or ranged or dated:
            continue
        text = match[0].removeprefix(match["before"] or "").strip()
        found.append(Asked(number, unit, text, folded[: match.start()].rstrip("满了有已")))
    return found


def ranges(text: str) -> dict[str, Range]:
    """The range of each unit that a cell tells: 「满5年不满15年」 is one of years."""
    found: dict[str, Range] = {}
    for it in _each_range(text):
        found[it.unit] = found[it.unit].and_(it) if it.unit in found else it
    return found


def clause_ranges(sentence: str, unit: str) -> list[Range]:
    """What each clause of a sentence tells of the unit: two of 「满1年不满10年的，5天；满10年的，10天」."""
    clauses = _END.split(_SAME.sub(r"\1", _THOUSANDS.sub("", fold(sentence))))
    return [its for clause in clauses if (its := ranges(clause).get(unit))]


def _each_range(text: str) -> Iterator[Range]:
    folded = _THOUSANDS.sub("", fold(text))
    for match in _SPAN.finditer(folded):
        unit = match[2] or match[4]
        low, its = _amount(match[1], unit)
        high, _ = _amount(match[3], match[4])
        if low is not None and high is not None and low < high:
            yield Range(its, low, high, high_in=True)
    for match in _BOUND.finditer(_SPAN.sub(" ", folded)):
        number, unit = _amount(match[2], match[3])
        if number is None or not unit:
            continue
        before, behind = match["before"] or "", match["behind"] or ""
        if before in _UPPER or "以下" in behind or "以内" in behind:
            yield Range(unit, high=number, high_in=before in _CLOSED or "以内" in behind or "及" in behind)
        elif before or "以上" in behind:
            yield Range(unit, low=number, low_in=before not in _OPEN and "不含" not in behind)


def _amount(number: str, unit: str | None) -> tuple[float | None, str]:
    """In units without 万: (500000, 元) of 50万元 and of 50万."""
    unit = f"{unit}元" if unit in ("万", "亿") else unit or ""
    size = _SIZES.get(unit[:1], 1) if len(unit) > 1 and unit not in ("千米", "千克") else 1
    known: float | None = float(number) if number[0].isdigit() else value(number)
    return (None if known is None else known * size), "岁" if unit == "周岁" else unit[1:] if size > 1 else unit
