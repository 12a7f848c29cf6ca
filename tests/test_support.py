"""A sentence of an answer against passages: what bears it out, what is wrong with it, and what a paraphrase may do."""

import time

import pytest

from kbqa.support import check
from kbqa.support.spelling import plain
from kbqa.types import Chunk

LEAVE = Chunk(
    "制度.md", 0, "员工每年享有十天年假。未休的年假可以顺延到次年三月三十一日。", (100, 130), heading="第二章 年假"
)
TRAVEL = Chunk("差旅.md", 0, "住宿标准为每晚400元。超出部分由个人承担。", (0, 22), heading="第三章 差旅")
SALES = Chunk("报表.xlsx", 3, "西南 | 180 | 560.2\n华北 | 95 | 610.5", (50, 77), preface="大区 | 8月 | 9月")


def passages(*texts: str) -> list[Chunk]:
    return [Chunk(f"{n}.md", 0, text, (0, len(text))) for n, text in enumerate(texts)]


def verdict(sentence: str, *texts: str) -> str:
    return check(sentence, passages(*texts)).verdict


# --- which words bear it out -----------------------------------------------------------------------------------------


def test_a_sentence_that_stands_in_a_passage_is_supported_by_exactly_that_sentence():
    support = check("超出部分由个人承担。", [LEAVE, TRAVEL])
    assert support.verdict == "supported"
    assert support.share == 1
    assert [(quote.chunk, quote.text) for quote in support.quotes] == [(TRAVEL, "超出部分由个人承担。")]


def test_the_span_of_a_quote_points_into_the_document_not_into_the_chunk():
    quote = check("未休的年假可以顺延到次年三月三十一日。", [LEAVE]).quote
    assert quote is not None
    assert quote.span == (111, 130)
    assert LEAVE.text[11:30] == quote.text


def test_of_equal_passages_the_first_is_quoted():
    copy = Chunk("副本.md", 0, TRAVEL.text, TRAVEL.span)
    for first, second in ((TRAVEL, copy), (copy, TRAVEL)):
        quote = check("超出部分由个人承担。", [first, second]).quote
        assert quote is not None
        assert quote.chunk is first


@pytest.mark.parametrize(
    "sentence", ["距离为 `[1,2,3]` 到 [2,3,4]。", "`INSERT`/`DELETED` | 计划 #19269", "**合计**：14`16枚"]
)
def test_what_is_quoted_letter_for_letter_is_supported_whatever_it_holds(sentence):
    support = check(sentence, passages(f"前一句。\n{sentence}\n后一句。"))
    assert support.verdict == "supported"
    assert [quote.text for quote in support.quotes] == [sentence]


def test_a_list_with_semicolons_that_is_quoted_whole_is_supported_by_itself():
    listed = "工作满1年不满10年的，年休假5天；满10年不满20年的，年休假10天；满20年的，年休假15天。"
    chunks = passages(f"员工可享受年休假。{listed}年休假应当在当年使用完毕。")
    support = check(listed, chunks)
    assert support.verdict == "supported"
    assert [quote.text for quote in support.quotes] == [listed]
    assert check(listed.replace("15天", "5天"), chunks).verdict != "supported"
    assert check(listed.replace("；满10年不满20年的，年休假10天", ""), chunks).quotes != support.quotes


@pytest.mark.parametrize("sentence", ["亿" * 5000, "一" + "亿" * 5000, "9" * 9000, "不" * 3000, "甲，乙，" * 1000])
def test_a_nonsensical_sentence_or_passage_is_no_error(sentence):
    assert check(sentence, [LEAVE]).verdict == "not"
    assert check(LEAVE.text, passages(sentence)).verdict == "not"


def test_something_else_is_not_supported():
    support = check("公司食堂在二楼营业。", [LEAVE, TRAVEL])
    assert support.verdict == "not"
    assert support.share < 0.4


@pytest.mark.parametrize("sentence", ["", "  ", "。！？", "——", "[1]", "- ", "|---|---|", "根据文档，"])
def test_a_sentence_without_words_is_not_supported(sentence):
    assert check(sentence, [LEAVE]).quote is None


def test_without_passages_nothing_is_supported():
    assert check("员工每年享有十天年假。", []).verdict == "not"


# --- told otherwise and still true -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentence",
    [
        "員工每年享有十天年假",
        "每年，员工享有十天年假。",
        "员工享有十天年假。",
        "员工每年可以享有十天的年假。",
        "根据已知信息，员工每年享有十天年假。",
        "资料显示：员工每年享有 10 天年假。",
        "- **员工每年享有十天年假** [1]",
        "2. 员工每年享有十天年假【3】。",
    ],
)
def test_another_order_script_or_frame_and_fewer_words_are_supported(sentence):
    assert check(sentence, [TRAVEL, LEAVE]).verdict == "supported"


def test_a_dropped_clause_leaves_the_rest_supported():
    text = "公司成立于2001年，总部设在成都，现有员工五百人。"
    assert verdict("公司成立于2001年，现有员工五百人。", text) == "supported"


def test_a_looser_wording_is_partly_supported():
    support = check("员工每年拥有十天年假。", [TRAVEL, LEAVE])
    assert support.verdict == "partly"
    assert support.doubts == ("拥有",)


def test_the_subject_may_come_from_the_title_or_the_sentence_before():
    text = "梅艳芳是香港歌手。她在电影界也获得多项大奖。"
    chunk = Chunk("甲.md", 0, text, (0, len(text)), title="梅艳芳")
    assert check("梅艳芳在电影界也获得多项大奖。", [chunk]).verdict == "supported"
    assert check("张国荣在电影界也获得多项大奖。", [chunk]).verdict == "not"


def test_a_name_of_the_title_does_not_take_the_place_of_another_name():
    text = "北京大学成立于1898年。"
    assert check("清华大学成立于1898年。", [Chunk("甲.md", 0, text, (0, 12), title="清华大学")]).verdict == "not"


# --- numbers and dates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("罚款２００元。", "违反安全规定的罚款二百元。"),
        ("试用期为三个月。", "试用期为3个月。"),
        ("注册资本1,200万元。", "公司注册资本为12000000元。"),
        ("注册资本为三亿五千万元。", "公司注册资本为3.5亿元。"),
        ("工资按80%发放。", "病假期间工资按百分之八十发放。"),
        ("会议于2024年3月5日举行。", "会议定于2024-03-05举行。"),
        ("会议于3月5日举行。", "会议定于二〇二四年三月五日举行。"),
        ("The contract ends on 5 March 2024.", "The contract ends on March 5, 2024."),
        ("Revenue reached 5,000,000 dollars.", "Revenue reached 5 million dollars."),
        ("占三分之一。", "占1/3。"),
    ],
)
def test_a_number_or_date_in_another_spelling_is_the_same(sentence, text):
    assert verdict(sentence, text) == "supported"


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("住宿标准为每晚500元。", "住宿标准为每晚400元。"),
        ("罚款三百元。", "违反安全规定的罚款二百元。"),
        ("公司提供一种套餐。", "公司提供三种套餐。"),
        ("注册资本1200元。", "公司注册资本为1200万元。"),
        ("会议于2024年3月6日举行。", "会议定于2024-03-05举行。"),
        ("会议于2023年3月5日举行。", "会议定于2024-03-05举行。"),
        ("价格为15美元。", "价格为15元。"),
        ("增长率为15%。", "增长率为15个百分点。"),
        ("X300支持5G。", "X200支持5G，X300只支持4G。"),
        ("The contract ends on March 6, 2024.", "The contract ends on March 5, 2024."),
    ],
)
def test_a_wrong_number_is_never_supported_however_alike_the_rest_is(sentence, text):
    assert verdict(sentence, text) != "supported"


def test_the_number_that_is_wrong_is_told():
    support = check("住宿标准为每晚500元。", [TRAVEL])
    assert support.verdict == "not"
    assert support.doubts == ("500",)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("北京 800 元。", True),
        ("北京 700 元。", False),
        ("上海的住宿标准是700元，北京的住宿标准是800元。", True),
        ("上海的住宿标准是800元，北京的住宿标准是700元。", False),
    ],
)
def test_a_number_must_stand_in_its_place_not_merely_anywhere(sentence, expected):
    assert (verdict(sentence, "住宿标准：北京 800 元、上海 700 元。") == "supported") is expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("满十年的员工每年享有15天年假。", True),
        ("满十年的员工每年享有10天年假。", False),
        ("公司2020年净利润为5亿元。", True),
        ("公司净利润为30亿元。", False),
    ],
)
def test_what_stands_nearest_to_a_number_decides_whose_it_is(sentence, expected):
    texts = (
        "工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。",
        "公司2020年营收为30亿元，净利润为5亿元。",
    )
    assert (verdict(sentence, *texts) == "supported") is expected


def test_a_quote_less_alike_does_not_save_what_the_closest_one_refutes():
    """「举二烟」 has the five hundred, but the sentence is about one beacon."""
    texts = ("按明朝制度，举一烟鸣一炮表示来敌100人左右。", "举二烟鸣二炮，来敌500人左右。")
    assert verdict("按明朝制度，举一烟鸣一炮表示来敌500人左右。", *texts) == "not"


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("三百二十万", "3200000"),
        ("二〇二四年", "2024年"),
        ("第三章", "第3章"),
        ("四川", "四川"),
        ("张三", "张三"),
        ("千万不要", "千万不要"),
        ("一个", "一个"),
        ("it may be in May 2021", "it may be in 2021年5月"),
    ],
)
def test_only_what_counts_is_spelled_as_a_number(text, spelled):
    assert plain(text) == spelled


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("销售部经理是李四。", "销售部经理是张三，电话8001。"),
        ("上海分公司的电话是8001。", "北京分公司的电话是8001。"),
        ("KB-2024-002适用于全体员工。", "KB-2024-001适用于全体员工。"),
        ("Acme acquired Umbrella in 2020.", "Acme acquired Initech in 2020."),
    ],
)
def test_a_name_that_stands_nowhere_is_not_supported(sentence, text):
    assert verdict(sentence, text) == "not"


def test_a_name_of_another_passage_does_not_help():
    texts = ("北京分公司的经理是张三。", "上海分公司的经理是李四。")
    assert verdict("北京分公司的经理是李四。", *texts) == "not"
    assert verdict("上海分公司的经理是李四。", *texts) == "supported"


def test_two_names_that_changed_places_are_noticed_and_the_passive_is_not():
    text = "2020年，甲公司收购乙公司。"
    assert verdict("甲公司收购了乙公司。", text) == "supported"
    assert verdict("乙公司被甲公司收购。", text) == "supported"
    support = check("乙公司收购了甲公司。", passages(text))
    assert (support.verdict, support.doubts) == ("not", ("乙/甲",))


def test_members_of_a_list_may_stand_in_any_order():
    text = "成员国有法国、英国、荷兰和比利时。"
    assert verdict("成员国有比利时、荷兰、法国和英国。", text) == "supported"


# --- negations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "text", "expected"),
    [
        ("逾期可以报销。", "逾期不予报销。", False),
        ("逾期予以报销。", "逾期不予报销。", False),
        ("逾期不能报销。", "逾期不予报销。", True),
        ("厂区内可以吸烟。", "厂区内禁止吸烟。", False),
        ("厂区内不得吸烟。", "厂区内禁止吸烟。", True),
        ("会员资格不可以转让。", "会员资格可以转让。", False),
        ("该功能没有上线。", "该功能已经上线。", False),
        ("该功能已经上线。", "该功能尚未上线。", False),
        ("年假可以顺延到次年。", "未休的年假可以顺延到次年。", True),
        ("公司不仅提供培训。", "公司提供培训。", True),
        ("The deposit is refundable.", "The deposit is not refundable.", False),
        ("The deposit isn't refundable.", "The deposit is not refundable.", True),
        ("The deposit is never refundable.", "The deposit is refundable.", False),
    ],
)
def test_both_must_negate_the_same(sentence, text, expected):
    assert (verdict(sentence, text) == "supported") is expected


# --- several quotes --------------------------------------------------------------------------------------------------


def test_two_sentences_told_in_one_are_both_quoted():
    support = check("员工每年享有十天年假，未休的年假可以顺延到次年三月三十一日。", [TRAVEL, LEAVE])
    assert support.verdict == "supported"
    assert [quote.text for quote in support.quotes] == [LEAVE.text[:11], LEAVE.text[11:]]


def test_two_passages_told_in_one_sentence_are_both_quoted():
    support = check("员工每年享有十天年假，住宿标准为每晚400元。", [LEAVE, TRAVEL])
    assert support.verdict == "supported"
    assert [quote.chunk for quote in support.quotes] == [LEAVE, TRAVEL]


def test_one_clause_that_is_made_up_takes_the_support_away():
    support = check("员工每年享有十天年假，另有三十天探亲假。", [LEAVE, TRAVEL])
    assert support.verdict == "not"
    assert "30" in support.doubts


def test_half_a_sentence_of_another_subject_is_not_put_behind_ours():
    """The net profit is that of 乙公司: without its name it would be read as 甲公司's."""
    texts = ("甲公司营收30亿元。", "乙公司营收20亿元，净利润为5亿元。")
    assert verdict("甲公司营收30亿元，净利润为5亿元。", *texts) != "supported"
    assert verdict("甲公司营收30亿元，乙公司营收20亿元，净利润为5亿元。", *texts) == "supported"


def test_a_date_alone_is_no_clause_of_its_own():
    texts = ("2001年7月，他担任海南省委副书记。", "1995年7月，他担任天津市商业委员会主任。")
    assert verdict("1995年7月，他担任海南省委副书记。", *texts) == "not"


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("西南；9月：560.2", True),
        ("西南大区9月为560.2。", True),
        ("大区：西南；8月：180；9月：560.2", True),
        ("西南 | 180 | 560.2", True),
        ("西南；8月：560.2", False),
        ("西南；9月：610.5", False),
        ("西南大区8月为560.2，9月为180。", False),
    ],
)
def test_a_cell_is_told_with_its_row_and_its_column(sentence, expected):
    assert (check(sentence, [SALES]).verdict == "supported") is expected


def test_a_row_is_quoted_whole_and_the_right_one():
    quote = check("华北大区9月：610.5", [SALES]).quote
    assert quote is not None
    assert quote.text == "华北 | 95 | 610.5"
    assert SALES.text[quote.span[0] - 50 : quote.span[1] - 50] == quote.text


def test_a_unit_may_come_from_the_title_of_the_table():
    text = "西南 | 180 | 560.2"
    sales = Chunk("报表.xlsx", 0, text, (0, len(text)), title="各大区（万元）", preface="大区 | 8月 | 9月")
    assert check("西南大区9月为560.2万元。", [sales]).verdict == "supported"


def test_a_heading_alone_supports_nothing():
    assert check("第三章 差旅", [TRAVEL]).verdict != "supported"


# --- speed -----------------------------------------------------------------------------------------------------------


def test_a_sentence_against_ten_passages_takes_milliseconds():
    line = "第{0}分公司的住宿标准为每晚{0}00元，超出部分由个人承担，特殊情况须经部门经理批准。"
    texts = ["".join(line.format(10 * p + n) for n in range(10)) for p in range(10)]
    asked = passages(*texts)
    check("第7分公司的住宿标准为每晚700元。", asked)
    start = time.process_time()
    for number in range(10, 60):
        assert (
            check(f"第{number}分公司的住宿标准为每晚{number}00元，超出部分由个人承担。", asked).verdict == "supported"
        )
    assert (time.process_time() - start) / 50 < 0.025  # some 2 ms; the rest is for slow machines
