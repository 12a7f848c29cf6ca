"""What a question asks for: what would fill its gap, what it pins down by number, one thing or several."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from kbqa.analyzer import fold, is_word, word_bounds

__all__ = ["Task", "gap_fillers", "identifiers", "impersonal", "office_asked", "share_held", "task"]

_YEAR = r"(?:19|20)\d\d"
_SPOKEN = r"[二三四五六七八九十百千万亿两半][一二三四五六七八九十百千万亿零两半点]*|一[二三四五六七八九十百千万亿点]+"
_ONE_OF = r"一(?=[天年日周月元吨米倍成层岁级时分秒])"  # not 一些, 一定, 一系列
_MONTHS = r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b"
_TIME = re.compile(
    rf"(?:\d+|{_SPOKEN}|一)\s*(?:年|月|日|号|天|周|点|时|小时|分钟|秒|个月|个工作日|世纪)|周[一二三四五六日]|\b{_YEAR}\b"
    rf"|{_MONTHS}|\d+:\d\d|\d+ (?:years?|months?|weeks?|days?|hours?|minutes?|seconds?)\b"
)
# So long: 5天, 三个月, 两年; neither 3月31日 nor 2021年.
_LENGTH = re.compile(
    rf"(?<![\d.月])(?!{_YEAR}年)(?:\d+(?:\.\d+)?|{_SPOKEN}|一)\s*(?:个月|个?工作日|个?小时|个?星期|天|日|周|年|分钟)"
)
# A number that is no date: 2017年 or "in May 2017" does not say how many.
_NUMBER = re.compile(
    rf"(?<![\d.])(?!{_YEAR}(?!\d|[.,]\d|[%万亿元吨]))\d[\d,.]*(?!\s*[年月日号]|\d)|(?:{_SPOKEN}|{_ONE_OF})(?![年月日号]|分之|一)|[百千]分之"
)

# 采购部, 质检科, 总裁办公室; not 全部, 部分, 处理, 室内.
_DEPARTMENT = re.compile(
    r"(?<=\w)(?:(?<![全内外局各大])部(?![分位件队首署下级])|科(?![学技目普])|(?<![各好到害益])处(?![理罚置于在分以])|室(?![内外温友])"
    r"|中心(?!思)|委员会|[小班]组|大队)"
)

# What fills the gap of a question, by its question word: a pattern for the question, one for an answer.
_GAPS: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (
        re.compile(
            r"什么时候|何时|哪一?[年月天日]|几月|几号|日期|时间|多久|多长时间|几点|[几多]少?[年周]|\bwhen\b"
            r"|\b(?:what|which) (?:year|month|date|day|time)\b|\bhow long\b"
        ),
        _TIME,
    ),
    (re.compile("(?:几|多少)(?:天|个(?:月|工作日|小时))"), _LENGTH),
    (
        re.compile(
            r"多少(?![年天周])|几[个次位家种名倍项条]|多[大高长远宽重快深]|比例|金额|价格|费用|占比|百分之几|[率量额]是"
            r"|\bhow (?:many|much|large|big|high|far)\b|\b(?:what|which) (?:percentage|amount|number|share|price)\b"
            r"|\bwhat (?:is|was|were|are) the (?:\w+ ){0,3}(?:value|amount|percentage|number|price|cost|revenue|profit"
            r"|flow|equity|assets|liabilities|ratio|rate)\b"
        ),
        _NUMBER,
    ),
    (re.compile(r"电话|热线|号码"), re.compile(r"\d[\d\-]{2,}")),
    (re.compile("(?:哪一?[个些]?|什么)(?:部门|科室|处室)"), _DEPARTMENT),
    (re.compile(r"地址|网址|邮箱|url"), re.compile(r"[\w.\-]+[@./:][\w.\-/]+|[路街号楼室]")),
    (re.compile(r"为什么|为何|原因|\bwhy\b"), re.compile(r"因为|由于|因此|所以|导致|原因|为了|because|due to")),
)

_IDENTIFIER = re.compile(
    r"[a-z]*\d+(?:\.\d+)?[a-z]*|第[一二三四五六七八九十百]+"
    r"|(?<![哪那这每同任某])[一二三四五六七八九十]+(?=季度|级|类|期|章|条|届|代|号)"  # 三类城市; not 哪一类
)


def gap_fillers(question: str) -> list[re.Pattern[str]]:
    """Patterns, for folded text, of what could answer `question`; none when its question word does not tell."""
    folded = fold(question)
    return [filler for asked, filler in _GAPS if asked.search(folded)]


# The offices that one person holds, by which others call him; not 负责人 and 联系人, which may be a department.
_TITLE = (
    r"(?:经理|主任|主管|总监|总裁|主席|书记|董事长|秘书长|护士长|[部院校处科局厂店站所队组班会行馆园室]长|总工程师"
    r"|总会计师|首席\w{1,3}官|法定代表人|法人代表)"
)
_HOLDER = re.compile(
    rf"(?P<title>{_TITLE})(?:现在|目前)?(?:[是为叫](?:谁|哪一?[位个](?:人|(?!\w))|何人)|[叫姓](?:什么|啥)|的?(?:名字|姓名))(?!的)"
    rf"|(?:谁|哪一?位|哪个人)(?:现在|目前)?(?:是|担任|当|任)\w{{0,12}}?(?P<named>{_TITLE})(?=\W*$)"
)


def office_asked(question: str) -> str:
    """The office whose holder a question asks the name of: 总经理 of 「总经理是谁？」; "" for most questions.

    A sentence that only says what a 总经理 does is no answer to it.
    """
    found = _HOLDER.search(fold(question))
    return (found["title"] or found["named"]) if found else ""


def identifiers(question: str) -> set[str]:
    """Numbers, model names and ordinals, folded: a passage about another one of them does not answer."""
    return set(_IDENTIFIER.findall(fold(question)))


# The organisation of whoever asks: 我们公司, 咱们单位; 本院 and 公司 at the beginning of a clause and behind a
# preposition, where no name can stand before them. 单位 by itself only where it is a place, or before what only an
# employer has: 单位婚假, 单位几点下班. 单位净值, 单位缴费比例 and 单位工程 are other things. Who asks for 公司名称
# asks for the organisation itself.
_ORGANISATION = "(?:公司|单位|企业|集团|学校|医院|工?厂|[院校司])"
_ITSELF = "(?!的?(?:名称|名字|全称|简称|地址|电话(?!补|费)|成立|叫))"
_OF_EMPLOYERS = "的?(?:食堂|宿舍|班车|(?:[婚产病事丧年]|陪产|年休|探亲|育儿)假)|几点|什么时候"
_ASKER = re.compile(
    r"(?P<who>(?:(?<!\w)(?:请问|我?想?问一?下)?在?|(?<=[在跟给向找从让]))"
    rf"(?:公司|单位(?=里|{_OF_EMPLOYERS})|[院厂校](?=里)|[本贵]{_ORGANISATION})"
    rf"|(?:我|[我咱你]们|咱){_ORGANISATION}){_ITSELF}(?:里(?!程))?的?|(?P<we>咱们?)"
)
_SAYS = re.compile(r"\w")


def impersonal(question: str) -> str:
    """`question` without the words for the asker's own organisation: 「年假有几天？」 for 「我们公司年假有几天？」.

    All documents are the organisation's, so these words say nothing about where the answer stands. A question that
    holds no others stays as it is.
    """
    folded = fold(question)
    if not _ASKER.search(folded):
        return question
    bounds = word_bounds(folded)
    bare = _ASKER.sub(lambda found: _without(found, bounds), folded).strip()
    return bare if bare != folded and _SAYS.search(bare) else question


def _without(found: re.Match[str], bounds: Collection[int]) -> str:
    """What stays of the match: nothing, or all of it where a word reaches across its end (我|校车, 本司|法解释)."""
    whole, who = found[0], found["who"] or found["we"]
    if found.end() in bounds and (who != whole or not _runs_on(found)):
        return ""
    return whole[len(who) :] if found.start() + len(who) in bounds and who != whole else whole


def _runs_on(found: re.Match[str]) -> bool:
    """Whether a word may begin with the last character of the match. The cutter takes 本校 out of 本校准方法."""
    if found[0][-1] not in "院厂校司" or found[0].endswith(("公司", "学校", "医院", "工厂")):
        return False
    behind = found.string[found.end() - 1 : found.end() + 3]
    return any(is_word(behind[:length]) for length in range(2, len(behind) + 1))


def share_held(pinned: set[str], text: str) -> float:
    """The share of the `identifiers` of a question that stand in `text`; 1 when it has none."""
    return len(pinned & identifiers(text)) / len(pinned) if pinned else 1.0


# --- one thing or several --------------------------------------------------------------------------------------------

# Where a sentence or clause begins, maybe with a please; all these patterns are for folded text.
_BEGIN = r"(?:^|(?<=[,。;:.?!]))\s*(?:请|麻烦|帮我|给我|简要|简单|详细|综合|please|can you|could you|\s)*"
_NO_NOUN = "(?![书信仪师器人员费会性])"  # 说明书, 介绍信, 分析师
_TELL = rf"{_BEGIN}(?:(?:总结|概括|归纳|概述|简述|梳理|列举|列出|介绍|描述|分析|说明|阐述){_NO_NOUN}(?:一下|下)?"
_TELL += r"|(?:summari[sz]e|outline|describe|discuss)\b)"
_COMPARE = rf"{_BEGIN}(?:(?:比较|对比){_NO_NOUN}(?:一下|下)?|(?:compare|contrast)\b)"
_MORE = "[更较](?:高|低|早|晚|多|少|大|小|长|短|快|慢|重|轻|贵|便宜|好|强)"
_MORE_ENGLISH = r"\b(?:higher|lower|earlier|later|larger|smaller|greater|longer|shorter|bigger|better|faster|slower"
_MORE_ENGLISH += r"|cheaper|more|less)\b"
_OTHERWISE = r"(?:有(?:什么|何|哪些)|之间的?)(?:区别|差异|差别|不同|异同)|\bdifferences? between\b"

_SUMMARY = re.compile(_TELL)
_SEVERAL = re.compile(
    rf"{_COMPARE}|分别|各自|{_OTHERWISE}|[哪谁].{{0,12}}{_MORE}|\brespectively\b|\bwhich\b.{{0,60}}{_MORE_ENGLISH}"
)
_SOURCE = re.compile(rf"{_BEGIN}(?:结合|根据|依据|基于|按照|参照|based on\b|according to\b)")
# Words that say what to do with what is found, or what kind of thing it is; no document has to hold them.
_FRAME = re.compile(
    rf"{_TELL}|{_COMPARE}|{_SOURCE.pattern}|{_OTHERWISE}|分别|各自|哪一?[家个种款项位](?:公司|企业|机构|单位)?|{_MORE}|之间"
    rf"|方面的?情况|方面|时间|日期|金额|数量|\brespectively\b|\bwhich (?:company|one|of them)\b|{_MORE_ENGLISH}"
    r"|\b(?:each|both|times?|timing|dates?|amounts?|number|percentages?)\b"
)
_YEARS = rf"(?:{_YEAR}年)?"
_TWO = re.compile(
    rf"^(?P<before>(?:.*?(?:{_COMPARE}|,))?{_YEARS})(?P<one>[^,。?]{{2,}}?)\s*(?:和|与|跟|以及|及|、)\s*(?P<other>[^,。?]{{2,}}?)"
    r"(?P<behind>(?:的|在(?!线)|分别|各自|之间|有(?!限)|是|哪|谁|[,。?]|$).*)$"
)
_PLACE = r"\b(?:of|between|by|for|at|with|on|do|does|did|are|is|were|was|when|how|that|from)\b"
_TWO_ENGLISH = re.compile(
    rf"^(?P<before>(?:.*{_PLACE})?\s*)(?P<one>(?:(?!{_PLACE})[^?;])+?)\s+(?:and|versus|vs\.?)\s+(?P<other>[^?;]+?)"
    r"(?P<behind>(?:\s+(?:had|have|has|respectively|each)\b|\.\s|[?,]|$).*)$"
)
_CHINESE = re.compile("[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Task:
    """`parts`: what must be found, one question for each thing; only those of one thing are as they were asked."""

    kind: Literal["one", "several", "summary"]
    parts: tuple[str, ...]


def task(question: str) -> Task:
    """Whether the answer may stand in one sentence, and what the documents must hold for it.

    「比较甲公司和乙公司的净利润，哪家更高？」 asks for two things, and no document says 比较 or 更高.
    """
    folded = fold(question)
    if _SUMMARY.search(folded):
        return Task("summary", (_FRAME.sub(",", folded),))
    if _SEVERAL.search(folded):
        return Task("several", tuple(_FRAME.sub(",", part) for part in _halves(folded)))
    bare = _SOURCE.sub("", folded)
    return Task("one", (question if bare == folded else bare,))


def _halves(folded: str) -> list[str]:
    """「甲和乙的净利润」: 「甲的净利润」, 「乙的净利润」."""
    found = (_TWO if _CHINESE.search(folded) else _TWO_ENGLISH).match(folded)
    if not found:
        return [folded]
    return [f"{found['before']}{found[name]}{found['behind']}" for name in ("one", "other")]
