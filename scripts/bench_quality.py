"""How good kbqa is on all developer sets: writes docs/quality.md and its pictures.

    python scripts/bench_quality.py                       below $KBQA_TESTDATA/data, some minutes
    python scripts/bench_quality.py --limit 50 --out /tmp/quality --sets cmrc2018-a,minikb

Every set becomes a base of its own, made and asked with the default settings: retrieval, answers, refusals, support.
Without $KBQA_TESTDATA only the questions about knowledge/samples are asked.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kbqa.build import Installation
from kbqa.config import Config, Home
from kbqa.errors import ConfigError
from kbqa.evaluation import (
    AnswersReport,
    Benchmark,
    RefusalReport,
    RetrievalReport,
    SupportReport,
    load_benchmark,
    load_questions,
    measure_refusal,
    measure_retrieval,
    measure_support,
    opened,
)
from kbqa.evaluation.perturb import FALSE, TRUE

ROOT = Path(__file__).resolve().parents[1]
SUPPORT_QUESTIONS = 200  # whose passages give the sentences for support, of each set

# data/README.md: BM25 (k1 1.5, b 0.75) over whole documents, the better of words and character pairs by recall@5.
RETRIEVAL_BASELINE = {  # recall@1, @5, @10, MRR@10
    "cmrc2018-a": (0.976, 0.994, 0.995, 0.984),
    "drcd-dev": (0.943, 0.991, 0.996, 0.964),
    "crud-news-a": (0.594, 0.971, 0.990, 0.920),
    "dragonball-finance-zh": (0.812, 1.000, 1.000, 0.995),
    "dragonball-finance-en": (0.811, 0.994, 0.999, 0.985),
    "faq-tidb": (0.397, 0.622, 0.689, 0.490),
    "qbqtc-dev": (0.754, 0.855, 0.872, 0.814),
}
EVIDENCE_BASELINE = {  # @1, @5, @10: BM25 by words over bare chunks of 300 (Chinese) and 800 (English) characters
    "dragonball-finance-zh": (0.321, 0.557, 0.654),
    "dragonball-finance-en": (0.428, 0.700, 0.799),
}
ANSWER_BASELINE = {  # gold answer in the one best sentence of BM25's three best documents, its mean length
    "cmrc2018-a": (0.598, 44),
    "drcd-dev": (0.806, 53),
    "crud-news-a": (0.638, 69),
}
AUC_BASELINE = {  # idf-weighted share of the question's character pairs in the best document
    "cmrc2018-a": 0.965,
    "drcd-dev": 0.944,
    "dragonball-finance-zh": 0.323,
    "dragonball-finance-en": 0.541,
}


@dataclass(frozen=True)
class Measured:
    """What was measured on one set; None where it holds nothing to measure it with."""

    name: str
    retrieval: RetrievalReport | None
    answers: AnswersReport | None
    refusal: RefusalReport
    support: SupportReport | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="at most so many questions of each kind and set (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", help="only these, parted by commas")
    parser.add_argument("--jobs", type=int, default=2, help="sets measured at a time (default: 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where quality.md goes (default: docs)")
    options = parser.parse_args()
    found = sets(os.environ.get("KBQA_TESTDATA"))
    names = options.sets.split(",") if options.sets else list(found)
    if unknown := [name for name in names if name not in found]:
        parser.error(f"there is no set {unknown[0]}; there are: {', '.join(found)}")
    start = time.perf_counter()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        measured = list(pool.map(measure, names, repeat(options.limit), repeat(options.seed)))
    if not options.sets and len(found) == 1 and options.out == ROOT / "docs":
        print("KBQA_TESTDATA is not set: docs/quality.md stays as it is")
        print(answers_table(measured), refusal_table(measured), sep="\n\n")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    draw(measured, options.out / "quality")
    page = options.out / "quality.md"
    page.write_text(report(measured, options.limit, time.perf_counter() - start), encoding="utf-8")
    print(f"wrote {page}")
    return 0


# --- measuring -------------------------------------------------------------------------------------------------------


def sets(testdata: str | None) -> dict[str, Callable[[], Benchmark]]:
    """Name -> what loads it."""
    found: dict[str, Callable[[], Benchmark]] = {"samples": samples}
    if testdata:
        data = Path(testdata) / "data"
        folders = [*sorted(path.parent for path in data.glob("retrieval/*/qrels.tsv")), data / "minikb"]
        found = {folder.name: lambda folder=folder: load_benchmark(folder) for folder in folders} | found
    return found


def samples() -> Benchmark:
    """The documents that ship with the project, and the questions about them."""
    questions = load_questions(ROOT / "tests" / "data" / "samples_qa.jsonl")
    return Benchmark(ROOT / "knowledge" / "samples", ROOT / "knowledge" / "samples", tuple(questions))


def measure(name: str, limit: int | None, seed: int) -> Measured:
    start = time.perf_counter()
    benchmark = sets(os.environ.get("KBQA_TESTDATA"))[name]()
    with TemporaryDirectory(prefix="kbqa-quality-") as home:
        installation = Installation(Home(Path(home)), Config())
        with opened(benchmark, installation.temporary_base) as kb:
            judged = any(question.relevant for question in benchmark.questions)
            retrieval = measure_retrieval(kb, benchmark, limit, seed) if judged else None
            refusal = measure_refusal(kb, benchmark, limit, seed)
            try:
                support = measure_support(kb, benchmark, min(limit or SUPPORT_QUESTIONS, SUPPORT_QUESTIONS), seed)
            except ConfigError:  # titles alone hold no sentence
                support = None
    # The answerable questions have been asked already: their replies are the answers.
    gold = [reply for reply in refusal.answerable if reply.question.answers]
    answers = AnswersReport(gold, sum(reply.seconds for reply in gold)) if gold else None
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return Measured(name, retrieval, answers, refusal, support)


# --- the page --------------------------------------------------------------------------------------------------------


def report(measured: Sequence[Measured], limit: int | None, seconds: float) -> str:
    sample = f" --limit {limit}" if limit else ""
    how_many = f"A sample: at most {limit} questions of a kind and set. " if limit else ""
    return f"""# Quality

Written by `python scripts/bench_quality.py{sample}` with the default settings (built-in embedder, extractive answers, \
no model) in {seconds / 60:.0f} minutes. {how_many}What the figures mean: [evaluation.md](evaluation.md). The sets are \
for developing; baselines are those of the data sets' own description (BM25 over whole documents, no chunks, no \
re-ranking).

## Retrieval

Documents rank by their best passage. Hybrid is what answers use; beside it in brackets the lexical and the dense arm.

{retrieval_table(measured)}

![Share of the relevant documents among the first k](quality/recall.png)

Evidence: the share of a question's evidence sentences that stand in the first k passages.

{evidence_table(measured)}

## Answers

Share of the questions whose gold answer stands in the reply, and how long replies are. A refusal is a wrong answer. \
Baseline: the one best sentence.

{answers_table(measured)}

## Refusals

{refusal_table(measured)}

"At 1 %" is the share of the unanswerable questions that would be answered were `retrieval.min_confidence` put where \
1 % of the answerable ones is refused. ECE is the calibration error of the confidence.

![Answered although unanswerable, against refused although answerable](quality/refusal.png)

![How often a question can be answered, by confidence](quality/reliability.png)

## Support

Sentences with a known verdict, made of the passages of {SUPPORT_QUESTIONS} questions a set: which share of each kind \
is flagged as not fully supported (and how many there were). Of the true kinds none should be, of the false kinds all.

{support_table(measured)}
"""


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def figures(values: Iterable[float | None]) -> str:
    return " / ".join(figure(value) for value in values)


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def retrieval_table(measured: Sequence[Measured]) -> str:
    def row(name: str, found: dict[str, Any]) -> list[object]:
        arms = found["arms"]
        base = RETRIEVAL_BASELINE.get(name)
        cells: list[object] = [name, found["queries"]]
        for place, key in enumerate(("recall@1", "recall@5", "recall@10", "mrr@10")):
            ours, lexical, dense = (arms[arm][key] for arm in ("hybrid", "lexical", "dense"))
            cells += [figure(base[place] if base else None), f"**{ours:.3f}** ({lexical:.3f}, {dense:.3f})"]
        return [*cells, f"{arms['hybrid']['latency_ms']['p50']:.1f}"]

    columns = ["set", "questions"]
    for name in ("R@1", "R@5", "R@10", "MRR"):
        columns += [f"{name} baseline", name]
    rows = [row(m.name, m.retrieval.as_json()) for m in measured if m.retrieval]
    return markdown([*columns, "p50 ms"], rows)


def evidence_table(measured: Sequence[Measured]) -> str:
    keys = [f"evidence_recall@{k}" for k in (1, 5, 10)]
    rows = []
    for found in measured:
        arms = found.retrieval.as_json()["arms"] if found.retrieval else {}
        if arms and keys[0] in arms["hybrid"]:
            base = EVIDENCE_BASELINE.get(found.name, (None, None, None))
            told = [figures(arms[arm][key] for key in keys) for arm in ("hybrid", "lexical", "dense")]
            rows.append([found.name, figures(base), f"**{told[0]}**", *told[1:]])
    return markdown(["set", "baseline @1 / 5 / 10", "hybrid", "lexical", "dense"], rows)


def answers_table(measured: Sequence[Measured]) -> str:
    rows = []
    for found in measured:
        if found.answers:
            told = found.answers.as_json()
            base = ANSWER_BASELINE.get(found.name)
            rows.append(
                [
                    found.name,
                    told["queries"],
                    f"{base[0]:.3f}, {base[1]} characters" if base else "–",
                    f"**{figure(told['contains'])}**",
                    "–" if told["mean_length"] is None else f"{told['mean_length']:.0f}",
                    *(figure(told[key]) for key in ("exact_match", "f1", "citation_precision", "citation_recall")),
                    told["refused"],
                ]
            )
    columns = ["set", "questions", "baseline", "contains", "length", "exact", "F1"]
    return markdown([*columns, "citation precision", "citation recall", "refused"], rows)


def refusal_table(measured: Sequence[Measured]) -> str:
    rows = []
    for found in measured:
        told = found.refusal.as_json()
        trade_off = told["at_wrong_refusals"] or {}
        rows.append(
            [
                found.name,
                f"{told['answerable']['refused']} of {told['answerable']['asked']}",
                f"{told['unanswerable']['answered']} of {told['unanswerable']['asked']}",
                figure(AUC_BASELINE.get(found.name)),
                f"**{figure(told['auc'])}**",
                *(figure(trade_off.get(share)) for share in ("0.01", "0.05", "0.10")),
                figure(told["calibration_error"]),
            ]
        )
    columns = ["set", "answerable, refused", "unanswerable, answered", "AUC baseline", "AUC"]
    return markdown([*columns, "at 1 %", "at 5 %", "at 10 %", "ECE"], rows)


def support_table(measured: Sequence[Measured]) -> str:
    told = {found.name: found.support.as_json() for found in measured if found.support}
    rows: list[list[object]] = []
    for group, kinds, key in (("true", TRUE, "flagged"), ("false", FALSE, "recall")):
        for kind in kinds:
            scores = [found[group].get(kind) for found in told.values()]
            rows.append([group, kind, *(f"{s[key]:.2f} ({s['count']})" if s else "–" for s in scores)])
    for key in ("precision", "recall", "f1"):
        rows.append(["**all**", key, *(f"**{figure(found[key])}**" for found in told.values())])
    return markdown(["", "kind", *told], rows)


# --- the pictures ----------------------------------------------------------------------------------------------------


def draw(measured: Sequence[Measured], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in (("recall", draw_recall), ("refusal", draw_refusal), ("reliability", draw_reliability)):
        drawn = picture(plt, measured)
        if drawn is not None:
            drawn.savefig(folder / f"{name}.png", dpi=110)
            plt.close(drawn)


def draw_recall(plt: Any, measured: Sequence[Measured]) -> Any:
    """One panel a set: recall at 1 to 10 of the arms, and the baseline's three points."""
    found = [(m.name, m.retrieval) for m in measured if m.retrieval]
    if not found:
        return None
    across = min(4, len(found))
    down = -(-len(found) // across)
    drawn, axes = plt.subplots(down, across, figsize=(3.2 * across, 2.8 * down), squeeze=False, layout="constrained")
    for panel in axes.flat[len(found) :]:
        panel.axis("off")
    for panel, (name, retrieval) in zip(axes.flat, found, strict=False):
        for arm, style in (("dense", ":"), ("lexical", "--"), ("hybrid", "-")):
            recall = retrieval.arms[arm].recall
            panel.plot(range(1, len(recall) + 1), recall, style, label=arm)
        if base := RETRIEVAL_BASELINE.get(name):
            panel.plot((1, 5, 10), base[:3], "k+", label="baseline (documents)")
        panel.set(title=name, xlabel="k", ylim=(min(0.5, panel.get_ylim()[0]), 1.01))
        panel.grid(alpha=0.3)
    axes[0, 0].set_ylabel("recall@k")
    axes[0, 0].legend(fontsize="small", loc="lower right")
    return drawn


def draw_refusal(plt: Any, measured: Sequence[Measured]) -> Any:
    """The trade-off of every threshold, and a dot where the default one lies."""
    found = [(m.name, m.refusal) for m in measured if m.refusal.answerable and m.refusal.unanswerable]
    if not found:
        return None
    drawn, axes = plt.subplots(figsize=(6.5, 5), layout="constrained")
    for name, refusal in found:
        wrong, answered = zip(*refusal.trade_off(), strict=True)
        (line,) = axes.plot(wrong, answered, drawstyle="steps-post", label=f"{name} (AUC {refusal.auc:.3f})")
        told = refusal.as_json()
        here = (
            told["answerable"]["refused"] / told["answerable"]["asked"],
            told["unanswerable"]["answered"] / told["unanswerable"]["asked"],
        )
        axes.plot(*here, "o", color=line.get_color())
    axes.plot((0, 1), (1, 0), color="grey", linewidth=0.8, linestyle=":", label="chance")
    axes.set(xlabel="answerable questions refused", ylabel="unanswerable questions answered")
    axes.set(xlim=(-0.01, 1), ylim=(-0.01, 1.01), title="dots: the default threshold")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return drawn


def draw_reliability(plt: Any, measured: Sequence[Measured]) -> Any:
    """Confidence against the share that can be answered; both kinds weigh the same, area shows how many."""
    found = [(m.name, m.refusal) for m in measured if m.refusal.answerable and m.refusal.unanswerable]
    if not found:
        return None
    drawn, axes = plt.subplots(figsize=(6, 5.5), layout="constrained")
    for name, refusal in found:
        bins = refusal.bins()
        sizes = [20 + 400 * found_bin.weight for found_bin in bins]
        x, y = [b.confidence for b in bins], [b.answerable for b in bins]
        points = axes.scatter(x, y, s=sizes, alpha=0.6)
        axes.plot(x, y, color=points.get_facecolor()[0], label=f"{name} (ECE {refusal.calibration_error:.3f})")
    axes.plot((0, 1), (0, 1), color="grey", linewidth=0.8, linestyle=":", label="as it should be")
    axes.set(xlabel="confidence", ylabel="share that can be answered", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return drawn


if __name__ == "__main__":
    raise SystemExit(main())
