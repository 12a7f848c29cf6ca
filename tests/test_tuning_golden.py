"""Preprocessing, loss, gradients and one step of P-Tuning v2 against the originals' (KBQA_TESTDATA/golden)."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch", reason="kbqa[tune] is not installed")

from glmkit import Case, cases  # noqa: E402

from kbqa.chatglm.architecture import read_architecture  # noqa: E402
from kbqa.chatglm.chat import ChatMessage, ToolCall  # noqa: E402
from kbqa.chatglm.tokenizers import Tokenizer, load_tokenizer  # noqa: E402
from kbqa.tuning.data import Row  # noqa: E402
from kbqa.tuning.preprocess import NOT_COUNTED, Example, Limits, conversation, example, prompt_ids  # noqa: E402

PLAIN = list(cases("ptuning"))
TUNED = list(cases("ptuning", "ptuning_proj"))
pytestmark = pytest.mark.skipif(not TUNED, reason="the reference vectors are not here (KBQA_TESTDATA)")


def tokenizer_of(case: Case) -> Tokenizer:
    return load_tokenizer(case.base, read_architecture(case.base).family)


def row_of(record: dict) -> Row:
    return Row(record["content"], record["summary"], tuple(map(tuple, record.get("history") or ())))


def training_rows() -> list[tuple[Case, dict]]:
    return [(case, it) for case in PLAIN for it in case.facts["preprocess"] if "content" in it]


def padded(made: Example, record: dict, pad: int) -> dict[str, list[int]]:
    """As the original fills rows up; here they are only as long as the longest of their batch."""
    missing = len(record["input_ids"]) - len(made.ids)
    return {"input_ids": [*made.ids, *[pad] * missing], "labels": [*made.labels, *[NOT_COUNTED] * missing]}


@pytest.mark.parametrize(("case", "record"), training_rows(), ids=str)
def test_a_row_becomes_the_ids_and_labels_of_the_original(case, record):
    limits = Limits(record["max_source_length"], record["max_target_length"])
    made = example(tokenizer_of(case), row_of(record), limits, "input-output")
    wanted = {name: record[name] for name in ("input_ids", "labels")}
    assert padded(made, record, read_architecture(case.base).pad) == wanted


def message(fields: dict) -> list[tuple[ChatMessage, bool]]:
    """A message of ChatGLM3's files; that of a tool is the call of it and what came back."""
    if fields["role"] != "tool":
        return [
            (ChatMessage(fields["role"], fields["content"]), fields["role"] == "assistant" and fields.get("loss", True))
        ]
    call = ChatMessage("assistant", calls=(ToolCall(fields["name"], fields["parameters"]),))
    seen = ChatMessage("observation", json.dumps(fields["observation"], ensure_ascii=False))
    return [(call, fields.get("loss", True)), (seen, False)]


@pytest.mark.parametrize(
    ("case", "record"), [(case, it) for case in PLAIN for it in case.facts["preprocess"] if "item" in it], ids=str
)
def test_a_conversation_becomes_the_ids_and_labels_of_the_original(case, record):
    said = [it for fields in record["item"]["conversations"] for it in message(fields)]
    if tools := record["item"].get("tools"):
        said.insert(0, (ChatMessage("system", tools=tuple(tools)), False))
    made = conversation(tokenizer_of(case), said, record["max_seq_length"])
    assert padded(made, record, 0) == {name: record[name] for name in ("input_ids", "labels")}


@pytest.mark.parametrize("case", [case for case in PLAIN if case.family == "v3"], ids=str)
def test_a_row_with_history_is_the_same_as_the_conversation_that_it_stands_for(case):
    tokenizer = tokenizer_of(case)
    (record,) = [it for it in case.facts["preprocess"] if "item" in it and len(it["item"]["conversations"]) == 4]
    first, second, third, fourth = (it["content"] for it in record["item"]["conversations"])
    made = example(tokenizer, Row(third, fourth, ((first, second),)), Limits(64, 64))
    assert padded(made, record, 0) == {name: record[name] for name in ("input_ids", "labels")}


@pytest.mark.parametrize("case", [case for case in PLAIN if case.family != "v3"], ids=str)
def test_a_prompt_for_evaluation_is_that_of_the_original(case):
    tokenizer, records = tokenizer_of(case), case.facts["preprocess"]
    for record in (it for it in records if it.get("eval")):
        asked = [it for it in records if "content" in it and bool(it["history"]) == record["history"]]
        assert len(asked) == len(record["input_ids"]) == 2
        for row, wanted in zip(asked, record["input_ids"], strict=True):
            limits = Limits(row["max_source_length"], row["max_target_length"])
            pad = read_architecture(case.base).pad
            assert prompt_ids(tokenizer, row_of(row), limits) == [token for token in wanted if token != pad]
