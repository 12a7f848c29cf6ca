import pytest

from kbqa.analyzer import fold
from kbqa.questions import gap_fillers, identifiers


def fillers(question, text):
    return [match.group() for pattern in gap_fillers(question) for match in pattern.finditer(fold(text))]


@pytest.mark.parametrize(
    ("question", "text", "found"),
    [
        ("年假有几天？", "每年十天年假。", ["十天"]),
        ("工龄满多少年可休十五天？", "满十年。", ["十年"]),
        ("营业收入是多少？", "2021年营业收入达到250,000元。", ["250,000"]),
        ("花了多少钱？", "价格三百元。", ["三百"]),
        ("会议在哪一天？", "定于5月20日。", ["5月", "20日"]),
        ("为什么延期？", "由于台风，会议延期。", ["由于"]),
        ("What was the value of the deal?", "In June 2017, it paid $150 million.", ["150"]),
        ("When did it open?", "It opened in March 1998.", ["march", "1998"]),
    ],
)
def test_what_could_fill_the_gap_is_found(question, text, found):
    assert fillers(question, text) == found


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("员工满意度是多少？", "2021年6月提供了一系列培训，一定程度上提升了满意度。"),
        ("What was the value of the deal?", "The deal was closed in June 2017, after a year."),
        ("会议在哪一天？", "会议在上海召开。"),
    ],
)
def test_a_date_is_no_amount_and_一系列_no_number(question, text):
    assert fillers(question, text) == []


def test_a_question_that_asks_for_a_name_has_no_pattern():
    assert gap_fillers("谁负责备份？") == []


def test_numbers_models_and_ordinals_pin_a_question_down():
    assert identifiers("KB200 的第二级、2024年、三类城市") == {"kb200", "第二", "2024", "三"}
    assert identifiers("漢水最終注入哪一條河？") == set()
