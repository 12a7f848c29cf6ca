"""BLEU-4, ROUGE and exact match of what was written against what was wanted, in percent.

As the original P-Tuning evaluation computes them, with its libraries: ROUGE-1, -2 and -L as F of rouge_chinese over
jieba's words, BLEU-4 of nltk over single characters with smoothing method 3, each rounded to four digits.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

from kbqa.errors import ConfigError

__all__ = ["Scores", "mean", "score"]

DIGITS = 4


@dataclass(frozen=True, slots=True)
class Scores:
    """Percent, of one pair or as a mean."""

    bleu_4: float
    rouge_1: float
    rouge_2: float
    rouge_l: float
    exact_match: float


def score(prediction: str, reference: str) -> Scores:
    """One pair. Where either says nothing, the scores are 0: the original breaks off there."""
    exact = 100.0 * (prediction.strip() == reference.strip())
    if not prediction.strip() or not reference.strip():
        return Scores(0.0, 0.0, 0.0, 0.0, exact)
    rouge = _libraries().rouge(_words(prediction), _words(reference))[0]
    f1, f2, fl = (round(rouge[name]["f"] * 100, DIGITS) for name in ("rouge-1", "rouge-2", "rouge-l"))
    bleu = _libraries().bleu([list(reference)], list(prediction))
    return Scores(round(bleu * 100, DIGITS), f1, f2, fl, exact)


def mean(scores: Sequence[Scores]) -> Scores:
    """The mean of each figure; ConfigError when there are none."""
    if not scores:
        raise ConfigError("there is no pair to score")
    columns = zip(*map(astuple, scores), strict=True)
    return Scores(*(round(sum(column) / len(scores), DIGITS) for column in columns))


def _words(text: str) -> str:
    return " ".join(_libraries().cut(text))


@dataclass(frozen=True, slots=True)
class _Libraries:
    cut: Callable[[str], Iterable[str]]
    rouge: Callable[[str, str], Sequence[Any]]
    bleu: Callable[[list[list[str]], list[str]], float]


@cache
def _libraries() -> _Libraries:
    """Loaded once, in about two seconds. None of it looks at the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old string escapes and pkg_resources
        try:
            jieba, nltk, rouge = map(import_module, ("jieba", "nltk.translate.bleu_score", "rouge_chinese"))
        except ImportError as error:
            raise ConfigError(f"BLEU and ROUGE need {error.name}; pip install 'kbqa[tune]'") from error
        bleu = partial(nltk.sentence_bleu, smoothing_function=nltk.SmoothingFunction().method3)
        return _Libraries(_cutter(jieba).lcut, rouge.Rouge().get_scores, bleu)


def _cutter(jieba: Any) -> Any:
    """jieba says what it loads, and keeps the loaded dictionary where all users of a machine may write."""
    jieba.setLogLevel("WARNING")
    cutter = jieba.Tokenizer()
    with tempfile.TemporaryDirectory(prefix="kbqa-jieba-") as folder:
        cutter.tmp_dir = folder
        cutter.initialize()
    return cutter
