"""A sentence of an answer, as it is held against the passages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from kbqa.support.dictionary import NAMES, NUMERALS, in_dictionary, tagged
from kbqa.support.spelling import plain
from kbqa.support.wording import LISTING, PAUSE, PAUSES, Number, Wording, is_han, is_number
from kbqa.support.words import EMPTY, MODALS

__all__ = ["Claim", "Span", "Word"]

Span = tuple[int, int]  # of atoms

_MARK = re.compile(r"[\[【［]\s*\d+(?:\s*[,，、]\s*\d+)*\s*[\]】］]")  # [1], 【1】
_BULLET = re.compile(r"^\s*(?:[-*•·>#]+\s+|\(?\d{1,2}[.．、)）]\s*(?!\d)|[(（][一二三四五六七八九十\d]+[)）])")
_LEAD_IN = re.compile(  # 根据已知信息， 资料显示， According to the documents,
    r"^\s*(?:(?:根据|依据|按照|据|从)?(?:上述|以上|已知|所?提供的|相关|现有|该|这些|文中)*"
    r"(?:信息|文档|资料|文件|材料|内容|原文|文中|上下文)(?:内容|信息)?中?"
    r"(?:显示|提到|指出|说明|表明|称|记载|规定|可知|来看)?[，,:：]"
    r"|(?:因此|所以|综上所述|综上|总之|换句话说|需要注意的是|答案?)[，,:：]"
    r"|(?:according to|based on) the (?:\w+ )?\w+,"
    r"|the (?:text|documents?|passages?) (?:says?|states?|mentions?) that\b)",
    re.IGNORECASE,
)
_FRAME = re.compile(  # what models say around an answer: 主要包括以下几点： 希望以上信息对您有帮助。
    r"\s*(?:(?:您好|你好|好的|当然|没问题)[，,。！!]*"
    r"|[^，。\d]{0,10}(?:以下|如下|下列|下面)[^，。\d]{0,10}[:：]|here (?:is|are)\b[^.]*:|[^.]{0,30}\bas follows:"
    r"|(?:希望|以上)[^，。\d]{0,14}(?:帮助|有用|参考)[。！!]*|(?:如果?|若)(?:您|你)?(?:还|仍)?(?:有|需要?|想).{0,16}随时.{0,12}"
    r"|(?:i )?hope th(?:is|at) helps[.!]?|(?:please )?let me know if .*)\s*",
    re.IGNORECASE,
)
_TIMES = frozenset("年 月 日 世纪 年代 年间 年初 年底 年末 月底 月初".split())


@dataclass(frozen=True, slots=True)
class Word:
    """Atoms start..end of a claim.

    `is_name`: a person, place, organisation, or a Latin word; `is_known`: the dictionary has it, so that it is cut
    rightly. `weight` is in characters; a Latin word weighs as much as two, what only counts or dates nothing.
    """

    start: int
    end: int
    text: str
    is_name: bool
    is_known: bool
    weight: int


class Claim(Wording):
    """`words` are those that say something; `clauses` are parted by pauses."""

    def __init__(self, sentence: str) -> None:
        bare = _LEAD_IN.sub("", _BULLET.sub("", _MARK.sub("", sentence)))
        super().__init__("" if _FRAME.fullmatch(bare) else plain(bare))
        words = list(self._words())
        self.words = [word for word in words if not _says_nothing(word.text)]
        # 不 is no negation in 不仅 and 未来; where the dictionary does not know the word, it may be one.
        self.whole = frozenset(
            at
            for w in words
            if w.is_known and (w.text in EMPTY or w in self.words)
            for at in range(w.start, w.end)
            if w.end - w.start > 1
        )
        self.clauses = self._clauses()

    def _words(self) -> Iterator[Word]:
        at = 1
        while at < len(self.atoms):
            atom = self.atoms[at]
            if is_han(atom):
                run = "".join(takewhile(is_han, self.atoms[at:]))
                for text, sort in tagged(run):
                    if sort in NUMERALS and text[0] == "一":  # 一米, which is among the numbers too
                        at += len(text)
                        continue
                    weight = 0 if sort in NUMERALS or text in _TIMES else len(text)
                    yield Word(at, at + len(text), text, sort in NAMES, in_dictionary(text), weight)
                    at += len(text)
            else:
                if atom not in PAUSES and atom != "%" and not is_number(atom):
                    yield Word(at, at + 1, atom, True, True, 2)
                at += 1

    def _clauses(self) -> Sequence[Span]:
        clauses = []
        start = 1
        for at, atom in enumerate(self.atoms):
            counts = atom == LISTING and bool(self.numbers_in((start, at)))  # 北京800元、上海700元
            if (atom == PAUSE or counts) and at > start:
                clauses.append((start, at))
                start = at + 1
        return clauses

    def words_in(self, span: Span) -> Sequence[Word]:
        return [word for word in self.words if span[0] <= word.start and word.end <= span[1]]

    def numbers_in(self, span: Span) -> Sequence[Number]:
        return [number for number in self.numbers if span[0] <= number.at < span[1]]

    def says_something(self) -> bool:
        return bool(self.words or self.numbers)


def _says_nothing(word: str) -> bool:
    """不能 and 没有 are looked at as negations."""
    return word in EMPTY or word in "年月日" or MODALS.issuperset(word.lstrip("不没未无"))
