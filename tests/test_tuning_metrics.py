"""BLEU, ROUGE and exact match as the original P-Tuning evaluation computes them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

for library in ("jieba", "nltk", "rouge_chinese"):
    pytest.importorskip(library, reason="kbqa[tune] is not installed")

from kbqa.errors import ConfigError  # noqa: E402
from kbqa.tuning.metrics import Scores, mean, score  # noqa: E402

ANSWER = "满一年的员工每年享有10天年假，满十年的享有15天。"


@pytest.fixture(scope="module")
def recorded(testdata):
    return json.loads((testdata / "golden" / "metrics.json").read_text(encoding="utf-8"))


def test_each_recorded_pair_gets_the_recorded_scores(recorded):
    assert len(recorded["pairs"]) == 60
    for pair in recorded["pairs"]:
        found = score(pair["prediction"], pair["reference"])
        wanted = tuple(pair[name] for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l"))
        assert (found.bleu_4, found.rouge_1, found.rouge_2, found.rouge_l) == wanted, pair["kind"]
        assert found.exact_match == 100.0 * (pair["prediction"] == pair["reference"])


def test_the_means_are_the_recorded_ones_to_four_digits(recorded):
    found = mean([score(pair["prediction"], pair["reference"]) for pair in recorded["pairs"]])
    wanted = {name: round(value, 4) for name, value in recorded["mean"].items()}
    assert wanted == {
        "bleu-4": found.bleu_4,
        "rouge-1": found.rouge_1,
        "rouge-2": found.rouge_2,
        "rouge-l": found.rouge_l,
    }


def test_the_same_text_is_everything_and_silence_is_nothing():
    same = score(ANSWER, f" {ANSWER}\n")
    assert same.exact_match == 100.0
    assert min(same.rouge_1, same.rouge_2, same.rouge_l) == 100.0
    for said, wanted in (("", ANSWER), (" \n", ANSWER), (ANSWER, " ")):
        assert score(said, wanted) == Scores(0.0, 0.0, 0.0, 0.0, 0.0)
    assert score("", "") == Scores(0.0, 0.0, 0.0, 0.0, 100.0)


def test_an_answer_of_a_thousand_sentences_can_be_scored():
    assert score("年假十天。" * 1000, ANSWER).rouge_l < 50


def test_no_pair_has_no_mean():
    with pytest.raises(ConfigError, match="no pair"):
        mean([])


def test_nothing_is_said_left_behind_or_loaded_before_it_is_needed(tmp_path):
    """jieba tells what it does and keeps a dictionary in the folder for temporary files, where anyone could put one."""
    code = (
        "import sys, kbqa.tuning.metrics as metrics\n"
        "assert not {'jieba', 'nltk', 'rouge_chinese'} & set(sys.modules)\n"
        "print(metrics.score('年假十天', '年假十天').rouge_1)"
    )
    settings = {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=settings)
    assert (done.stdout.strip(), done.stderr) == ("100.0", "")
    assert list(tmp_path.iterdir()) == []
