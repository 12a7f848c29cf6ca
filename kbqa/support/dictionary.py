"""The dictionary that also cuts words for the search: what is a word, and of which sort."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType

from kbqa.analyzer import CJK

__all__ = ["NAMES", "NUMERALS", "in_dictionary", "tagged"]

NAMES = frozenset(("nr", "nrt", "nrfg", "ns", "nt", "nz"))  # persons, places, organisations and other names
NUMERALS = frozenset(("m", "mq"))

_RUN = re.compile(f"[{CJK}]+")


@lru_cache(maxsize=1)
def _jieba() -> ModuleType:
    import rjieba  # reads its dictionary when imported, a quarter of a second

    return rjieba


def tagged(text: str) -> Iterator[tuple[str, str]]:
    """The Chinese words of a folded text in order, each with its sort."""
    for run in _RUN.findall(text):
        yield from _jieba().tag(run)


def in_dictionary(word: str) -> bool:
    return bool(_jieba().has_word(word))
