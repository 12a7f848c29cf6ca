"""What a question asks for: the kind of thing that would fill its gap, and the things it pins down by number."""

from __future__ import annotations

import re

from kbqa.analyzer import fold

__all__ = ["gap_fillers", "identifiers"]

_NUMERAL = r"[\d一二三四五六七八九十百千万亿两半几]"

# What fills the gap of a question, by its question word: a pattern for the question, one for an answer.
_GAPS: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (
        re.compile(r"什么时候|何时|哪一?年|哪一?天|几月|几号|日期|时间|多久|多长时间|几点|\bwhen\b"),
        re.compile(rf"{_NUMERAL}+\s*(?:年|月|日|号|天|周|点|时|小时|分钟|秒|个月|个工作日)|周[一二三四五六日]|\d{{4}}"),
    ),
    (
        re.compile(
            r"多少|几[个次天位家种年月名倍]|多[大高长远宽重快]|比例|金额|价格|费用|\bhow (many|much|long|far)\b"
        ),
        re.compile(rf"{_NUMERAL}+"),
    ),
    (re.compile(r"电话|热线|号码"), re.compile(r"\d[\d\-]{2,}")),
    (re.compile(r"地址|网址|邮箱|url"), re.compile(r"[\w.\-]+[@./:][\w.\-/]+|[路街号楼室]")),
    (re.compile(r"为什么|为何|原因|\bwhy\b"), re.compile(r"因为|由于|因此|所以|导致|原因|为了|because|due to")),
)

_IDENTIFIER = re.compile(
    r"[a-z]*\d+(?:\.\d+)?[a-z]*|第[一二三四五六七八九十百]+|[一二三四五六七八九十]+(?=季度|级|类|期|章|条|届|代|号)"
)


def gap_fillers(question: str) -> list[re.Pattern[str]]:
    """Patterns, for folded text, of what could answer `question`; none when its question word does not tell."""
    folded = fold(question)
    return [filler for asked, filler in _GAPS if asked.search(folded)]


def identifiers(question: str) -> set[str]:
    """Numbers, model names and ordinals, folded: a passage about another one of them does not answer."""
    return set(_IDENTIFIER.findall(fold(question)))
