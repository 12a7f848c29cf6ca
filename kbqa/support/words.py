"""Words by what they do to a sentence."""

from __future__ import annotations

import re
from importlib.resources import files

__all__ = ["EMPTY", "GENERIC", "LINKS", "MODALS", "NEGATIONS", "UNITS", "stem"]

_ENDING = re.compile(r"(?<=[a-z]{3})(?:'s|ing|ed|es|s|e)$")


def stem(word: str) -> str:
    """A folded Latin word without its ending, cut off roughly: include, includes, included and including are alike."""
    return _ENDING.sub("", word)


LINKS = frozenset("的地得了着之其是为在于将也成")  # when one is dropped, its neighbours come together

# What a paraphrase adds or drops without saying anything else: particles, pronouns, conjunctions, and nouns that only
# name the kind of thing that is told (意思, 原因).
EMPTY = LINKS | {stem(w) for w in files("kbqa").joinpath("data", "empty_words.txt").read_text("utf-8").split()}

# What a text calls its subject once it has been named.
GENERIC = frozenset(
    "公司 本公司 集团 企业 机构 单位 部门 学校 学院 大学 医院 影片 电影 电视剧 节目 小说 作品 专辑 歌曲 游戏 城市 "
    "地区 球队 乐队 组织 车站 建筑 大厦 路线 产品 系统 设备 员工 用户".split()
)

NEGATIONS = frozenset("不没未无勿莫") | {"not", "no", "never", "without", "neither", "nor"}
MODALS = EMPTY | frozenset("予得必须再许准允用")  # may stand between a negation and what it negates

_UNITS = {
    "元": "元", "美元": "美", "欧元": "欧", "%": "%", "年": "年", "月": "月", "日": "日号", "天": "天", "周": "周",
    "时": "时点", "分": "分", "秒": "秒", "吨": "吨", "倍": "倍", "岁": "岁", "ppt": ["ppt"],
}  # fmt: skip
UNITS = {atom: unit for unit, atoms in _UNITS.items() for atom in atoms}
