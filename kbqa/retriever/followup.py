"""A follow-up question made self-contained from the question before it, before it is searched for.

「那成都呢？」 after 「去北京出差，住宿费多少？」 becomes 「去成都出差，住宿费多少？」: a word of the same kind, its
counterpart, stands in the question before. Otherwise the two are put together: 「X200的功耗，它的重量呢？」. What is
taken from the question before weighs less in the search than what was asked just now (`retriever.search`).

Knows grammar and the shape of words, nothing about the documents: whether a short question that does not point back is
a new one, the retriever finds out from them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kbqa.analyzer import CJK, fold, question_terms, stop_words

__all__ = ["Leaning", "leaning", "standalone"]

Leaning = Literal["no", "perhaps", "yes"]

FEW_WORDS = 2  # telling words in a question that may not stand alone
MOST_WORDS = 4  # in what a question that ends in 呢 asks about; a longer one may well stand alone
# Telling words before a pronoun: with more, it points to one of them; fewer suffice in an earlier clause, and for its,
# their, his, her, which mostly point to the subject.
NAMED_BEFORE, NAMED_CLOSE_BY = 3, 1
LONGEST = 500  # characters of the question before that are taken along

_CHINESE = re.compile(f"[{CJK}]")
_END = " \t\n，,。.！!？?；;"
_CLAUSE = re.compile("[，,；;。]")
_ASKS = re.compile(
    r"什么|怎么|怎样|如何|多少|多[久长大高远重快深宽]|几|谁|哪|为何|是否|能不能|有没有|是不是|吗|"
    r"\b(?:what|which|who|when|where|why|how)\b",
    re.IGNORECASE,
)
_ASKED = re.compile(  # the end of a question that is taken along; with it, 「是多少」 would be asked again
    r"(?<!需)(?:是|有|要|在|为|能|会)*(?:什么(?:时候|地方|意思|用|样的?)?|怎么样|怎样|如何|(?:多少|几)[^，,的]{0,2}|多[久长大高远重快深宽]|谁"
    r"|哪[个些家种位里儿]?|吗|呢)$"
)
_LEAD = re.compile(
    r"^(?:(?:那么?|还有|另外|此外|以及|然后|至于|对了|好的?|嗯|哦|请问|如果是?|要是|换成|换作|and|then|also|so|ok)[，,、\s]*)+",
    re.IGNORECASE,
)
_TIMES = "(?:年|月|星期|礼拜|周|季度|时候|年代|天|year|month|week|quarter|time)"
_PRONOUN = re.compile(
    r"(?<!其)它们?|(?<![其吉排])[他她]们?(?!人|乡|国|信)|其中|(?<![尤极与何])其(?![他她它中余实次间])|前者|后者|两者|二者|上述|"
    rf"(?<![有》」”A-Za-z0-9])[这那](?:个|些|种|项|款|台|类|家|张|份|条|位|套|件|本|部|次|里|边|两)(?!{_TIMES})|(?:^|[，,])[这那](?:是|会|能|要)|"
    r"(?<![应本活不])该(?![不怎如找去由向在到填交用注多谁什是有按走做])(?=\w)|此(?=[类项种款个命功产规办制设条参])|"
    rf"\b(?:it|its|they|them|their|theirs|those|these|this|that|he|she|his|her|him)\b(?! {_TIMES})",
    re.IGNORECASE,
)
_AFTER_ALL = re.compile(r"^(.+?)(?:的\s*)?(?:呢|又如何|又怎么样)[？?。！!\s]*$")  # 成都呢？
_AFTER_THAT = re.compile(r"^(.+?)(?:怎么样|如何)[？?。！!\s]*$")  # only behind 那: 「兼容性如何？」 may be new
_ABOUT = re.compile(r"^(?:what|how) about (.+?)[？?.\s]*$", re.IGNORECASE)
_MEANT = re.compile(  # 不对，我问的是……
    r"^(?:不对|不是的?|错了|no)?[，,。\s]*"
    r"(?:我(?:是说|的意思是|指的?是|说的是|[想要]?问的?是|想问的?是?)|i mean)\s*[:：，,]?(.+?)[？?。\s]*$",
    re.IGNORECASE,
)
_RATHER = re.compile(  # 不是……，我想问……
    r"^不是.+?[，,]\s*(?:而?是|我(?:是说|要问|想问|问|想要|想|要|说)的?是?)(.+?)[？?。\s]*$"
)
_COMPARES = re.compile(
    r"^(?:和|跟|与|同|比起?).+(?:比|区别|不同|不一样|差别|差异|差多少|关系|一样|相同)|也?一样吗|也是(?:这样)?吗"
)

# What names, numbers and Chinese words are cut out of a question by, for their counterparts.
_UNIT = "年|个?月|日|号|季度|类|级|档|期|章|条|届|代|周|天|小时|倍|折|楼|层"
_NUMERAL = re.compile(rf"第?[\d一二三四五六七八九十百]+(?P<unit>{_UNIT})")
_PIECE = re.compile(
    rf"(?P<version>[vV]?\d+(?:\.\d+)+)|(?P<name>[A-Za-z](?:[A-Za-z0-9_.\-]*[A-Za-z0-9])?)|{_NUMERAL.pattern}"
    rf"|(?P<number>\d+)|(?P<words>[{CJK}]+)"
)
MADE = "made"  # of single characters
_PROPER = {"ns", "nr", "nt", "nz", "t"}  # jieba's marks of places, people, organisations, other names and times
_EMPTY_ENDS = set("子儿头性化的时间者们上下里中")  # a last character that says nothing about a word's kind
_SAME, _SAME_KIND, _SAME_PROPER, _SAME_END, _BOTH_NAMES = 3.0, 2.5, 2.0, 1.5, 1.0


def leaning(question: str) -> Leaning:
    """Whether the question needs the one before it: 「那上海呢？」 does, 「联系人是谁？」 perhaps."""
    body = _body(question)
    words = _telling(body)
    if _fragment(question) or _compares(body) or _points_back(body):
        return "yes"
    if not words and not _names_something(body):
        return "yes" if _ASKS.search(body) else "no"  # 为什么？ 谢谢
    return "perhaps" if len(words) <= FEW_WORDS or body != question.strip() else "no"


def standalone(question: str, previous: str) -> str:
    """`question` with what it leaves unsaid from `previous`, the question before it, which is self-contained."""
    previous, body, fragment = previous.strip(_END)[-LONGEST:], _body(question), _fragment(question)
    if not previous:
        return question
    comma, mark = ("，", "？") if _CHINESE.search(previous + body) else (", ", "?")
    if not fragment or _ASKS.search(fragment):
        return f"{_ASKED.sub('', previous).strip() or previous}{comma}{fragment or body}"
    if span := _counterpart(fragment, previous):
        return f"{previous[: span[0]]}{fragment}{previous[span[1] :]}{mark}"
    return f"{fragment}{comma}{previous}{mark}"


def _body(question: str) -> str:
    return _LEAD.sub("", question.strip())


def _telling(text: str) -> list[str]:
    """The words that say something; the parts of a name (tidb, gc of tidb_gc_life_time) are none of their own."""
    words = [word for word in question_terms(text).words if len(word) > 1 and word not in stop_words()]
    return [word for word in words if not (word.isascii() and any(word != other and word in other for other in words))]


def _names_something(body: str) -> bool:
    """Whether single characters make a name in it that the dictionary does not have: 年 and 假 of 「年假有几天？」."""
    return any(word.kind == MADE for word in _words(body))


def _fragment(question: str) -> str:
    """What a question that is not whole is about: 成都 of 「那成都呢？」, 研发岗 of 「我是说研发岗」; "" for others."""
    body = _body(question)
    if found := _RATHER.match(body) or _MEANT.match(body):
        return found[1].strip(_END)
    found = _AFTER_ALL.match(body) or _ABOUT.match(body)
    if not found and body != question.strip():
        found = _AFTER_THAT.match(body)
    if not found or _ASKS.search(found[1]) or _points_back(found[1]) or _compares(body):
        return ""
    return found[1].strip(_END) if len(_telling(found[1])) <= MOST_WORDS else ""


def _compares(body: str) -> bool:
    return len(_telling(body)) <= MOST_WORDS and _COMPARES.search(body) is not None


def _points_back(body: str) -> bool:
    """Whether a pronoun stands in it for something that the question itself does not name before."""
    for found in _PRONOUN.finditer(body):
        before = body[: found.start()]
        alone = found[0].isascii() or any(word.start == found.start() for word in _words(body))  # not 其 of 马其顿
        close_by = _CLAUSE.search(before) or found[0].lower() in ("its", "their", "his", "her")
        if alone and len(_telling(before)) <= (NAMED_CLOSE_BY if close_by else NAMED_BEFORE):
            return True
    return False


# --- what a fragment takes the place of ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    start: int
    end: int
    kind: str  # version, name, made, number, english (a common word), the unit of a numeral, or jieba's part of speech


def _words(text: str) -> list[_Word]:
    import rjieba

    words = []
    for found in _PIECE.finditer(text):
        if found["words"] is None:
            kind = f"一{found['unit']}" if found["unit"] else found.lastgroup or ""
            if kind == "name" and found[0].isalpha() and found[0].islower() and not _CHINESE.search(text):
                kind = "english"
            words.append(_Word(found[0], found.start(), found.end(), kind))
            continue
        at = found.start()
        for word, tag in rjieba.tag(found[0]):
            words.append(_Word(word, at, at + len(word), tag))
            at += len(word)
            if _is_made(words[-2:]):
                words[-2:] = [_Word(words[-2].text + word, words[-2].start, at, MADE)]
    return words


def _is_made(last: Sequence[_Word]) -> bool:
    """Whether two characters that were cut apart are a name that the dictionary does not have: 年 and 假."""
    if len(last) < 2 or any(len(word.text) > 1 or word.text in stop_words() for word in last):
        return False
    return last[0].end == last[1].start and last[0].kind[0] != "v" and last[1].kind[0] == "n"


def _counterpart(fragment: str, previous: str) -> tuple[int, int] | None:
    """The span of `previous` that `fragment` takes the place of; None when nothing there is of its kind.

    物理导入模式 for 逻辑导入模式: where one word of both is alike, its neighbours go with it, one for one. Of equals
    the last is taken: what is new in a question tends to stand near its end.
    """
    asked, before = _words(fragment), _words(previous)
    best: tuple[float, int, tuple[int, int]] | None = None
    for i, word in enumerate(asked):
        for j, other in enumerate(before):
            likeness = _likeness(word, other)
            first = j - _alongside(asked[:i][::-1], before[:j][::-1])
            last = j + _alongside(asked[i + 1 :], before[j + 1 :])
            span = before[first].start, before[last].end
            if not likeness or fold(previous[slice(*span)]) == fold(fragment):
                continue
            if best is None or (likeness, j) > best[:2]:
                best = likeness, j, span
    return best[2] if best else None


def _alongside(asked: Sequence[_Word], before: Sequence[_Word]) -> int:
    """How many of the words `before` correspond one by one to those asked: both tell something, or are the same."""
    count = 0
    for word, other in zip(asked, before, strict=False):
        if word.text != other.text and {word.text, other.text} & stop_words():
            break
        count += 1
    return count


def _likeness(word: _Word, other: _Word) -> float:
    """How surely two words name things of one kind; 0 when nothing says so."""
    a, b = fold(word.text), fold(other.text)
    if a == b:
        return _SAME
    if a in stop_words() or b in stop_words():
        return 0.0
    if word.kind == other.kind == "name":
        return _BOTH_NAMES + _shared_start(a, b) / max(len(a), len(b))
    if word.kind == other.kind and (word.kind[0] == "一" or word.kind in ("version", "number", "m")):
        return _SAME_KIND
    if {"name", "version", "number", "english"} & {word.kind, other.kind}:
        return 0.0
    if word.kind == other.kind and word.kind in _PROPER and len(a) == len(b):
        return _SAME_PROPER
    return _SAME_END if len(a) > 1 and len(b) > 1 and a[-1] == b[-1] and a[-1] not in _EMPTY_ENDS else 0.0


def _shared_start(a: str, b: str) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
