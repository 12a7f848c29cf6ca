"""How near is a reply to a gold answer? Of several gold answers the one that fits best counts.

Both are made plain first: NFKC, lower case, traditional characters as simplified ones, no white space, no punctuation.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import lru_cache

from kbqa.analyzer import CJK, fold

__all__ = ["contains", "exact_match", "f1", "plain"]

_CHINESE = re.compile(f"[{CJK}]")
_TOKEN = re.compile(f"[{CJK}]|[^\\s{CJK}]+")
_ARTICLES = frozenset(("a", "an", "the"))


def plain(text: str) -> str:
    return "".join(character for character in fold(text) if not _is_dropped(character))


@lru_cache(maxsize=8192)
def _is_dropped(character: str) -> bool:
    return unicodedata.category(character)[0] in "PZC"


def contains(reply: str, answers: Iterable[str]) -> bool:
    """Whether a gold answer stands in the reply; one that is nothing but punctuation stands nowhere."""
    whole = plain(reply)
    return any(part and part in whole for part in map(plain, answers))


def exact_match(reply: str, answers: Iterable[str]) -> bool:
    return plain(reply) in {plain(answer) for answer in answers}


def f1(reply: str, answers: Iterable[str]) -> float:
    """Overlap of tokens as harmonic mean of precision and recall, in [0, 1].

    Chinese as in CMRC 2018 (Cui et al. 2019): a character or a Latin word is a token, and the overlap is their longest
    common run. Other text as in SQuAD (Rajpurkar et al. 2016): a word is a token, articles aside, and the overlap is
    the words in common.
    """
    return max((_f1(reply, answer) for answer in answers), default=0.0)


def _f1(reply: str, answer: str) -> float:
    chinese = _CHINESE.search(answer) is not None
    said, wanted = _tokens(reply, chinese), _tokens(answer, chinese)
    if chinese:
        common = SequenceMatcher(None, said, wanted, autojunk=False).find_longest_match().size
    else:
        common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def _tokens(text: str, chinese: bool) -> list[str]:
    spaced = "".join(" " if _is_dropped(c) else c for c in fold(text))
    tokens = _TOKEN.findall(spaced)
    return tokens if chinese else [token for token in tokens if token not in _ARTICLES]
