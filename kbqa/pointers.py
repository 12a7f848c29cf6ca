"""Sentences that point at a table elsewhere in their document: 「标准见附表一」, 「详见附件2」.

What such a table is about, often only that sentence says.
"""

from __future__ import annotations

import re

from kbqa.sentences import sentence_spans
from kbqa.types import CELL_SEPARATOR, Chunk

__all__ = ["label_of", "pointers"]

_LABEL = r"(?:附[表件录][\d一二三四五六七八九十]*|表[\d一二三四五六七八九十]+)"
_BEARS = re.compile(f"^{_LABEL}", re.MULTILINE)
_POINTS = re.compile(rf"[见按照]({_LABEL})")


def label_of(chunk: Chunk) -> str:
    """附表一 of a chunk that holds a table under this heading or line; "" of others."""
    if CELL_SEPARATOR not in chunk.text:
        return ""
    found = _BEARS.search(f"{chunk.heading.rpartition(' > ')[2]}\n{chunk.text}")
    return found[0] if found else ""


def pointers(text: str) -> dict[str, str]:
    """Label -> the sentence that points at it."""
    spans = sentence_spans(text) if _POINTS.search(text) else []
    sentences = [text[start:end] for start, end in spans]
    return {found[1]: sentence for sentence in sentences for found in _POINTS.finditer(sentence)}
