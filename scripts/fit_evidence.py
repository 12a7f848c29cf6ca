"""Fit the two linear models that weigh evidence: which sentence answers, and whether any does.

    KBQA_TESTDATA=... python scripts/fit_evidence.py               # some five minutes on two cores

Prints the constants of kbqa/evidence.py, kbqa/generators/extractive.py and kbqa/retriever/confidence.py, and what they
are worth on questions that were not used to fit them. Fitted on cmrc2018-a and drcd-dev, every question as though it
asked for one thing (kbqa.questions.task); other sets are only measured, by scripts/bench_quality.py.

- The ranker: softmax over the candidates of a question (kbqa.evidence.gather); right are those that hold a gold answer.
- The confidence: logistic regression on the best candidate. Answerable questions against two kinds of unanswerable
  ones: those whose paragraph was taken out of the corpus, and answerable ones whose answering sentences were taken out
  of the hits ("the document is there, the fact is not"); and compounds of two or three questions on either side.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from kbqa.build import Installation
from kbqa.config import Config, Home
from kbqa.evaluation.benchmark import Question, load_benchmark, opened
from kbqa.evaluation.refusal import WRONG_REFUSALS, answered_at, auc
from kbqa.evaluation.scores import contains
from kbqa.evidence import WEIGHTS, Candidate, gather
from kbqa.generators.extractive import ENOUGH, NEAR, pick
from kbqa.retriever.confidence import COEFFICIENTS, LOOKED_AT, features
from kbqa.sentences import sentence_spans
from kbqa.types import Hit

Matrix = NDArray[np.float64]
FITTED = ("cmrc2018-a", "drcd-dev")
ANSWERABLE, REMOVED, MASKED = range(3)  # kinds of cases
SHARES = {  # what each kind weighs in the confidence, single questions and compounds
    (ANSWERABLE, False): 0.8,
    (ANSWERABLE, True): 0.2,
    (REMOVED, False): 0.4,
    (REMOVED, True): 0.2,
    (MASKED, False): 0.4,
}
MASKED_CASES = 1000  # of each set
CANDIDATE_HITS = 5
SENTENCES = 3  # quoted at most
FOLDS = 5
RIDGE = 1e-4


@dataclass(frozen=True)
class Case:
    """A question with its candidates; `right` are those that hold a gold answer."""

    question: str
    words: int
    answers: tuple[str, ...]
    kind: int
    hits: Sequence[Hit]
    candidates: list[Candidate]
    right: NDArray[np.bool_]
    compound: bool


def read_cases(folder: Path) -> list[Case]:
    """Every question of a set, asked through the default settings; masked copies of some that can be answered; and
    compounds: two or three questions about one document asked as one, with and without it."""
    with tempfile.TemporaryDirectory() as temporary:
        installation = Installation(Home(Path(temporary)), Config())
        benchmark = load_benchmark(folder)
        questions = [question for question in benchmark.questions if question.text.strip()]
        cases, spare = [], []
        with opened(benchmark, installation.temporary_base) as kb:
            for question in questions:
                found = kb.search(question.text)
                kind = ANSWERABLE if question.answerable else REMOVED
                cases.append(made(question.text, found.weights, found.hits, kind, question.answers))
                if question.answerable and any(len(answer) > 1 for answer in question.answers):
                    rest = masked(found.hits, question.answers)
                    spare.append(made(question.text, found.weights, rest, MASKED, question.answers))
            cases += random.Random(5).sample(spare, min(MASKED_CASES, len(spare)))
            for text, sources in compounds(questions):
                found = kb.search(text, 4 * CANDIDATE_HITS)
                others = [hit for hit in found.hits if hit.chunk.source not in sources]
                cases.append(made(text, found.weights, found.hits[:CANDIDATE_HITS], ANSWERABLE, (), compound=True))
                cases.append(made(text, found.weights, others[:CANDIDATE_HITS], REMOVED, (), compound=True))
    return cases


def made(
    question: str,
    weights: Mapping[str, float],
    hits: Sequence[Hit],
    kind: int,
    answers: Sequence[str],
    compound: bool = False,
) -> Case:
    candidates = gather(question, weights, hits)
    right = [kind == ANSWERABLE and contains(candidate.text, answers) for candidate in candidates]
    return Case(question, len(weights), tuple(answers), kind, hits, candidates, np.array(right, bool), compound)


def compounds(questions: Sequence[Question]) -> list[tuple[str, set[str]]]:
    """「……成立于哪一年，总部在哪里？」: users ask two or three things at once, and no sentence tells them all."""
    of_document: dict[str, list[Question]] = {}
    for question in questions:
        for source in question.relevant:
            of_document.setdefault(source, []).append(question)
    rng = random.Random(6)
    joined = []
    for source, about in sorted(of_document.items()):
        rng.shuffle(about)
        size = rng.choice((2, 2, 3))
        if len(about) >= size:
            parts = [question.text.strip().rstrip("？?") for question in about[:size]]
            joined.append(("，".join(parts) + "？", {source}))
    return joined


def masked(hits: Sequence[Hit], answers: Sequence[str]) -> list[Hit]:
    """The hits without the sentences that hold an answer."""
    rest = []
    for hit in hits:
        sentences = (hit.chunk.text[start:end] for start, end in sentence_spans(hit.chunk.text))
        text = "\n".join(sentence for sentence in sentences if not contains(sentence, answers))
        if text:
            rest.append(replace(hit, chunk=replace(hit.chunk, text=text, span=(0, len(text)))))
    return rest


# --- which sentence --------------------------------------------------------------------------------------------------


def matrix(case: Case) -> Matrix:
    """(candidates, features)"""
    rows = [[float(getattr(candidate, name)) for name in WEIGHTS] for candidate in case.candidates]
    return np.array(rows).reshape(-1, len(WEIGHTS))


def fit_ranker(cases: Sequence[Case]) -> Matrix:
    """(features,): the weights under which the right candidates of each question have most of its softmax."""
    usable = [case for case in cases if case.right.any()]
    parts = [matrix(case) for case in usable]
    scale = np.concatenate(parts).std(axis=0) + 1e-6
    features = np.concatenate(parts) / scale
    right = np.concatenate([case.right for case in usable])
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def loss(weights: Matrix) -> tuple[float, Matrix]:
        score = features @ weights
        score -= np.maximum.reduceat(score, starts)[owner]
        share = np.exp(score)
        share /= np.add.reduceat(share, starts)[owner]
        good = np.add.reduceat(share * right, starts)
        gradient = features.T @ (share - share * right / good[owner]) / len(parts)
        return float(-np.log(good).mean() + RIDGE * weights @ weights), gradient + 2 * RIDGE * weights

    found = minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x / scale)


def report_answers(name: str, cases: Sequence[Case], scores: Sequence[Matrix], near: float, enough: int) -> None:
    hits, lengths = [], []
    for case, of in zip(cases, scores, strict=True):
        if case.kind == ANSWERABLE and case.candidates and case.answers:
            chosen = pick(list(zip(of, case.candidates, strict=True)), SENTENCES, near, enough)
            hits.append(contains("\n".join(candidate.text for candidate in chosen), case.answers))
            lengths.append(sum(len(candidate.text) for candidate in chosen))
    print(f"  {name}, near {near}, enough {enough}: contains {np.mean(hits):.3f}, {np.mean(lengths):.1f} characters")


# --- whether any -----------------------------------------------------------------------------------------------------


def evidence(case: Case, weights: Matrix) -> list[float]:
    """What kbqa.retriever.confidence looks at."""
    scores = {c: s for c, s in zip(case.candidates, matrix(case) @ weights, strict=True) if c.rank < LOOKED_AT}
    if not scores:
        return [0.0] * len(COEFFICIENTS)
    best = max(scores, key=scores.__getitem__)
    found = features(case.question, case.words, best, case.hits[best.rank].chunk.searchable)
    return [found[name] for name in COEFFICIENTS]


def fit_confidence(cases: Sequence[Case], weights: Matrix) -> Callable[[Sequence[Case]], Matrix]:
    """Gives the function that gives probabilities; prints the coefficients."""
    seen = np.array([evidence(case, weights) for case in cases])
    kinds = [(case.kind, case.compound) for case in cases]
    counts = Counter(kinds)
    share = np.array([SHARES[kind] * len(cases) / counts[kind] for kind in kinds])
    right = np.array([case.kind == ANSWERABLE for case in cases])
    scale = seen.std(axis=0) + 1e-9
    model = LogisticRegression(max_iter=3000).fit(seen / scale, right, sample_weight=share)
    told = ", ".join(f"{name} {w:.3f}" for name, w in zip(COEFFICIENTS, model.coef_[0] / scale, strict=True))
    print(f"  confidence: {told}, intercept {model.intercept_[0]:.3f}")

    def probability(of: Sequence[Case]) -> Matrix:
        return np.asarray(model.predict_proba(np.array([evidence(case, weights) for case in of]) / scale)[:, 1])

    return probability


def report_refusal(name: str, cases: Sequence[Case], probability: Callable[[Sequence[Case]], Matrix]) -> None:
    """Of the set's own questions and their masked copies, not of compounds."""
    cases = [case for case in cases if not case.compound]
    kinds = np.array([case.kind for case in cases])
    probabilities = probability(cases)
    answerable = sorted(probabilities[kinds == ANSWERABLE])
    for kind, told in ((REMOVED, "not in the documents"), (MASKED, "answering sentences taken out")):
        if others := sorted(probabilities[kinds == kind]):
            passed = ", ".join(f"{answered_at(wrong, answerable, others):.2f}" for wrong in WRONG_REFUSALS)
            print(
                f"  {name}, {told}: AUC {auc(answerable, others):.3f}; answered at 1, 5, 10 % wrong refusals: {passed}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=None, help="the folder of the sets ($KBQA_TESTDATA/data/retrieval)"
    )
    options = parser.parse_args()
    data = options.data or Path(os.environ["KBQA_TESTDATA"]) / "data" / "retrieval"
    cases = {name: read_cases(data / name) for name in FITTED}
    fitted = [case for name in FITTED for case in cases[name]]

    print("answers, each question by a ranker that has not seen it:")
    fold = np.random.default_rng(0).integers(0, FOLDS, len(fitted))
    rankers = [fit_ranker([case for case, f in zip(fitted, fold, strict=True) if f != held]) for held in range(FOLDS)]
    scores = [matrix(case) @ rankers[f] for case, f in zip(fitted, fold, strict=True)]
    first = len(cases[FITTED[0]])
    for near, enough in ((0.0, 0), (1.5, ENOUGH), (NEAR, ENOUGH), (4.0, ENOUGH), (4.0, 110)):
        for name, part in zip(FITTED, (slice(0, first), slice(first, None)), strict=True):
            report_answers(name, fitted[part], scores[part], near, enough)

    print("refusals, by a model of the other set:")
    for seen, unseen in (FITTED, FITTED[::-1]):
        weights = fit_ranker(cases[seen])
        probability = fit_confidence(cases[seen], weights)
        report_refusal(unseen, cases[unseen], probability)

    print("of both sets, to be shipped:")
    weights = fit_ranker(fitted)
    print("  ranker:", ", ".join(f"{name} {weight:.2f}" for name, weight in zip(WEIGHTS, weights, strict=True)))
    probability = fit_confidence(fitted, weights)
    for name, of in cases.items():
        report_refusal(name, of, probability)


if __name__ == "__main__":
    main()
