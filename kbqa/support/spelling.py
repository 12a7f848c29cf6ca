"""One spelling for what can be spelled in several ways: numbers, dates, and words that negate.

三百 becomes 300, １，２００ 1200, 百分之十五 15%, 2024-03-05 and "March 5, 2024" 2024年3月5日, 禁止 and 严禁 不得.
"""

from __future__ import annotations

import re

from kbqa.analyzer import fold

__all__ = ["MEASURES", "plain"]

# Before one of these a single 二 or 十 counts something; elsewhere it is part of a word (四川, 十分) or a name (张三).
MEASURES = frozenset(
    "个天年月日号元人次倍名家位项条周岁级台层座部张件款届期艘架枚只份吨米种场所间株点时分秒度章节颗辆成代世大"
)

LONGEST = 20  # characters of a numeral; 九千九百九十九万九千九百九十九亿 has 15

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_POWERS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_HAN = re.compile(r"(?<![\d.几数])(第?)([〇零一二三四五六七八九十百千万亿两]+)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = r"\d+(?:\.\d+)?"
_REWRITES = [
    (re.compile(pattern), made)
    for pattern, made in (
        (rf"百分之({_NUMBER})", r"\1%"),
        (r"个?百分点", "ppt"),
        (r"(?<=\d) ?per ?cent\b", "%"),
        (r"(\d{1,9})分之(\d{1,9})", r"\2/\1"),
        (r"(?<!\d)((?:19|20)\d\d)[-/.](0?[1-9]|1[0-2])[-/.](0?[1-9]|[12]\d|3[01])(?!\d)", r"\1年\2月\3日"),
    )
]
_PLAIN = dict(
    pair.split("/")
    for pair in "严禁/不得 禁止/不得 无法/不能 尚未/未 从未/未 并未/未 并非/不是 而非/而不是 绝非/不是".split()
)
_NEGATIONS = re.compile("|".join(_PLAIN))
_MONTHS = {
    name: month
    for month, names in enumerate(
        "jan january,feb february,mar march,apr april,may,jun june,jul july,aug august,"
        "sep sept september,oct october,nov november,dec december".split(","),
        1,
    )
    for name in names.split()
}
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\b\.?"
_ANY_MONTH = re.compile(rf"\b{_MONTH}")
_DATES = [
    re.compile(pattern)
    for pattern in (
        rf"\b{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,? (?P<year>\d{{4}}))?(?! ?[%\d])",
        rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{_MONTH}(?:,? (?P<year>\d{{4}}))?",
        rf"\b{_MONTH}(?:,| of)? (?P<year>\d{{4}})\b",
        rf"\b(?!may\b){_MONTH}",  # "may" alone is a verb
    )
]


def plain(text: str) -> str:
    """`text` folded and in one spelling; line breaks stay. The length changes: never use offsets across it."""
    text = text.replace("`", "").replace("**", "")  # code and bold, which an answer may have where the document has not
    text = _HAN.sub(_in_digits, _THOUSANDS.sub("", fold(text)))
    for pattern, made in _REWRITES:
        text = pattern.sub(made, text)
    if _ANY_MONTH.search(text):
        for pattern in _DATES:
            text = pattern.sub(_chinese_date, text)
    return _NEGATIONS.sub(lambda match: _PLAIN[match[0]], text)


def _in_digits(match: re.Match[str]) -> str:
    ordinal, numeral = match.groups()
    following = match.string[match.end() : match.end() + 1]
    counts = ordinal or match.string.endswith("分之", 0, match.start())
    if len(numeral) == 1 and not counts and (numeral in "〇零一百千万亿" or following not in MEASURES):
        return match[0]
    value = _year(numeral) if following == "年" and len(numeral) == 4 else None
    value = _value(numeral) if value is None else value
    return match[0] if value is None else f"{ordinal}{value}"


def _year(numeral: str) -> int | None:
    """二〇二四, digit by digit."""
    return int("".join(str(_DIGITS[c]) for c in numeral)) if all(c in _DIGITS for c in numeral) else None


def _value(numeral: str) -> int | None:
    """三百二十万 -> 3200000; None for what is no numeral (千万, 三五)."""
    if numeral[0] in "百千万亿零〇" or len(numeral) > LONGEST:
        return None
    total = section = 0  # section: what stands below the next 万 or 亿
    digit: int | None = None
    for c in numeral:
        if c in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[c]
        elif c == "亿":
            total, section, digit = (total + section + (digit or 0)) * _POWERS[c], 0, None
        elif c == "万":
            total, section, digit = total + (section + (digit or 0)) * _POWERS[c], 0, None
        else:
            section, digit = section + (1 if digit is None else digit) * _POWERS[c], None
    return total + section + (digit or 0)


def _chinese_date(match: re.Match[str]) -> str:
    found = match.groupdict()
    year = f"{found['year']}年" if found.get("year") else ""
    day = f"{found['day']}日" if found.get("day") else ""
    return f"{year}{_MONTHS[found['month']]}月{day}"
