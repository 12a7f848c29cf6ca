"""Text to search terms, the same for documents and questions.

Text is folded first (NFKC, lower case, traditional characters to simplified), so that 「資料庫」, 「资料库」 and
`ＧＬＭ` / `glm` meet. Then two streams of terms come out of it:

- words: jieba's words of the Chinese runs, and Latin words, numbers and names. A name like `KB-2024-001` or
  `tidb_ddl_version` is one term and its parts are terms too.
- bigrams: overlapping pairs of neighbouring Chinese, Japanese or Korean characters. They find what the
  dictionary cuts in the wrong place.

Knows nothing about indexes or scores.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import accumulate
from typing import cast

__all__ = [
    "CJK",
    "REMEMBERED",
    "VERSION",
    "Passage",
    "Terms",
    "analyze",
    "fold",
    "is_word",
    "latin",
    "names_somebody",
    "question_terms",
    "question_words",
    "stem",
    "stop_words",
    "whole_names",
    "word_bounds",
]

VERSION = "1"  # stands in every base: an index built with other terms is not searched with these

REMEMBERED = 512  # texts, some 25 MB when all are passages

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"
_CJK_RUN = re.compile(f"([{CJK}]+)")  # with a group, so that split() keeps the runs
_NAME = re.compile(r"[^\W_]+(?:[._\-/:@+#'][^\W_]+)*")  # GLM-4-9B, tidb_ddl_version, 192.168.88.1, a@b.cn, it's
_PART = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")  # begins with the comma: found ten times as fast
_FULL_WIDTH = dict(zip("，：；？！（）％～\u3000\u00a0", ",:;?!()%~  ", strict=True))


@dataclass(frozen=True, slots=True)
class Terms:
    words: Sequence[str]
    bigrams: Sequence[str]


def _data(name: str) -> list[str]:
    return files("kbqa").joinpath("data", name).read_text(encoding="utf-8").split()


@lru_cache(maxsize=1)
def _simplified() -> dict[int, str]:
    return {ord(pair[0]): pair[1] for pair in _data("traditional.txt")}


@lru_cache(maxsize=1)
def _traditional() -> re.Pattern[str]:
    """Finds traditional characters. Those beyond the first plane, where a long set is slow, count as such all."""
    first_plane = "".join(chr(code) for code in _simplified() if code < 0x10000)
    return re.compile(f"[{first_plane}\U00010000-\U0010ffff]")


@lru_cache(maxsize=1)
def stop_words() -> frozenset[str]:
    """Words that say nothing about the subject. They are dropped from questions, never from documents."""
    return frozenset(_data("stop_words.txt"))


@lru_cache(maxsize=1)
def _cut() -> Callable[[str], list[str]]:
    import rjieba  # reads its dictionary when imported, a quarter of a second: only for those who cut words

    cut: Callable[[str], list[str]] = rjieba.cut
    return cut


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    from Stemmer import Stemmer  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return cast(Callable[[str], str], Stemmer("english").stemWord)


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The stem of an English word (Snowball), so that "acquired" and "acquiring" meet; other words as they are."""
    return _stemmer()(word) if len(word) > 3 and word.isascii() and word.isalpha() else word


def latin(words: Iterable[str]) -> list[str]:
    """Those that are spelled in letters and digits: all Chinese, Japanese and Korean ones begin above U+3000."""
    return [word for word in words if word[0] < "\u3000"]


def fold(text: str) -> str:
    """NFKC, lower case, simplified characters. The length may change: never use offsets across it."""
    if text.isascii():
        return text.lower()
    # Most Chinese text is normal but for these few characters, and replacing them is much faster than normalising.
    for wide, narrow in _FULL_WIDTH.items():
        text = text.replace(wide, narrow)
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    text = text.lower()
    # Asking first is much faster than translating the simplified text that most documents are.
    return text.translate(_simplified()) if _traditional().search(text) else text


@lru_cache(maxsize=REMEMBERED)
def analyze(text: str) -> Terms:
    """All terms of `text`, repeated as often as they occur: Chinese words first, then Latin names and numbers.

    The last texts are remembered: what is embedded is indexed next.
    """
    pieces = _CJK_RUN.split(fold(text))
    return Terms(_words(pieces), [run[at : at + 2] for run in pieces[1::2] for at in range(len(run) - 1 or 1)])


def _words(pieces: Sequence[str]) -> list[str]:
    """Of a folded text, split at its Chinese runs."""
    latin, runs = " ".join(pieces[::2]), pieces[1::2]
    words = [word for word in _cut()(" ".join(runs)) if word != " "]  # one call for all runs
    names = _NAME.findall(_THOUSANDS.sub("", latin))
    words += names
    for name in [name for name in names if not (name.isalpha() or name.isdecimal())]:
        parts = _PART.findall(name)
        if len(parts) > 1:
            words += parts
    return words


def question_terms(question: str) -> Terms:
    """The terms to search for: each once, stop words dropped (kept if nothing else is left)."""
    terms = analyze(question)
    words = list(dict.fromkeys(question_words(question)))
    bigrams = list(dict.fromkeys(terms.bigrams))
    stop = stop_words()
    return Terms([w for w in words if w not in stop] or words, [b for b in bigrams if b not in stop] or bigrams)


# Verbs that ask or allow. Not 会 and 有, which are as often a part of the thing: 年会, 监会, 会话, 有载.
_HELPING = re.compile("(哪).|[能要可得想给没不](.)|(.)[能要得满]")


def is_word(word: str) -> bool:
    """Whether the dictionary has it."""
    import rjieba

    return bool(rjieba.has_word(word))


def word_bounds(folded: str) -> frozenset[int]:
    """The offsets between the words of a folded text, with its beginning and end."""
    return frozenset(accumulate(map(len, _cut()(folded)), initial=0))


@lru_cache(maxsize=4096)
def _parted(word: str) -> str:
    """报 for 能报, 假 for 假要, 哪 for 哪所: the cutter takes for a name what the dictionary does not have."""
    found = _HELPING.fullmatch(word) if len(word) == 2 else None
    return found[found.lastindex or 0] if found and not is_word(word) else word


# 哪个部门, 什么岗位: behind these words such a noun asks, and no document has to say it.
_ASKING = frozenset("哪 哪个 哪一 哪一个 哪些 什么 何".split())
_ASKED_KINDS = frozenset("部门 科室 处室 岗位 人员".split())


def question_words(question: str) -> list[str]:
    """The words of a question in order, without the helping verbs that the cutter joins to them, and without 部门 of
    哪个部门, which is a part of the question word."""
    words = [_parted(word) for word in analyze(question).words]
    asking = {
        at for at, word in enumerate(words) if word in _ASKED_KINDS and _asks("".join(words[max(0, at - 2) : at]))
    }
    return [word for at, word in enumerate(words) if at not in asking] or words


def _asks(before: str) -> bool:
    return any(before.endswith(word) for word in _ASKING)


@lru_cache(maxsize=1024)
def names_somebody(sentence: str) -> bool:
    """Whether a person's name may stand in it: by the marks and the guesses of the dictionary, or in Latin letters."""
    import rjieba

    return any(mark.startswith("nr") or word == "·" or re.search("[a-z]", word) for word, mark in rjieba.tag(sentence))


@lru_cache(maxsize=4096)
def _is_cjk(word: str) -> bool:
    return _CJK_RUN.match(word) is not None


INSIDE = 0.7
INFLECTED = 0.9

# What makes another thing of a name that it stands before, and is often cut off from it.
_ANOTHER = re.compile("(?:副|总(?=经理)|陪(?=产)|半(?=年[报度])|非(?=工作|正式)).{2,}")


def _joined(words: Iterable[str]) -> list[str]:
    """The words, those that make another thing with the word behind them as one: 陪产假, 副院长, 非工作日."""
    joined: list[str] = []
    for word in words:
        if joined and len(joined[-1]) == 1 and _ANOTHER.fullmatch(joined[-1] + word):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def whole_names(question: str, words: Iterable[str]) -> list[str]:
    """Each word as the question names it: 陪产假 for 产假."""
    asked = _joined(analyze(question).words)
    names = {name[1:]: name for name in asked if name[1:] not in asked and _ANOTHER.fullmatch(name)}
    return [names.get(word, word) for word in words]


class Passage:
    """A text that is asked for one word at a time."""

    def __init__(self, text: str, folded: str | None = None) -> None:
        """`folded` is what `fold` makes of it, where the caller has it already."""
        self.text = fold(text) if folded is None else folded
        self._words: frozenset[str] | None = None
        self._others: Sequence[str] = ()  # its words for other things than a part of them names: 陪产假

    @classmethod
    def each(cls, lines: Sequence[str]) -> list[Passage]:
        """One of each line; folded all at once, which is much faster. None holds a line break."""
        folded = fold("\n".join(lines)).split("\n") if lines else []
        return [cls(line, its) for line, its in zip(lines, folded, strict=True)]

    def share(self, word: str) -> float:
        """1 where the word stands, else the share of its character pairs that do (报销制度 in 报销办法: a third).

        A Chinese word whose characters stand there inside other words counts INSIDE: the dictionary cuts 年假 now as
        one word, now as two. Only in the names of other things it counts nothing: 产假 is not 陪产假, 院长 not 副院长.
        An English word in another form counts INFLECTED; other Latin words and numbers must be words of the text.
        """
        if not _is_cjk(word):
            return self._share_of_latin(word)
        if word in self.text:
            if word in self._all_words():
                return 1.0
            others = sum(other.startswith(word, 1) for other in self._others)
            return 0.0 if others and others == self.text.count(word) else INSIDE
        if len(word) < 3:  # its only pair is the word itself
            return 0.0
        pairs = [word[i : i + 2] for i in range(len(word) - 1)]
        return INSIDE * sum(pair in self.text for pair in pairs) / len(pairs)

    def _share_of_latin(self, word: str) -> float:
        if (word in self.text or "," in self.text) and word in self._all_words():  # 1000 is a word of "1,000"
            return 1.0
        root = stem(word)
        inflected = word.isalpha() and root in self.text and any(stem(other) == root for other in self._all_words())
        return INFLECTED if inflected else 0.0

    def _all_words(self) -> frozenset[str]:
        """Most texts that are asked hold no word of the question: they are never cut."""
        if self._words is None:
            words = _words(_CJK_RUN.split(self.text))
            if _ANOTHER.search(self.text):
                words = _joined(words)
                self._others = [word for word in words if _ANOTHER.fullmatch(word)]
            self._words = frozenset(words)
        return self._words
