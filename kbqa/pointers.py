"""Sentences that point at a table elsewhere in their document: 「标准见附表一」, 「详见附件2」.

What such a table is about, often only that sentence says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kbqa.analyzer import fold
from kbqa.numberwords import spelled, value
from kbqa.sentences import sentence_spans
from kbqa.types import CELL_SEPARATOR, Chunk

__all__ = ["label_of", "pointers", "spellings"]

# 附表一, 表2-3, 附录 A.1; a bare 附件 may be any, 表2 is not 表2-3, and 表一览 no label.
_DASH = r"[-.－—–‑]"
_NUMBER = r"[0-9０-９]"
_LABEL = (
    r"(?:附[表件录]|表)[ \t\u3000]{0,2}"
    rf"(?:[A-Za-z]?{_NUMBER}+(?:{_DASH}{_NUMBER}+)*|[A-Za-z](?:{_DASH}{_NUMBER}+)*"
    rf"|[一二三四五六七八九十]{{1,3}}(?![一二三四五六七八九十览般定些致样]))(?!{_DASH}?{_NUMBER}|[A-Za-z])"
)
_BEARS = re.compile(rf"^[ \t\u3000《]*({_LABEL})(?!.*{re.escape(CELL_SEPARATOR)})", re.MULTILINE)  # no cell of a row
# 意见表1, 检查表2 and 对照表3 are forms.
_POINTS = re.compile(rf"(?:(?<!意)见|按|(?<!对)照|如|(?<!检)查)[ \t]{{0,2}}[《〈（(“「]?({_LABEL})")
_PARTS = re.compile(r"(附?[表件录])(.*)")


def label_of(chunk: Chunk) -> str:
    """附表1 of a chunk that holds a table under the heading or line 附表一; "" of others."""
    if CELL_SEPARATOR not in chunk.text:
        return ""
    found = _BEARS.search(f"{chunk.heading.rpartition(' > ')[2]}\n{chunk.text}")
    return _normal(found[1]) if found else ""


def pointers(text: str) -> dict[str, str]:
    """Label, as `label_of` has it -> the sentence that points at it."""
    spans = sentence_spans(text) if _POINTS.search(text) else []
    sentences = [text[start:end] for start, end in spans]
    return {_normal(found[1]): sentence for sentence in sentences for found in _POINTS.finditer(sentence)}


def spellings(label: str) -> Iterator[str]:
    """How documents write a label of `label_of`: 附表1, 附表 1, 附表一, ..."""
    parts = _PARTS.fullmatch(label)
    kind, number = (parts[1], parts[2]) if parts else (label, "")
    for way in dict.fromkeys([number, number.upper(), *_written(number)]):
        for gap in ("", " "):
            yield f"{kind}{gap}{way}"


def _written(number: str) -> Iterator[str]:
    yield number.replace("-", "－")
    yield number.translate(str.maketrans("0123456789", "０１２３４５６７８９"))
    if number.isdecimal() and 0 < int(number) < 100:
        yield spelled(int(number))


def _normal(label: str) -> str:
    """Without blanks, in digits: 附表1 of 附表 一, 表2-3 of 表2－3."""
    folded = re.sub("[-—–‑]", "-", "".join(fold(label).split()))
    return re.sub("[一二三四五六七八九十]+", lambda found: str(value(found[0]) or found[0]), folded)
