"""Other ways to write what a question says in numbers: 三百元 and 300元, 15% and 百分之十五, 2024年3月 and 2024-03, and
每月 for 一个月 in 「一个月多少？」.

Full-width digits, blanks and thousands separators are no matter: the analyzer sees to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kbqa.numberwords import DIGITS, MYRIADS, VALUES, spelled, value

__all__ = ["spellings"]

_CHINESE = "[零〇一二三四五六七八九十百千万亿两]"
_UNIT = (
    r"(?:个百分点|个工作日|个月|小时|分钟|公里|千米|公斤|千克|毫米|厘米|毫升|平方米|美元|日元|欧元|世纪"
    r"|[元块角年月日天周岁人名位次个只台家座条种届级层楼米吨克秒倍集部首章期号度分轮场席票辆艘卷册版代])"
)
_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)年")
_SPELLED_YEAR = re.compile("(?<![零〇一二三四五六七八九十百])([一二][零〇一二三四五六七八九]{3})年")
_DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)年(\d{1,2})月(?:(\d{1,2})[日号])?")
_NUMBERED_DAY = re.compile(r"(?<![\d.])((?:19|20)\d\d)([-/.])(\d{1,2})(?:\2(\d{1,2}))?(?![\d.]|[-/]\d)")
_AMOUNT = re.compile(rf"(?<![\d.,/-])(\d{{1,12}})([万亿]?)\s?({_UNIT})")
_SPELLED_AMOUNT = re.compile(rf"(?<!分之)(?<!{_CHINESE})({_CHINESE}{{1,12}})({_UNIT})")
_PERCENT = re.compile(r"(?<![\d.])(\d{1,6})(?:\.(\d{1,4}))?%")
_SPELLED_PERCENT = re.compile(rf"百分之({_CHINESE}{{1,9}})(?:点([零〇一二三四五六七八九]{{1,4}}))?")


# What is asked for one unit of time: 「一个月多少？」, 「多少钱一天？」, 「一年体检几次？」; not 满一年 and 一年以上.
_RATE = re.compile(
    r"(?:多少[钱元块]?|几[元块次])(?P<behind>一(?:天|个?月|年|周|次|人))(?!\w)"
    r"|(?<![满第近过前后每职作龄干了])(?P<before>一(?:天|个?月|年|周|次|人))(?:\w{0,2}几[次回]|[能可给发交要收补付]{0,2}多少)"
)


def spellings(question: str) -> dict[str, tuple[str, ...]]:
    """What stands in the folded question -> other ways to write it, as `Synonyms.named` gives names."""
    found: dict[str, tuple[str, ...]] = {}
    for written, others in _all(question):
        found.setdefault(written, tuple(dict.fromkeys(other for other in others if other != written)))
    longest = {written for written in found if not any(written != other and written in other for other in found)}
    return {written: others for written, others in found.items() if written in longest and others}


def _all(question: str) -> Iterator[tuple[str, list[str]]]:
    for found in _DAY.finditer(question):
        numbers = [int(number) for number in found.groups() if number]
        yield found[0], [sign.join(f"{n:02}" for n in numbers) for sign in "-/."] + ["/".join(map(str, numbers))]
    for found in _NUMBERED_DAY.finditer(question):
        year, _, month, day = found.groups()
        if 1 <= int(month) <= 12:
            yield found[0], [f"{year}年{int(month)}月" + (f"{int(day)}日" if day else "")]
    for found in _YEAR.finditer(question):
        digits = "".join(DIGITS[int(digit)] for digit in found[1])
        yield found[0], [f"{digits}年", f"{digits.replace('零', '〇')}年"]
    for found in _SPELLED_YEAR.finditer(question):
        yield found[0], ["".join(str(VALUES[digit]) for digit in found[1]) + "年"]
    for found in _PERCENT.finditer(question):
        fraction = "点" + "".join(DIGITS[int(digit)] for digit in found[2]) if found[2] else ""
        yield found[0], [f"百分之{spelled(int(found[1]))}{fraction}"]
    for found in _SPELLED_PERCENT.finditer(question):
        number = value(found[1])
        if number is not None:
            yield found[0], [f"{number}" + ("." + "".join(str(VALUES[d]) for d in found[2]) if found[2] else "") + "%"]
    for found in _RATE.finditer(question):
        rate = found["behind"] or found["before"]
        unit = rate.lstrip("一")
        yield rate, [f"每{unit}", {"天": "每日", "月": "每个月", "个月": "每月"}.get(unit, f"每一{unit}")]
    for found in _AMOUNT.finditer(question):
        yield found[0], list(_amounts(int(found[1]) * MYRIADS.get(found[2], 1), found[3]))
    for found in _SPELLED_AMOUNT.finditer(question):
        number = value(found[1])
        if number is not None and number > 1:  # 一个, 一天 seldom count anything
            yield found[0], list(_amounts(number, found[2]))


def _amounts(number: int, unit: str) -> Iterator[str]:
    """300元, 三百元; 20000小时, 20,000小时, 2万小时, 两万小时, 二万小时."""
    yield f"{number}{unit}"
    yield f"{number} {unit}"
    if number >= 1000:
        yield f"{number:,}{unit}"
    for name, size in MYRIADS.items():
        if number and number % (size // 10) == 0 and number >= size:
            yield f"{number / size:.10g}{name}{unit}"
    words = spelled(number)
    if words.startswith("二") and words[1:2] in ("", "千", "万", "亿", "百"):
        yield f"两{words[1:]}{unit}"
    yield f"{words}{unit}"
