import time

import pytest

from kbqa.ranges import asked_amounts, clause_ranges, ranges


@pytest.mark.parametrize(
    ("cell", "unit", "inside", "outside"),
    [
        ("满5年不满15年", "年", [5, 14.9], [4.9, 15]),
        ("满15年", "年", [15, 40], [14]),
        ("不足一年", "年", [0.5], [1]),
        ("一年以下", "年", [0.5], [1]),
        ("50万元以上100万元以下", "元", [500_000, 999_999], [499_999, 1_000_000]),
        ("超过5000元", "元", [5001], [5000]),
        ("不超过5000元", "元", [5000], [5001]),
        ("10台（含）以上", "台", [10, 11], [9]),
        ("三十天以内", "天", [30], [31]),
        ("３－５台", "台", [3, 5], [2, 6]),
        ("18岁至60岁", "岁", [18, 60], [17, 61]),
        ("年满18周岁", "岁", [18], [17]),
        ("工龄≥10年", "年", [10], [9]),
    ],
)
def test_a_range_holds_what_it_says(cell, unit, inside, outside):
    told = ranges(cell)[unit]
    assert all(told.holds(number) for number in inside)
    assert not any(told.holds(number) for number in outside)


@pytest.mark.parametrize(
    ("sentence", "unit", "number", "held"),
    [
        ("满一年不满十年的，5天；满十年的，10天。", "年", 12, [False, True]),
        ("满1年不满10年的，5天；", "年", 25, [False]),
        ("体重30公斤以上60公斤以下者，每次一片", "公斤", 15, [False]),
        ("超过5万元不超过50万元的，由总经理审批。", "元", 800_000, [False]),
        ("超过5万元，不超过50万元的，由总经理审批。", "元", 800_000, [False]),
        ("5,000元以上，10,000元以下的由科长审批。", "元", 800, [False]),
        ("满十年的10天，不满一年的没有。", "年", 25, [True, False]),
    ],
)
def test_the_bounds_of_a_clause_are_those_of_one_range(sentence, unit, number, held):
    assert [it.holds(number) for it in clause_ranges(sentence, unit)] == held


@pytest.mark.parametrize("text", ["1" + " " * 32_000, "满1" + "\t" * 32_000 + "年", "1 - " * 8_000, "1年 " * 8_000])
def test_blanks_behind_a_number_take_no_time(text):
    began = time.perf_counter()
    ranges(text)
    asked_amounts(text)
    clause_ranges(text, "年")
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    "cell", ["12天", "第3章", "LQ-120", "2024-05-01", "三个月", "超过三分之二", "第3次以上", "北京", "", "满意"]
)
def test_a_number_by_itself_is_no_range(cell):
    assert not ranges(cell)


@pytest.mark.parametrize(
    ("question", "amounts"),
    [
        ("满十五年的员工年假有几天？", [(15, "年", "十五年")]),
        ("采购80万元的设备由谁批准？", [(800_000, "元", "80万元")]),
        ("采购三十万的设备由谁批准？", [(300_000, "元", "三十万")]),
        ("五十万用户怎么办？", []),
        ("30万合同由谁签？", [(300_000, "元", "30万")]),
        ("三十万股怎么登记？", []),
        ("行驶三万公里要保养吗？", [(30_000, "公里", "三万公里")]),
        ("三分之二的股东同意就行吗？", []),
        ("第3次、第十三次迟到怎么办？", []),
        ("２０ 台多少钱？", [(20, "台", "20 台")]),
        ("买五台以上的单价是多少？", []),
        ("3到5台多少钱？", []),
        ("2024年的销售额是多少？", []),
        ("年假有几天？", []),
    ],
)
def test_what_number_a_question_is_about(question, amounts):
    assert [(it.number, it.unit, it.text) for it in asked_amounts(question)] == amounts


@pytest.mark.parametrize(
    "text", ["9" * 400 + "元以上", "一" * 300 + "年", "满" * 500, "1-" * 400 + "2年", "十百千万亿年以上"]
)
def test_whatever_a_cell_holds_is_read(text):
    ranges(text)
    asked_amounts(text)
