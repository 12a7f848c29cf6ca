import re

import pytest

from kbqa.analyzer import fold
from kbqa.questions import Task, gap_fillers, identifiers, impersonal, office_asked, task


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
        ("报销找哪个部门审核？", "全部票据分类整理后由财务部审核，科学管理。", ["部"]),
        ("哪个科室处理投诉", "投诉由医务科及时处理，室内不得喧哗。", ["科"]),
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


def test_a_day_of_the_calendar_does_not_say_how_many_days():
    assert fillers("年假有几天？", "可顺延至次年3月31日，2025年起为八天。") == ["八天"]


def test_a_question_that_asks_for_a_name_has_no_pattern():
    assert gap_fillers("谁负责备份？") == []


@pytest.mark.parametrize(
    ("question", "office"),
    [
        ("站长是谁？", "站长"),
        ("公司的副总经理是谁", "经理"),
        ("校長叫什麼名字？", "校长"),
        ("厂里的总工程师姓什么", "总工程师"),
        ("哪位是档案馆馆长", "馆长"),
        ("谁担任项目经理？", "经理"),
        ("甲方的法定代表人是哪位", "法定代表人"),
    ],
)
def test_who_asks_for_the_holder_of_an_office_asks_for_a_name(question, office):
    assert office_asked(question) == office


@pytest.mark.parametrize(
    "question",
    [
        "校长是谁的学生？",
        "谁批准总经理的报销？",
        "经理出差住宿标准",
        "经理是什么级别？",
        "总经理办公室在哪？",
        "谁是主任医师的助手？",
        "审批由谁负责？",
        "第一书记是哪个政党设置的？",
    ],
)
def test_what_only_speaks_of_an_office_asks_for_no_name(question):
    assert office_asked(question) == ""


def test_numbers_models_and_ordinals_pin_a_question_down():
    assert identifiers("KB200 的第二级、2024年、三类城市") == {"kb200", "第二", "2024", "三"}
    assert identifiers("漢水最終注入哪一條河？") == set()


@pytest.mark.parametrize(
    ("question", "bare"),
    [
        ("公司年假有几天？", "年假有几天?"),
        ("请问公司的班车几点发？", "班车几点发?"),
        ("单位食堂在哪？", "食堂在哪?"),
        ("单位婚假有几天？", "婚假有几天?"),
        ("请问单位的陪产假怎么请", "陪产假怎么请"),
        ("单位几点下班", "几点下班"),
        ("在单位里能洗澡吗", "能洗澡吗"),
        ("我院有几个科室", "有几个科室"),
        ("本校食堂几点开门", "食堂几点开门"),
        ("贵司的开户行", "开户行"),
        ("公司的士费报销吗", "的士费报销吗"),
        ("我们單位食堂在哪？", "食堂在哪?"),
        ("咱们几点上班", "几点上班"),
        ("我在公司干满十年，年假几天", "我在干满十年,年假几天"),
        ("院里有班车吗", "有班车吗"),
        ("我们院院长是谁", "院长是谁"),
        ("公司里程碑有哪些", "里程碑有哪些"),
        ("贵公司的产品保修多久", "产品保修多久"),
    ],
)
def test_the_asker_s_own_organisation_is_left_out(question, bare):
    assert impersonal(question) == bare


@pytest.mark.parametrize(
    "question",
    [
        "甲公司和乙公司的净利润",
        "子公司的年假有几天？",
        "这家公司在哪里？",
        "蓝天旅游有限公司2021年的营业收入",
        "日本公司的年假有几天？",
        "公司法规定了什么？",
        "单位成本是多少？",
        "单位净值是多少？",
        "单位假设检验怎么做？",
        "甲单位婚假有几天？",
        "单位事故率是多少？",
        "单位缴费比例是多少？",
        "单位公积金缴存比例",
        "单位行贿罪怎么判？",
        "单位产品能耗怎么算？",
        "单位工程怎么验收？",
        "本司法解释何时施行？",
        "本校准方法适用于什么？",
        "本校验码怎么算？",
        "本厂商的代码是多少？",
        "我校正了仪器怎么记录？",
        "我院内感染率是多少？",
        "我校车几点发？",
        "本校园区有几个门？",
        "公司债怎么发行？",
        "公司章程由谁修改？",
        "公司的名称是什么？",
        "我们司机的加班费怎么算？",
        "我们厂长是谁？",
        "我们公司电话多少？",
        "我们公司",
        "Which company is it?",
    ],
)
def test_another_organisation_is_what_a_question_is_about(question):
    assert impersonal(question) == question


# --- one thing or several --------------------------------------------------------------------------------------------


def pieces(part):
    return " ".join(re.split(r"[\s,.?!。]+", part)).strip()


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("比较甲公司和乙公司的净利润，哪家公司的净利润更高？", ["甲公司的净利润 的净利润", "乙公司的净利润 的净利润"]),
        ("一等座与二等座分别由谁乘坐？", ["一等座 由谁乘坐", "二等座 由谁乘坐"]),
        ("甲類城市和乙類城市的住宿費有什麼區別？", ["甲类城市的住宿费", "乙类城市的住宿费"]),
        ("2021年甲公司、乙公司各自的利润是多少？", ["2021年甲公司 的利润是多少", "2021年乙公司 的利润是多少"]),
        ("这两种险哪个更贵？", ["这两种险"]),
        (
            "Compare the profit of Acme in 2019 and Initech in 2020. Which company had higher profit?",
            ["the profit of acme in 2019 had profit", "the profit of initech in 2020 had profit"],
        ),
        ("What is the difference between E12 and E20?", ["what is the e12", "what is the e20"]),
    ],
)
def test_a_comparison_asks_for_each_of_its_things_and_not_for_words_of_comparing(question, parts):
    asked = task(question)
    assert asked.kind == "several"
    assert [pieces(part) for part in asked.parts] == parts


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("结合蓝天公司的报告，请简要总结一下其环保措施。", "蓝天公司的报告 其环保措施"),
        ("概括差旅费用管理办法", "差旅费用管理办法"),
        ("Based on the report, summarize the risk measures of Acme.", "the report the risk measures of acme"),
    ],
)
def test_a_summary_asks_for_what_is_to_be_summed_up(question, words):
    asked = task(question)
    assert asked.kind == "summary"
    assert [pieces(part) for part in asked.parts] == [words]


@pytest.mark.parametrize(
    "question",
    [
        "年假有几天？",
        "说明书在哪里下载？",
        "分析师是谁？",
        "介绍信由谁开具？",
        "工作总结什么时候交？",
        "研发部和市场部的电话是多少？",
        "When did the company compare its results?",
        "",
    ],
)
def test_a_question_about_one_thing_stays_as_it_is(question):
    assert task(question) == Task("one", (question,))


def test_where_the_answer_is_to_be_looked_for_is_not_looked_for():
    assert task("根据员工手册，年假有几天？") == Task("one", ("员工手册,年假有几天?",))
