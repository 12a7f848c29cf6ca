"""A true sentence told otherwise, and the same sentence made false: what a check of support has to tell apart.

TRUE and FALSE name the kinds, each a function of the sentence and its surroundings that gives the new sentence, or
None where the sentence offers nothing to it. The same `Random` gives the same sentences. Rules, not a model: what
comes out may read clumsily, but whether it is true is known, which is what measuring needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from kbqa.analyzer import CJK, fold

__all__ = ["FALSE", "TRUE", "Setting", "squeezed", "variants"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What stands around a sentence: the one behind it ("" at the end), all of the passages, and foreign ones.

    `near` is of another document that was found for the same question, `foreign` of any other; "" where none is.
    """

    following: str
    passages: Sequence[str]
    foreign: str
    near: str = ""


Rewrite = Callable[[str, Setting, Random], str | None]
Span = tuple[int, int]

_HAN = re.compile(f"[{CJK}]")
_DATE = re.compile(
    r"(?:\d{4}年(?:\d{1,2}月(?:\d{1,2}日)?)?|\d{1,2}月(?:\d{1,2}日)?"
    r"|\b(?:January|February|March|April|May|June|July|August|September|October|November|December)"
    r"(?: \d{1,2},)? \d{4}"
    rf"|(?<![\d.,$£€])(?:19|20)\d\d(?!\d|[.,]\d|\s?(?:million|billion|%|[{CJK}])))"
)
_NUMBER = re.compile(r"(?<![\d.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d.]*\d)")
_UNITS = "个天年月日元人次倍名家位项条周岁级台层座部张件款届期艘架枚只份吨米种场所间株"
_HAN_NUMBER = re.compile(f"(?<![\\d.第百])[一二三四五六七八九十百两]+(?=[{_UNITS}])")
_DIGITS = "零一二三四五六七八九"
_END = re.compile(r"[。！？.!?；;]?[”」』）)\"']*$")


def variants(sentence: str, setting: Setting, random: Random) -> Iterator[tuple[str, str]]:
    """(kind, sentence) of every kind that the sentence offers something to; the false ones stand nowhere around."""
    around = squeezed("".join(setting.passages))
    for kinds in (TRUE, FALSE):
        for kind, rewrite in kinds.items():
            made = rewrite(sentence, setting, random)
            if made is None or (kinds is FALSE and squeezed(made).rstrip("。.") in around):
                continue
            yield kind, made


def squeezed(text: str) -> str:
    """Folded and without white space, to see whether one text stands in another."""
    return re.sub(r"\s", "", fold(text))


# --- told otherwise --------------------------------------------------------------------------------------------------


def _verbatim(sentence: str, setting: Setting, random: Random) -> str | None:
    return sentence


def _led_in(sentence: str, setting: Setting, random: Random) -> str | None:
    """As models begin."""
    if _is_chinese(sentence):
        return random.choice(("根据已知信息，", "根据文档，", "资料显示，", "文中提到，")) + sentence
    return random.choice(("According to the documents, ", "The text says that ")) + sentence


def _clause_dropped(sentence: str, setting: Setting, random: Random) -> str | None:
    """Without its last clause, unless the sentence is tied together by a condition or a contrast."""
    body, end = _parted(sentence)
    if _is_chinese(sentence):
        if re.search(
            "如果|若|假如|除非|只有|只要|虽然|尽管|不是|否则|不但|不仅|无论|不论|因为|由于|但|然而|却", fold(body)
        ):
            return None
        clauses = body.split("，")
        kept, dropped = "，".join(clauses[:-1]), clauses[-1]
        usable = len(clauses) >= 3
    else:
        match = re.search(r"(?<=\w), (?:which|including|resulting in|\w{3,}ing) [^,;]*$", body)
        kept, dropped = (body[: match.start()], match[0]) if match else ("", "")
        usable = match is not None
    return kept + end if usable and len(dropped) >= 4 and len(kept) >= 12 and _is_balanced(kept) else None


def _list_reordered(sentence: str, setting: Setting, random: Random) -> str | None:
    """Two inner members of a list change places: only of those is it known where they begin and end."""
    if re.search("分别|依次|顺序|respectively", fold(sentence)):
        return None
    item = f"([{CJK}A-Za-z0-9]{{1,12}}?)"
    pattern = (
        f"、{item}、{item}(?=、|和|及|与|與|以及|等)"
        if _is_chinese(sentence)
        else r", ([\w ]{3,40}), ([\w ]{3,40}), and "
    )
    match = re.search(pattern, sentence)
    if match is None or match[1] == match[2] or re.search("[和及与與]", match[1] + match[2]):
        return None
    (a, b), (c, d) = match.span(1), match.span(2)
    return f"{sentence[:a]}{match[2]}{sentence[b:c]}{match[1]}{sentence[d:]}"


def _date_moved(sentence: str, setting: Setting, random: Random) -> str | None:
    """The date at the beginning goes to the end."""
    body, end = _parted(sentence)
    match = re.match(rf"(?:在|于|In |On )?({_DATE.pattern})\s?[，,]\s?(?=.{{12}})", body)
    if match is None:
        return None
    rest = body[match.end() :]
    return f"{rest}（{match[1]}）{end}" if _is_chinese(sentence) else f"{rest[0].upper()}{rest[1:]} ({match[1]}){end}"


def _number_rewritten(sentence: str, setting: Setting, random: Random) -> str | None:
    """三个月 as 3个月, 15天 as 十五天, 1,200 as 1200, 12000元 as 1.2万元, 12.5% as 百分之12.5."""
    edits: list[tuple[Span, str]] = []
    for match in _HAN_NUMBER.finditer(sentence):
        value = _han_value(match[0])
        if value is not None and value > 1:
            edits.append((match.span(), str(value)))
    for span in _numbers(sentence):
        digits, behind = sentence[slice(*span)], sentence[span[1] :]
        plain = digits.replace(",", "")
        if plain != digits:
            edits.append((span, plain))
        elif behind.startswith(("%", "％")) and _is_chinese(sentence):
            edits.append(((span[0], span[1] + 1), f"百分之{digits}"))
        elif behind.startswith("元") and plain.endswith("000") and len(plain) > 4:
            edits.append((span, f"{int(plain) / 10000:g}万"))
        elif re.fullmatch(r"[1-9]\d?", digits) and re.match(f"[{_UNITS}]", behind):
            edits.append((span, _in_han(int(digits))))
    return _edited(sentence, edits, random)


def _joined(sentence: str, setting: Setting, random: Random) -> str | None:
    """Two sentences as one."""
    if not setting.following:
        return None
    link = "，" if _is_chinese(sentence) else ", and "
    return _parted(sentence)[0] + link + setting.following


# --- made false ------------------------------------------------------------------------------------------------------


def _number_changed(sentence: str, setting: Setting, random: Random) -> str | None:
    """One digit is another."""
    edits = [(span, _other_digits(sentence[slice(*span)], random)) for span in _numbers(sentence)]
    for match in _HAN_NUMBER.finditer(sentence):
        at = [i for i, c in enumerate(match[0]) if c in _DIGITS[2:]]
        if at:
            place = random.choice(at)
            digit = random.choice([c for c in _DIGITS[2:] if c != match[0][place]])
            edits.append((match.span(), match[0][:place] + digit + match[0][place + 1 :]))
    return _edited(sentence, edits, random)


def _number_borrowed(sentence: str, setting: Setting, random: Random) -> str | None:
    """A number of the same unit that stands elsewhere in the passages."""
    others = [(text[slice(*span)], _unit(text, span)) for text in setting.passages for span in _numbers(text)]
    here = {sentence[slice(*span)] for span in _numbers(sentence)}
    edits = [
        (span, number)
        for span in _numbers(sentence)
        for number, unit in dict.fromkeys(others)
        if unit and unit == _unit(sentence, span) and number not in here
    ]
    return _edited(sentence, edits, random)


def _numbers_interchanged(sentence: str, setting: Setting, random: Random) -> str | None:
    """Two numbers of one unit in other places; not those of a range or a list, which may mean the same."""
    for first, second in pairwise(_numbers(sentence)):
        a, b = sentence[slice(*first)], sentence[slice(*second)]
        between = sentence[first[1] : second[0]]
        told_apart = len(between) >= 5 or re.search("[增减升降]|from|to", between)
        if a != b and told_apart and _unit(sentence, first) and _unit(sentence, first) == _unit(sentence, second):
            return f"{sentence[: first[0]]}{b}{between}{a}{sentence[second[1] :]}"
    return None


def _date_swapped(sentence: str, setting: Setting, random: Random) -> str | None:
    """Another date of the passages, or another year or month."""
    here = {match[0] for match in _DATE.finditer(sentence)}
    others = [m[0] for text in setting.passages for m in _DATE.finditer(text) if m[0] not in here]
    edits = []
    for match in _DATE.finditer(sentence):
        alike = [date for date in dict.fromkeys(others) if _shape(date) == _shape(match[0])]
        new = random.choice(alike) if alike else _shifted(match[0], random)
        edits.append((match.span(), new))
    return _edited(sentence, edits, random)


def _name_swapped(sentence: str, setting: Setting, random: Random) -> str | None:
    """Another name of the same sort, of the passages or else of a foreign sentence."""
    edits = []
    for pool in (setting.passages, (setting.near, setting.foreign)):
        others = [name for text in pool if text != sentence for name in _names(text)]
        edits = [
            ((start, end), name)
            for (start, end), sort in _names_at(sentence)
            for name, other_sort in dict.fromkeys(others)
            if sort == other_sort and name not in sentence and sentence[start:end] not in name
        ]
        if edits:
            break
    return _edited(sentence, edits, random)


def _negated(sentence: str, setting: Setting, random: Random) -> str | None:
    """A negation taken out where there is one, else put in."""
    out, into = (_OUT, _INTO) if _is_chinese(sentence) else (_OUT_EN, _INTO_EN)
    tokens = _tokens(sentence)
    edits = [(span, out[fold(word)]) for span, word in tokens if fold(word) in out]
    edits = [(span, new) for span, new in edits if not sentence[span[1] :].startswith(" only")]
    if not edits:
        for (_, before), (span, word) in pairwise([((0, 0), ""), *tokens]):
            if fold(word) in into and fold(before) not in _NOT_BEHIND:
                edits.append((span, into[fold(word)]))
    return _edited(sentence, edits, random)


def _opposite(sentence: str, setting: Setting, random: Random) -> str | None:
    """增长 for 下降, 以上 for 以下, before for after."""
    tokens = [(span, fold(word)) for span, word in _tokens(sentence)]
    return _edited(sentence, [(span, _OPPOSITES[word]) for span, word in tokens if word in _OPPOSITES], random)


def _clause_added(sentence: str, setting: Setting, random: Random) -> str | None:
    """Something behind it that no passage says."""
    clauses = [c.strip() for c in re.split("[，,；;：:]", _parted(setting.foreign)[0])]
    around = squeezed("".join(setting.passages))
    usable = [c for c in clauses if 6 <= len(c) <= 60 and squeezed(c) not in around and _is_balanced(c)]
    if not usable:
        return None
    body, end = _parted(sentence)
    return body + ("，" if _is_chinese(sentence) else ", and ") + random.choice(usable) + end


def _foreign(sentence: str, setting: Setting, random: Random) -> str | None:
    return setting.foreign or None


def _near(sentence: str, setting: Setting, random: Random) -> str | None:
    return setting.near or None


TRUE: Mapping[str, Rewrite] = {
    "verbatim": _verbatim,
    "led_in": _led_in,
    "clause_dropped": _clause_dropped,
    "list_reordered": _list_reordered,
    "date_moved": _date_moved,
    "number_rewritten": _number_rewritten,
    "joined": _joined,
}
FALSE: Mapping[str, Rewrite] = {
    "number_changed": _number_changed,
    "number_borrowed": _number_borrowed,
    "numbers_interchanged": _numbers_interchanged,
    "date_swapped": _date_swapped,
    "name_swapped": _name_swapped,
    "negated": _negated,
    "opposite": _opposite,
    "clause_added": _clause_added,
    "foreign": _foreign,
    "foreign_near": _near,
}


# --- words that turn a sentence round ---------------------------------------------------------------------------------


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("/") for pair in text.split())


_OUT = _pairs(
    "不得/可以 不能/能 不可/可以 不可以/可以 不会/会 没有/有 尚未/已经 从未/曾经 未能/成功 不是/是 无法/可以 无需/需要 "
    "不需要/需要 不必/必须 不包括/包括 不含/含 并非/正是 不再/仍然 未/已 不宜/应当 不允许/允许 不属于/属于"
)
_INTO = _pairs(
    "是/不是 有/没有 可以/不可以 可/不可 能/不能 能够/无法 会/不会 必须/不必 应当/不应当 应/不应 需要/不需要 需/无需 "
    "须/无须 已/尚未 已经/尚未 曾/从未 允许/不允许 包括/不包括 包含/不包含 拥有/没有 获得/没有获得 位于/并不位于 "
    "属于/不属于 成为/没有成为 采用/没有采用 达到/没有达到 实现/没有实现 完成/没有完成 担任/没有担任 "
    "参加/没有参加 进行/没有进行 导致/没有导致 提供/不提供 通过/没有通过"
)
_NOT_BEHIND = frozenset("不 没 没有 未 并非 是否 都 还 只 而".split())  # 不 能, 还 是
_OUT_EN = {"not": "", "cannot": "can", "never": "always", "no": "a"}
_INTO_EN = {word: f"{word} not" for word in "is was are were can will may must should could would".split()}
_OPPOSITES = {
    **(
        there := _pairs(
            "增加/减少 增长/下降 上升/下滑 提高/降低 提升/削弱 上涨/下跌 高于/低于 大于/小于 超过/不足 最高/最低 "
            "最大/最小 最多/最少 最早/最晚 以上/以下 之前/之后 以前/以后 允许/禁止 盈利/亏损 成功/失败 开始/结束 "
            "东部/西部 南部/北部 男性/女性 父亲/母亲 国内/国外 购买/出售 加入/退出 扩大/缩小 加强/减弱 "
            "increased/decreased increase/decrease more/less higher/lower before/after highest/lowest largest/smallest "
            "profit/loss first/last above/below successful/unsuccessful improved/worsened acquired/sold "
            "strengthened/weakened positive/negative"
        )
    ),
    **{right: left for left, right in there.items()},
}


# --- parts of a sentence ---------------------------------------------------------------------------------------------


def _is_chinese(text: str) -> bool:
    return len(_HAN.findall(text)) * 4 > len(text)


def _parted(sentence: str) -> tuple[str, str]:
    """The sentence and the punctuation that ends it."""
    at = match.start() if (match := _END.search(sentence)) else len(sentence)
    return sentence[:at], sentence[at:]


def _is_balanced(text: str) -> bool:
    return all(text.count(left) == text.count(right) for left, right in ("（）", "()", "“”", "《》", "「」"))


def _edited(sentence: str, edits: Sequence[tuple[Span, str]], random: Random) -> str | None:
    """One of the edits made; None when there is none to choose from."""
    usable = [(span, new) for span, new in edits if sentence[slice(*span)] != new]
    if not usable:
        return None
    (start, end), new = random.choice(usable)
    return re.sub("  +", " ", sentence[:start] + new + sentence[end:])


def _numbers(text: str) -> list[Span]:
    """Arabic numbers that are no part of a date."""
    dates = [match.span() for match in _DATE.finditer(text)]
    spans = [match.span() for match in _NUMBER.finditer(text)]
    return [span for span in spans if not any(a < span[1] and span[0] < b for a, b in dates)]


def _unit(text: str, span: Span) -> str:
    """What is counted: the character behind, or the Latin word; 亿元 and 亿 人 differ, 元 and 亿元 too."""
    match = re.match(rf"\s?(%|％|[万亿]?[{CJK}]|[A-Za-z]+)", text[span[1] :])
    return ("$" if text[: span[0]].endswith("$") else "") + (match[1] if match else "")


def _other_digits(number: str, random: Random) -> str:
    places = [i for i, c in enumerate(number) if c.isdigit()]
    place = random.choice(places)
    digit = random.choice([c for c in "123456789" if c != number[place]])
    return number[:place] + digit + number[place + 1 :]


def _shape(date: str) -> str:
    return re.sub("[A-Za-z]+", "m", re.sub(r"\d+", "n", date))


def _shifted(date: str, random: Random) -> str:
    """Some years or months earlier or later."""
    if year := re.search(r"\d{4}", date):
        other = int(year[0]) + random.choice((-5, -3, -2, -1, 1, 2, 3, 5))
        return f"{date[: year.start()]}{other}{date[year.end() :]}"
    return re.sub(r"^\d+", lambda month: str(int(month[0]) % 12 + random.randint(1, 3) % 12 or 12), date, count=1)


def _tokens(text: str) -> list[tuple[Span, str]]:
    """Words with their places; of Chinese as the dictionary cuts them, so that 有 is not found in 有限公司."""
    if not _is_chinese(text):
        return [(match.span(), match[0]) for match in re.finditer(r"[A-Za-z]+", text)]
    import rjieba

    tokens, at = [], 0
    for word in rjieba.cut(text):
        tokens.append(((at, at + len(word)), word))
        at += len(word)
    return tokens


_LATIN_NAME = re.compile(
    r"(?<=[a-z0-9,] )(?!Mr|Ms|Mrs|Dr|Chief)[A-Z][\w&-]+[a-z](?: (?:of |and )?(?!Chief)[A-Z][\w&-]*[a-z])*"
)
_QUOTED_NAME = re.compile(r"《[^《》]{2,20}》")
_SORTS = ("nr", "ns", "nt")  # as the dictionary sorts them: persons, places, organisations
_CALENDAR = re.compile("January|February|March|April|May|June|July|August|September|October|November|December")


def _names(text: str) -> list[tuple[str, str]]:
    return [(text[slice(*span)], sort) for span, sort in _names_at(text)]


def _names_at(text: str) -> list[tuple[Span, str]]:
    """Where names stand, and of which sort: Latin ones behind the first word, 《titles》, the dictionary's names."""
    if not _is_chinese(text):
        found = [m.span() for m in _LATIN_NAME.finditer(text) if not _CALENDAR.search(m[0])]
        return [(span, "latin") for span in found]
    import rjieba

    names: list[tuple[Span, str]] = [(match.span(), "title") for match in _QUOTED_NAME.finditer(text)]
    at = 0
    for word, tag in rjieba.tag(text):
        span = at, at + len(word)
        at = span[1]
        inside = any(a <= span[0] < b for (a, b), _ in names)
        if tag in _SORTS and len(word) > 1 and _HAN.match(word) and not inside:
            names.append((span, tag))
    return names


def _han_value(text: str) -> int | None:
    """十五 -> 15, up to 99; None for what is no such number (二三, 一百)."""
    match = re.fullmatch("(?:([一二三四五六七八九])?(十))?([一二三四五六七八九两])?", text)
    if match is None:
        return None
    tens, ten, ones = match.groups()
    value = (_DIGITS.index(tens) if tens else 1) * 10 if ten else 0
    return value + (0 if ones is None else 2 if ones == "两" else _DIGITS.index(ones))


def _in_han(value: int) -> str:
    """15 -> 十五, 1 to 99."""
    tens, ones = divmod(value, 10)
    return ("" if tens == 0 else "十" if tens == 1 else f"{_DIGITS[tens]}十") + (_DIGITS[ones] if ones else "")
