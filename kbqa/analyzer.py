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
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import rjieba

__all__ = ["CJK", "STOP_WORDS", "VERSION", "Terms", "analyze", "fold", "question_terms"]

VERSION = "1"  # stands in every base: an index built with other terms is not searched with these

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"
_CJK_RUN = re.compile(f"[{CJK}]+")
_NAME = re.compile(r"[^\W_]+(?:[._\-/:@+#'][^\W_]+)*")  # GLM-4-9B, tidb_ddl_version, 192.168.88.1, a@b.cn, it's
_PART = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

# Words that say nothing about the subject. They are dropped from questions, never from documents.
STOP_WORDS = frozenset(
    """的 了 是 在 和 与 及 或 也 都 就 而 被 把 对 于 中 为 之 其 这 那 有 吗 呢 吧 啊 地 得 着 会 能 可以 需要 应该 应当
    什么 多少 怎么 如何 哪 哪里 哪儿 哪个 哪些 哪种 哪位 哪家 哪年 几 谁 为什么 为何 怎样 怎么样 怎么办 请问 何 何时 何地 何种
    多久 多大 多长 多高 多远 是否 有没有 是不是 能不能 可不可以 我 你 您 我们 你们 请 告诉 一下
    the a an of to in is are was were be been and or for on at by with from as it its this that these those
    what which who whom whose how when where why did does do has have had can could should would will may i you we""".split()
)


@dataclass(frozen=True, slots=True)
class Terms:
    words: list[str]
    bigrams: list[str]


@lru_cache(maxsize=1)
def _simplified() -> dict[int, str]:
    table = files("kbqa").joinpath("data", "traditional.txt").read_text(encoding="utf-8")
    return {ord(pair[0]): pair[1] for pair in table.split()}


def fold(text: str) -> str:
    """NFKC, lower case, simplified characters. The length may change: never use offsets across it."""
    return unicodedata.normalize("NFKC", text).lower().translate(_simplified())


def analyze(text: str) -> Terms:
    """All terms of `text`, repeated as often as they occur: Chinese words first, then Latin names and numbers."""
    text = fold(text)
    words: list[str] = []
    bigrams: list[str] = []
    for match in _CJK_RUN.finditer(text):
        run = match.group()
        words += rjieba.cut(run)
        bigrams += [run[i : i + 2] for i in range(len(run) - 1)] or [run]
    for match in _NAME.finditer(_THOUSANDS.sub("", _CJK_RUN.sub(" ", text))):
        name = match.group()
        words.append(name)
        parts = _PART.findall(name)
        if len(parts) > 1:
            words += parts
    return Terms(words, bigrams)


def question_terms(question: str) -> Terms:
    """The terms to search for: each once, stop words dropped (kept if nothing else is left)."""
    terms = analyze(question)
    words = list(dict.fromkeys(terms.words))
    bigrams = list(dict.fromkeys(terms.bigrams))
    telling = [word for word in words if word not in STOP_WORDS]
    return Terms(telling or words, [pair for pair in bigrams if pair not in STOP_WORDS] or bigrams)
