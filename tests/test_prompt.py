import random

import pytest

from kbqa.prompt import PASSAGE_SEPARATOR, fill, fit, messages
from kbqa.types import Message


def test_one_passage_and_a_question_give_the_prompt_byte_for_byte():
    filled = fill("年假有几天？", ["员工每年享有十天年假。"])
    assert filled.encode() == "已知信息:\n员工每年享有十天年假。\n根据已知信息回答问题:\n年假有几天？".encode()


def test_several_passages_are_joined_by_a_blank_line_in_their_order():
    assert fill("问", ["甲", "乙", "丙"]) == "已知信息:\n甲\n\n乙\n\n丙\n根据已知信息回答问题:\n问"


@pytest.mark.parametrize(
    ("question", "passage"),
    [
        ("{context}是什么？", "模板里写 {question} 和 {context}。"),
        ("{question}", "{question}"),
        ("{0} {} {{x}}", "%s \\1 {unknown}"),
    ],
)
def test_what_looks_like_a_placeholder_in_a_text_stays_as_it_is(question, passage):
    assert fill(question, [passage]) == f"已知信息:\n{passage}\n根据已知信息回答问题:\n{question}"


def test_a_template_may_ask_first_and_hold_braces_of_its_own():
    assert fill("问", ["文"], '{question}\n---\n{context}\n用 JSON {"答": ...} 回答') == (
        '问\n---\n文\n用 JSON {"答": ...} 回答'
    )


def test_passages_are_taken_best_first_as_long_as_they_fit():
    passages = ["甲" * 40, "乙" * 40, "丙" * 40]
    assert fit(passages, 200) == passages
    assert fit(passages, 82) == passages[:2]
    assert fit(passages, 81) == passages[:1]


def test_a_best_passage_that_is_too_long_is_cut_rather_than_left_out():
    assert fit(["甲" * 50, "乙"], 10) == ["甲" * 10]
    assert fit([], 10) == []


@pytest.mark.parametrize("seed", range(20))
def test_what_fits_never_exceeds_the_budget(seed):
    chance = random.Random(seed)
    passages = ["字" * chance.randint(1, 80) for _ in range(chance.randint(1, 12))]
    budget = chance.randint(1, 400)
    kept = fit(passages, budget)
    assert len(PASSAGE_SEPARATOR.join(kept)) <= budget
    assert kept == passages[: len(kept)] or kept == [passages[0][:budget]]


def test_history_is_bare_and_only_the_last_message_carries_the_prompt():
    prompt = fill("那病假呢？", ["病假每年五天。"])
    assert messages(prompt, [("年假有几天？", "十天。")]) == (
        Message("user", "年假有几天？"),
        Message("assistant", "十天。"),
        Message("user", prompt),
    )


@pytest.mark.parametrize(("turns", "first"), [(None, "问0"), (5, "问0"), (2, "问1"), (1, "问2"), (0, "提示")])
def test_only_the_last_turns_of_the_history_go_along(turns, first):
    history = [(f"问{n}", f"答{n}") for n in range(3)]
    said = messages("提示", history, turns)
    assert said[0].content == first
    assert said[-1] == Message("user", "提示")
