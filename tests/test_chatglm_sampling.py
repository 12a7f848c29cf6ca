"""Which token comes next: held against transformers' own processors, and at the edges of what may be asked for."""

from __future__ import annotations

import math
from collections import Counter

import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")

import glmkit  # noqa: E402, F401  (one thread)

from kbqa.chatglm.sampling import HEAD, Chooser, Sampling  # noqa: E402
from kbqa.errors import GeneratorError, ModelError  # noqa: E402

VOCABULARY = 40
SEEN = (3, 17, 17, 29)
DRAWS = 2000


@pytest.fixture(scope="module")
def logits():
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(5)) * 2


def theirs(logits, sampling: Sampling):
    """(vocabulary,) probabilities, as transformers has them for the same settings."""
    processors = pytest.importorskip("transformers.generation.logits_process")
    kinds = [processors.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)]
    kinds.append(processors.TemperatureLogitsWarper(sampling.temperature))
    kinds += [processors.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    kinds.append(processors.TopPLogitsWarper(sampling.top_p))
    scores = logits[None]
    for kind in kinds:
        scores = kind(torch.tensor([SEEN]), scores)
    return scores[0].softmax(-1)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5, top_p=0.8),
        Sampling(temperature=2.0, top_k=5),
        Sampling(temperature=1.5, top_k=9, top_p=0.7),
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.0, top_p=1e-9),
        Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1.8),
        Sampling(temperature=1.0, repetition_penalty=0.6),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_transformers_would(logits, sampling):
    wanted = theirs(logits, sampling)
    chooser, drawn = Chooser(sampling, SEEN), Counter()
    for seed in range(DRAWS):
        chooser = Chooser(Sampling(**{**_fields(sampling), "seed": seed}), SEEN)
        drawn[chooser.choose(logits)] += 1
    assert all(wanted[token] > 0 for token in drawn)
    for token, probability in enumerate(wanted.tolist()):
        spread = math.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(drawn[token] / DRAWS - probability) <= 5 * spread + 1e-9


def _fields(sampling: Sampling) -> dict[str, object]:
    return {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-38, 1e-6])
def test_hardly_any_temperature_is_greedy(logits, temperature):
    big = logits.half() * 3000  # as far as float16 goes
    assert Chooser(Sampling(temperature=temperature, seed=1)).choose(big) == int(big.argmax())


def test_a_nucleus_wider_than_the_best_tokens_is_drawn_from_all(monkeypatch):
    flat = torch.zeros(3 * HEAD)
    drawn = [Chooser(Sampling(temperature=1.0, top_p=0.9, seed=seed)).choose(flat) for seed in range(60)]
    assert max(drawn) > 2 * HEAD
    most = Chooser(Sampling(temperature=1.0, top_k=10**9, seed=1)).choose(flat)
    assert 0 <= most < 3 * HEAD


def test_the_same_seed_draws_the_same_and_what_is_drawn_is_held_against_it(logits):
    sampling = Sampling(temperature=1.0, repetition_penalty=1.3, seed=-4)
    first, second = Chooser(sampling, SEEN), Chooser(sampling, SEEN)
    assert [first.choose(logits) for _ in range(20)] == [second.choose(logits) for _ in range(20)]
    greedy = Chooser(Sampling(repetition_penalty=10.0))
    said = [greedy.choose(logits) for _ in range(6)]
    assert len(set(said)) == 6
    assert said[0] == int(logits.argmax())


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_an_error_that_names_their_type(logits, broken):
    spoilt = logits.bfloat16()
    spoilt[7] = broken
    for temperature in (0.0, 1.0):
        with pytest.raises(GeneratorError, match=r"bfloat16 logits are not finite.*dtype"):
            Chooser(Sampling(temperature=temperature)).choose(spoilt)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0},
        {"top_p": 1.01},
        {"top_k": -1},
        {"top_k": 1.5},
        {"repetition_penalty": 0},
        {"repetition_penalty": math.inf},
        {"seed": 1.5},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_named_with_what_can(wrong):
    (name,) = wrong
    with pytest.raises(ModelError, match=rf"^{name} is .*; it must be "):
        Sampling(**wrong)
