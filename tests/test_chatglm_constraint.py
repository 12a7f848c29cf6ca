"""Replies held by a JSON schema, from a model that says anything: each family's vocabulary, weights drawn at random."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")

import glmkit  # noqa: E402, F401  (one thread)
from test_chatglm_engine import V2, decoder_of  # noqa: E402
from tokenizerkit import MAKERS  # noqa: E402

from kbqa.chatglm.constraint import Vocabulary  # noqa: E402
from kbqa.chatglm.engine import Engine, Job  # noqa: E402
from kbqa.chatglm.sampling import Sampling  # noqa: E402
from kbqa.chatglm.tokenizers import load_tokenizer  # noqa: E402
from kbqa.errors import BeyondModel, ModelError  # noqa: E402

CONTACT = {
    "type": "object",
    "properties": {
        "电话": {"type": "string", "pattern": "^1[0-9]{10}$"},
        "会员": {"type": "boolean"},
        "月份": {"type": "integer", "minimum": 1, "maximum": 12},
    },
    "required": ["电话", "会员", "月份"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=MAKERS)
def made(request, tmp_path_factory):
    """A vocabulary of each kind, its tokenizer and an engine; the embedding has more rows than there are tokens."""
    make, family = MAKERS[request.param]
    tokenizer = load_tokenizer(make(tmp_path_factory.mktemp("model")), family)
    rows, stop = tokenizer.size + 7, tokenizer.eos
    engine = Engine(decoder_of(replace(V2, vocabulary=rows, eos=(stop,))), slots=2)
    yield tokenizer, Vocabulary(tokenizer, rows, {stop}), engine
    engine.close()


def written(made, schema, **sampling) -> str:
    tokenizer, vocabulary, engine = made
    job = Job([1, 2, 3], Sampling(**sampling), 120, frozenset({tokenizer.eos}), rules=vocabulary.constraint(schema))
    *ids, ended = engine.write(job)
    assert ended.finish == "stop"
    return tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_model_would_say_the_reply_is_of_the_schema(made, seed):
    said = json.loads(written(made, CONTACT, temperature=1.0, seed=seed))
    assert list(said) == ["电话", "会员", "月份"]
    assert len(said["电话"]) == 11
    assert said["电话"].isdigit()
    assert isinstance(said["会员"], bool)
    assert said["月份"] in range(1, 13)


def test_the_most_likely_reply_is_of_the_schema_too(made):
    assert json.loads(written(made, {"enum": ["是", "否"]})) in ("是", "否")


def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(made):
    with pytest.raises(ModelError, match="response schema cannot be followed"):
        made[1].constraint({"type": "number", "minimum": 5, "maximum": 1})
    with pytest.raises(BeyondModel, match="response schema cannot be followed"):
        made[1].constraint({"$ref": "#"})
    with pytest.raises(ModelError, match="schema"):
        made[1].constraint({"type": "circle"})
