import random

import pytest

from kbqa.sentences import header_of, sentence_spans


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("年假有十天。病假另算！谁来批？", ["年假有十天。", "病假另算！", "谁来批？"]),
        ("甲方负责；乙方配合。", ["甲方负责；", "乙方配合。"]),
        ("他说：「可以。」然后走了。", ["他说：「可以。」", "然后走了。"]),
        ("真的吗？！是的……好。", ["真的吗？！", "是的……", "好。"]),
        ("第一行\n第二行没有句号", ["第一行", "第二行没有句号"]),
        ("The fee is 3.5 percent. Ask Mr. Li! ", ["The fee is 3.5 percent.", "Ask Mr. Li!"]),
        ("Acme Inc. was founded in 2019. It grew.", ["Acme Inc. was founded in 2019.", "It grew."]),
        ("They bought Acme Inc. The board agreed.", ["They bought Acme Inc.", "The board agreed."]),
        ("See Fig. 3, e.g. the U.S. figures. Done.", ["See Fig. 3, e.g. the U.S. figures.", "Done."]),
        ("服务器 192.168.88.1 在线，版本 v2.0.1 已装。", ["服务器 192.168.88.1 在线，版本 v2.0.1 已装。"]),
        ("  前后有空白。  ", ["前后有空白。"]),
        ("你好吗?我很好!", ["你好吗?", "我很好!"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, sentences):
    assert cut(text) == sentences


def test_an_address_with_a_question_mark_is_not_torn():
    assert cut("登录 https://oa.example.cn/a?id=3 后提交。") == ["登录 https://oa.example.cn/a?id=3 后提交。"]


def test_a_table_row_is_one_sentence_whatever_its_cells_hold():
    assert cut("问 | 答\n几天？ | 十天。按年计。") == ["问 | 答", "几天？ | 十天。按年计。"]


def test_only_the_part_asked_for_is_cut():
    text = "前一句。年假有十天。后一句。"
    assert sentence_spans(text, 4, 10) == [(4, 10)]
    assert sentence_spans("") == []
    assert sentence_spans(" \n\t\u3000") == []


ALPHABET = [
    "年",
    "假",
    "a",
    "B",
    "3",
    ".",
    "。",
    "！",
    "？",
    "；",
    "?",
    "!",
    "…",
    "”",
    "）",
    ")",
    " ",
    "\n",
    "\u3000",
    "|",
]


@pytest.mark.parametrize("seed", range(30))
def test_every_character_that_is_not_white_space_lies_in_exactly_one_sentence(seed):
    text = "".join(random.Random(seed).choices(ALPHABET, k=300))
    spans = sentence_spans(text)
    covered = [at for start, end in spans for at in range(start, end)]
    assert len(covered) == len(set(covered))
    assert spans == sorted(spans)
    assert {at for at, c in enumerate(text) if not c.isspace()} <= set(covered)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)


def test_a_long_text_without_any_end_takes_no_noticeable_time():
    """A quadratic cut would need minutes for a megabyte."""
    text = "年" * 1_000_000
    assert sentence_spans(text) == [(0, len(text))]


def test_a_row_knows_its_header():
    text = "地区 | 一季度 | 二季度\n华东 | 320 | 410\n西南 | 180 | 95"
    header = text.split("\n")[0]
    assert header_of(text, text.index("西南")) == header
    assert header_of(text, text.index("华东")) == header
    assert header_of(text, 0) == ""
    assert header_of("华东 | 320 | 410", 0, preface=header) == header
    assert header_of("年假有十天。", 0) == ""


def test_the_header_of_another_table_is_not_taken():
    text = "姓名 | 电话\n王芳 | 8001\n说明如下。\n西南 | 180 | 95"
    assert header_of(text, text.index("西南")) == ""
