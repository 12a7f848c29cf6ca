import pytest

from kbqa.analyzer import question_terms
from kbqa.evidence import gather, together
from kbqa.types import Chunk, Hit

TEXT = "崇陵位于河北易县，建于1909年。墓道在地宫前。其全长13.23米，宽4.6米。"
TABLE = "城市 | 上限\n北京 | 800元\n上海 | 700元"


def hit(text, score=1.0, **more):
    return Hit(Chunk("a.md", 0, text, (0, len(text)), **more), score)


def best(question, *hits):
    return max(gather(question, {}, hits), key=lambda candidate: candidate.score)


def test_the_sentence_with_the_words_asked_for_wins():
    assert best("崇陵建于哪一年？", hit(TEXT)).text == "崇陵位于河北易县，建于1909年。"


def test_a_sentence_that_leans_on_the_one_before_and_fills_the_gap_wins():
    assert best("崇陵的墓道全长多少米？", hit(TEXT, title="崇陵")).text == "其全长13.23米，宽4.6米。"


def test_a_row_counts_with_its_header():
    found = best("上海的上限是多少？", hit(TABLE))
    assert (found.text, found.header, found.whole) == ("上海 | 700元", "城市 | 上限", 1.0)
    assert found.own > 0
    assert found.context > 0


LEAVE = "年休假见下表。\n累计工作年限 | 年休假天数\n满1年不满5年 | 7天\n满5年不满15年 | 12天\n满15年 | 18天"


@pytest.mark.parametrize(
    ("question", "row"),
    [
        ("满十五年的员工年休假有几天？", "满15年 | 18天"),
        ("工作14年，年休假有几天？", "满5年不满15年 | 12天"),
        ("工作满5年的年休假天数是多少？", "满5年不满15年 | 12天"),
        ("工作了三年，年休假天数是多少？", "满1年不满5年 | 7天"),
        ("入职满二十年，年休假几天？", "满15年 | 18天"),
    ],
)
def test_the_row_whose_range_holds_the_number_wins(question, row):
    found = best(question, hit(LEAVE))
    assert (found.text, found.ranged) == (row, 1.0)


def test_what_stands_before_an_amount_is_told_by_the_row_whose_range_holds_it():
    (row,) = [it for it in gather("入职了二十年的班车", {}, [hit(LEAVE)]) if it.ranged == 1]
    assert row.own == pytest.approx(2 / 3)  # of 入职, 二十年 and 班车


def test_of_open_ranges_the_nearest_one_wins():
    rows = hit("工龄 | 年假天数\n满1年 | 5天\n满10年 | 10天\n满20年 | 15天")
    assert best("工龄15年，年假天数是多少？", rows).text == "满10年 | 10天"
    assert best("工龄25年，年假天数是多少？", rows).text == "满20年 | 15天"


def test_a_sentence_tells_of_the_number_that_its_range_holds():
    found = best("入职十二年，年假有几天？", hit("年假：入职满一年5天，满十年10天。"))
    assert found.own == pytest.approx(1)
    assert best("入职半年，年假有几天？", hit("年假：入职满一年5天，满十年10天。")).own < 1


STATUTE = "满1年不满10年的，年休假5天；\n满10年不满20年的，年休假10天；\n满20年的，年休假15天。"


@pytest.mark.parametrize(
    ("question", "text", "sentence"),
    [
        ("工作25年年休假几天？", STATUTE, "满20年的，年休假15天。"),
        ("工作12年年休假几天？", STATUTE, "满10年不满20年的，年休假10天；"),
        (
            "体重15公斤每次几片？",
            "体重30公斤以上60公斤以下者，每次一片。体重30公斤以下者，每次半片。",
            "体重30公斤以下者，每次半片。",
        ),
        (
            "80万元支出谁审批？",
            "支出超过5万元不超过50万元的，总经理审批。支出超过50万元的，董事会审批。",
            "支出超过50万元的，董事会审批。",
        ),
    ],
)
def test_a_sentence_for_another_range_does_not_answer(question, text, sentence):
    assert best(question, hit(text)).text == sentence


def test_a_sentence_whose_range_does_not_hold_the_number_does_not_say_it():
    (found,) = gather("80万元支出谁审批？", {}, [hit("支出超过5万元不超过50万元的，总经理审批。")])
    assert (found.ranged, found.own < 1) == (-1, True)


def test_a_line_that_asks_is_the_heading_of_what_is_below_it():
    answers = hit("停车怎么收费？\n每月300元。\n食堂几点开饭？\n早餐七点半。\n还有别的问题吗？")
    assert best("食堂几点开饭？", answers).text == "早餐七点半。"
    assert [it.text for it in gather("停车收费", {}, [answers])] == ["每月300元。"]


LODGING = "乙类 | 苏州 | 400元\n丙类 | 其他 | 310元"


def test_a_row_counts_with_the_paragraph_that_introduces_its_table():
    text = f"机票另行规定。\n住宿限额见下表。超出部分自理。\n类别 | 城市 | 标准\n{LODGING}\n住宿发票由本人保管。"
    found = best("苏州住宿标准是多少？", hit(text))
    assert found.text == "乙类 | 苏州 | 400元"
    rows = {it.text: it.context for it in gather("苏州住宿机票", {}, [hit(text)]) if it.header}
    assert rows == pytest.approx({"乙类 | 苏州 | 400元": 1 / 3, "丙类 | 其他 | 310元": 1 / 3})  # of 住宿, not of 机票


def test_a_row_counts_with_the_sentence_elsewhere_that_points_at_its_table():
    rule = hit("第八条 住宿费按城市分级报销，标准见附表一。", heading="第三章 费用")
    table = hit(f"级别 | 城市 | 每天\n{LODGING}", 0.4, heading="附则 > 附表一 限额")
    found = [it for it in gather("苏州住宿标准是多少？", {}, [rule, table]) if it.header]
    assert found[0].pointer == "第八条 住宿费按城市分级报销，标准见附表一。"
    assert found[0].context > 0.5
    (alone, *_) = gather("苏州住宿标准是多少？", {}, [table])
    assert (alone.pointer, alone.context) == ("", 0)


def test_a_longer_name_that_holds_the_one_asked_for_is_another_thing():
    assert gather("产假怎么休？", {}, [hit("男员工陪产假为十五天。")]) == []
    found = best("产假多少天？", hit("陪产假十五天。", 1.0), hit("女员工产假为一百五十八天。", 0.5))
    assert found.text == "女员工产假为一百五十八天。"
    assert best("陪产假多少天？", hit("产假一百五十八天。"), hit("男员工陪产假为十五天。")).rank == 1


STAFF = hit("新员工由站长考核。\n站长王志强，电话8102。\n副站长由总公司任命。\n站长\n职务 | 姓名\n站长 | 王志强")


def test_a_sentence_that_names_nobody_does_not_say_who_holds_an_office():
    found = {it.text: it.own for it in gather("站长是谁？", {}, [STAFF])}
    assert "新员工由站长考核。" not in found
    assert found["站长王志强，电话8102。"] == found["站长 | 王志强"] == found["站长"] == 1
    assert best("站长是谁？", hit("新员工由站长考核。站长王志强。")).text == "站长王志强。"


def test_a_name_at_the_other_end_of_the_sentence_says_who_holds_the_office():
    text = "梅艳芳为同行争取权益，2001年当选，也是首位女性会长。"
    assert best("首位女性会长是谁？", hit(text)).text == text


@pytest.mark.parametrize("question", ["站长管什么？", "谁考核新员工？", "站长考核谁？"])
def test_what_an_office_does_is_told_without_a_name(question):
    assert best(question, STAFF).text == "新员工由站长考核。"


def test_the_header_of_a_table_is_no_candidate():
    assert "城市 | 上限" not in [candidate.text for candidate in gather("城市的上限是多少？", {}, [hit(TABLE)])]


def test_what_a_title_or_heading_says_counts_for_every_sentence_below_it():
    (first, *_) = gather("年假管理办法规定了几天？", {}, [hit("员工每年享有十天。", title="年假管理办法")])
    assert first.context > 0.5


def test_a_better_hit_wins_between_equal_sentences():
    found = best("年假有几天？", hit("年假有十天。", 0.5), hit("年假有十天。", 1.0))
    assert found.rank == 1


def test_words_are_weighed_as_they_are_told():
    both = [hit("备份保存一百八十天。"), hit("数据异地存放。")]
    words = question_terms("备份数据").words
    heavy = {word: 9.0 if word == "数据" else 0.1 for word in words}
    assert max(gather("备份数据", heavy, both), key=lambda c: c.own).text == "数据异地存放。"


@pytest.mark.parametrize("text", ["", "与此无关的一句话。"])
def test_what_shares_nothing_with_the_question_is_no_candidate(text):
    assert gather("GLM-4-9B", {}, [hit(text)]) == []


def test_shares_lie_between_0_and_1():
    for candidate in gather("2023年上海的上限是多少元？", {}, [hit(TEXT), hit(TABLE)]):
        values = [
            candidate.own,
            candidate.context,
            candidate.before,
            candidate.after,
            candidate.pieces,
            candidate.pinned,
        ]
        assert all(0 <= value <= 1 for value in values)
        assert candidate.own + candidate.context + candidate.before + candidate.after <= 1 + 1e-9


def test_another_year_is_seen():
    (candidate,) = gather("2023年的营业收入是多少？", {}, [hit("2022年的营业收入为800万元。")])
    assert candidate.pinned == 0


def test_what_two_passages_hold_counts_together():
    asked, hits = "甲公司和乙公司的年假", [hit("甲公司的年假有十天。"), hit("乙公司的年假有五天。")]
    joined = together(asked, {}, hits)
    assert joined.own > max(candidate.own for candidate in gather(asked, {}, hits))
    assert joined.own + joined.context + joined.elsewhere <= 1 + 1e-9


def test_passages_that_share_nothing_with_the_question_hold_nothing_together():
    assert together("GLM-4-9B", {}, [hit("与此无关的一句话。")]) is None
