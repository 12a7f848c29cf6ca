import pytest

from kbqa.support import check
from kbqa.types import Chunk

LEAVE = Chunk(
    "制度.md", 0, "员工每年享有十天年假。未休的年假可以顺延到次年三月三十一日。", (100, 130), heading="第二章 年假"
)
TRAVEL = Chunk("差旅.md", 0, "住宿标准为每晚400元。超出部分由个人承担。", (0, 22), heading="第三章 差旅")
SALES = Chunk("报表.xlsx", 3, "西南 | 180 | 560.2\n华北 | 95 | 610.5", (50, 77), preface="大区 | 8月 | 9月")


def test_a_sentence_that_stands_in_a_passage_is_supported_by_exactly_that_sentence():
    support = check("超出部分由个人承担。", [LEAVE, TRAVEL])
    assert support.verdict == "supported"
    assert support.share == 1
    assert support.quote is not None
    assert (support.quote.chunk, support.quote.text) == (TRAVEL, "超出部分由个人承担。")


def test_the_span_of_a_quote_points_into_the_document_not_into_the_chunk():
    quote = check("未休的年假可以顺延到次年三月三十一日。", [LEAVE]).quote
    assert quote is not None
    assert quote.span == (111, 130)
    assert LEAVE.text[11:30] == quote.text


@pytest.mark.parametrize("sentence", ["員工每年享有十天年假", "每年，员工享有十天年假。"])
def test_another_wording_or_script_of_the_same_is_supported(sentence):
    assert check(sentence, [TRAVEL, LEAVE]).verdict == "supported"


def test_a_looser_wording_is_partly_supported():
    assert check("员工每年可以享有十天的年假。", [TRAVEL, LEAVE]).verdict == "partly"


def test_a_wrong_number_is_never_supported_however_alike_the_rest_is():
    assert check("住宿标准为每晚400元。", [TRAVEL]).verdict == "supported"
    assert check("住宿标准为每晚500元。", [TRAVEL]).verdict == "not"


def test_something_else_is_not_supported():
    support = check("公司食堂在二楼营业。", [LEAVE, TRAVEL])
    assert support.verdict == "not"
    assert support.share < 0.4


@pytest.mark.parametrize("sentence", ["", "  ", "。！？", "——"])
def test_a_sentence_without_words_is_not_supported(sentence):
    assert check(sentence, [LEAVE]).quote is None


def test_without_passages_nothing_is_supported():
    assert check("员工每年享有十天年假。", []).verdict == "not"


def test_heading_and_table_header_count_only_beside_words_of_the_quote():
    assert check("西南；9月：560.2", [SALES]).verdict == "supported"
    assert check("第三章 差旅", [TRAVEL]).verdict != "supported"


def test_a_row_is_quoted_whole_and_the_right_one():
    quote = check("华北大区9月：610.5", [SALES]).quote
    assert quote is not None
    assert quote.text == "华北 | 95 | 610.5"
    assert SALES.text[quote.span[0] - 50 : quote.span[1] - 50] == quote.text


def test_of_equal_passages_the_first_is_quoted():
    copy = Chunk("副本.md", 0, TRAVEL.text, TRAVEL.span)
    for first, second in ((TRAVEL, copy), (copy, TRAVEL)):
        quote = check("超出部分由个人承担。", [first, second]).quote
        assert quote is not None
        assert quote.chunk is first
