"""kbqa eval: how good the parts are, on questions whose answers are known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kbqa.cli.common import Command, Group, Session, kb_option, pass_session
from kbqa.cli.screen import complain, figure_table, is_terminal, print_json, say, shown, table
from kbqa.errors import ConfigError
from kbqa.types import FileReport

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.evaluation import AnswersReport, Comparison, Reply
    from kbqa.evaluation.replies import OnReply

__all__ = ["evaluation"]

FAILED = 1
LINE = 160  # characters of an answer that is shown on a terminal; the whole of it is in --json
F = TypeVar("F", bound=Callable[..., Any])

RETRIEVAL = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")
EVIDENCE = ("evidence_recall@1", "evidence_recall@5", "evidence_recall@10")  # where questions come with evidence
LATENCIES = ("p50", "p99")
ANSWERS = {  # figure -> its column
    "queries": "questions",
    "contains": "contains",
    "exact_match": "exact",
    "f1": "F1",
    "citation_precision": "cited right",
    "citation_recall": "right cited",
    "refused": "refused",
    "mean_length": "length",
    "seconds": "s",
}
ROUNDED = ("mean_length", "seconds")


def _common(command: F) -> F:
    command = click.option("--seed", default=0, show_default=True, help="Which sample --limit takes.")(command)
    return click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most N questions, a sample.")(
        command
    )


_folders = click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group(cls=Group, name="eval")
def evaluation() -> None:
    """Measure on questions whose answers are known.

    A DIR holds corpus.jsonl, queries.jsonl and qrels.tsv (BEIR layout, each maybe gzipped), with gold answers in
    queries.jsonl and unanswerable questions in queries_unanswerable.jsonl; or files/ and qa.jsonl. It is asked
    through the settings of config.yaml; no base is touched.
    """


# --- the commands ----------------------------------------------------------------------------------------------------


@evaluation.command(cls=Command)
@_folders
@_common
@pass_session
def retrieval(session: Session, folders: tuple[Path, ...], limit: int | None, seed: int) -> None:
    """Recall, MRR and nDCG of the lexical arm, the dense arm and both.

    Where questions come with the sentences that answer them, also the share of these in the first passages.
    """
    from kbqa.evaluation import evaluate_retrieval

    make = _maker(session.installation())
    _each(session, folders, lambda folder: evaluate_retrieval(folder, make, limit, seed).as_json(), _show_retrieval)


@evaluation.command(cls=Command)
@_folders
@click.option("--save", is_flag=True, help="Keep the best weight beside the embedder's model.")
@_common
@pass_session
def fusion(session: Session, folders: tuple[Path, ...], save: bool, limit: int | None, seed: int) -> None:
    """How much the embedder's vectors should count beside words.

    Recall@5 of both together at each weight, and the best weight that finds on every DIR as much as the better of the
    two alone (0.003 less at most). It counts from the next start on where retrieval.dense_weight is not set.
    """
    from kbqa.embedders.weight import save_weight
    from kbqa.evaluation import FusionReport, evaluate_fusion

    installation = session.installation()
    path = installation.embedder.weight_file
    if save and path is None:
        raise ConfigError(
            f"{installation.embedder.name} has no folder to keep a weight in; run this without --save and set "
            "retrieval.dense_weight in config.yaml"
        )
    make = _maker(installation)
    report = FusionReport(tuple(evaluate_fusion(folder, make, limit, seed) for folder in folders))
    if save and path is not None and report.best is not None:
        save_weight(path, report.best, report.as_json()["sets"])
    saved = str(path) if save and report.best is not None else None
    if session.json:
        print_json({**report.as_json(), "saved": saved})
    else:
        _show_fusion(report.as_json(), saved)
    if report.best is None:
        raise ConfigError("at no weight do both arms together find as much as the better of them on every set")


@evaluation.command(cls=Command)
@click.argument("paths", metavar="DIR|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@kb_option()
@click.option(
    "--compare",
    "other",
    metavar="CONFIG",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Ask under this other config.yaml too, and show what gets better and what worse.",
)
@click.option("--details", is_flag=True, help="Show every question that goes wrong (with --json: every question).")
@_common
@pass_session
def answers(
    session: Session,
    paths: tuple[Path, ...],
    kb: str | None,
    other: Path | None,
    details: bool,
    limit: int | None,
    seed: int,
) -> None:
    """Answers against gold answers, and citations against judged documents.

    A FILE (xlsx, xls, csv, tsv, jsonl) holds your own questions for an existing base: the columns question, answer
    and/or source (问题, 答案, 来源). A question whose answer is 无, or that is marked answerable = false, must be
    refused. Several answers to one question stand on lines of their own or are parted by |.
    """
    run = _Answers(session, kb, limit, seed)
    now = session.installation()
    if other is None:
        rows: list[list[object]] = []
        try:
            _each(session, paths, lambda path: run.report(path, now, details), lambda p, r: _show_answers(p, r, rows))
        finally:
            if rows:
                figure_table(["", *ANSWERS.values()], rows)
        return
    then = session.installation(settings=other)
    labels = str(now.home.config.name), str(other)
    _each(session, paths, lambda path: run.compared(path, now, then), lambda p, r: _show_comparison(p, r, labels))


@evaluation.command(cls=Command)
@_folders
@_common
@pass_session
def refusal(session: Session, folders: tuple[Path, ...], limit: int | None, seed: int) -> None:
    """Whether it refuses what the documents do not tell, and nothing else.

    "at 1 %" is the share of the unanswerable questions answered were the threshold put where 1 % of the answerable
    ones is refused; ECE is the calibration error of the confidence.
    """
    from kbqa.evaluation import evaluate_refusal

    make = _maker(session.installation())
    rows: list[list[object]] = []

    def measured(folder: Path) -> dict[str, Any]:
        with _asking(session, folder) as on_reply:
            return evaluate_refusal(folder, make, limit, seed, on_reply).as_json()

    try:
        _each(session, folders, measured, lambda folder, report: rows.append(_refusal_row(folder, report)))
    finally:
        columns = ["", "answerable", "refused", "unanswerable", "answered", "AUC", "at 1 %", "at 5 %", "at 10 %", "ECE"]
        if rows:
            figure_table([*columns, "s"], rows)


@evaluation.command(cls=Command)
@_folders
@_common
@pass_session
def support(session: Session, folders: tuple[Path, ...], limit: int | None, seed: int) -> None:
    """Whether the check of answers tells true sentences from false ones.

    Sentences of the passages are told otherwise (true) or made false by a changed number, a swapped name or date, a
    negation, a foreign clause or sentence. --limit: of how many questions' passages (300 when not given).
    """
    from kbqa.evaluation import evaluate_support

    make = _maker(session.installation())
    _each(session, folders, lambda folder: evaluate_support(folder, make, limit, seed).as_json(), _show_support)


# --- measuring -------------------------------------------------------------------------------------------------------


def _each(
    session: Session,
    paths: Sequence[Path],
    measure: Callable[[Path], dict[str, Any]],
    show: Callable[[Path, dict[str, Any]], None],
) -> None:
    """Measure and show one after the other; of several, one that cannot be measured does not stop the rest."""
    failed = False
    for path in paths:
        try:
            report = measure(path)
        except ConfigError as error:
            if len(paths) == 1:
                raise
            failed = True
            complain(f"kbqa: {shown(str(error))}", fg="red")
            report = {"error": {"type": type(error).__name__, "message": str(error)}}
            if session.json:
                print_json({"dataset": str(path), **report})
            continue
        if session.json:
            print_json({"dataset": str(path), **report} if len(paths) > 1 else report)
        else:
            show(path, report)
    if failed:
        click.get_current_context().exit(FAILED)


@dataclass(frozen=True, slots=True)
class _Answers:
    """How answers are measured, whatever is asked."""

    session: Session
    kb: str | None
    limit: int | None
    seed: int

    def report(self, path: Path, installation: Installation, details: bool) -> dict[str, Any]:
        report = self.asked(path, installation)
        replies = [reply.as_json() for reply in report.replies] if details or not path.is_dir() else None
        return {**report.as_json(), **({} if replies is None else {"questions": replies})}

    def compared(self, path: Path, now: Installation, then: Installation) -> dict[str, Any]:
        from kbqa.evaluation import Comparison

        current, other = self.asked(path, now, refusals=True), self.asked(path, then, refusals=True)
        found = Comparison.of(current.replies, other.replies)
        return {"current": current.as_json(), "other": other.as_json(), **_comparison_fields(found)}

    def asked(self, path: Path, installation: Installation, refusals: bool = False) -> AnswersReport:
        from kbqa.evaluation import ask_all, evaluate_answers, load_questions, located
        from kbqa.evaluation.benchmark import sampled

        with _asking(self.session, path) as on_reply:
            if path.is_dir():
                return evaluate_answers(path, _maker(installation), self.limit, self.seed, on_reply, refusals)
            questions = sampled(load_questions(path), self.limit, self.seed)
            with installation.remade(self.kb, _complain_of) as kb:
                sources = [document.source for document in kb.store.documents()]
                return ask_all(kb, located(path, questions, sources, kb.name), on_reply)


def _maker(installation: Installation) -> Any:
    return partial(installation.temporary_base, on_file=_complain_of)


def _complain_of(file: FileReport) -> None:
    if file.status == "failed":
        complain(f"{shown(file.source)} is left out: {shown(file.error)}", fg="yellow")


@contextmanager
def _asking(session: Session, path: Path) -> Iterator[OnReply | None]:
    """Counts on a terminal how many questions have been asked."""
    if session.json or not is_terminal(sys.stderr):
        yield None
        return
    from rich.console import Console

    asked = 0
    with Console(stderr=True, markup=False).status(f"{shown(path.name)}: making a base") as status:

        def count(reply: Reply) -> None:
            nonlocal asked
            asked += 1
            status.update(f"{shown(path.name)}: {asked} questions asked")

        yield count


def _comparison_fields(found: Comparison) -> dict[str, list[dict[str, Any]]]:
    def fields(pair: tuple[Reply, Reply]) -> dict[str, Any]:
        current, other = pair
        question = current.question
        told = {
            name: {"verdict": reply.verdict, "answer": reply.text, "cited": list(reply.cited)}
            for name, reply in (("current", current), ("other", other))
        }
        return {"id": question.id, "question": question.text, "expected": list(question.answers), **told}

    return {"better": [fields(pair) for pair in found.better], "worse": [fields(pair) for pair in found.worse]}


# --- showing ---------------------------------------------------------------------------------------------------------


def _figure(value: object, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _show_retrieval(folder: Path, report: dict[str, Any]) -> None:
    counts = f"{report['documents']} documents, {report['chunks']} passages, {report['queries']} questions"
    say(f"{shown(str(folder))}: {counts}, {report['seconds']} s", bold=True)
    figures = [figure for figure in (*RETRIEVAL, *EVIDENCE) if figure in report["arms"]["hybrid"]]
    names = [figure.replace("evidence_recall", "evidence") for figure in figures]
    rows = [
        [name, *(_figure(arm[figure]) for figure in figures), *(_figure(arm["latency_ms"][it], 1) for it in LATENCIES)]
        for name, arm in report["arms"].items()
    ]
    figure_table(["", *names, *(f"{latency} ms" for latency in LATENCIES)], rows)
    say()


def _show_fusion(report: dict[str, Any], saved: str | None) -> None:
    sets = report["sets"]
    rows: list[list[object]] = [["questions", *(found["queries"] for found in sets), "", ""]]
    for arm in ("lexical", "dense"):
        figures = [found[arm] for found in sets]
        rows.append([arm, *map(_figure, [*figures, fmean(figures)]), ""])
    for found in report["weights"]:
        figures = [*found["recall@5"], found["mean"]]
        note = "best" if found["weight"] == report["best"] else "" if found["holds"] else "below an arm"
        rows.append([f"{found['weight']:.2f}", *map(_figure, figures), note])
    table(["Recall@5", *(shown(found["dataset"]) for found in sets), "mean", ""], rows, header=True)
    if saved:
        say(f"{report['best']:g} is kept in {shown(saved)}")


def _answers_row(label: str, report: dict[str, Any]) -> list[object]:
    return [label, *(_figure(report[key], 0 if key in ROUNDED else 3) for key in ANSWERS)]


def _show_answers(path: Path, report: dict[str, Any], rows: list[list[object]]) -> None:
    """What went wrong at once, the figures into `rows` for the table at the end."""
    rows.append(_answers_row(path.name, report))
    for reply in report.get("questions", ()):
        if reply["verdict"] not in ("right", "refused rightly"):
            say(f"{reply['verdict']}: {shown(reply['question'])}", bold=True)
            _show_reply("answer", reply)
            if reply["expected"]:
                say(f"    expected: {_short(' | '.join(reply['expected']))}")
    if "unanswerable" in report:
        counts = report["unanswerable"]
        say(f"{counts['asked'] - counts['answered']} of {counts['asked']} unanswerable questions refused")


def _show_reply(label: str, reply: dict[str, Any]) -> None:
    cited = ", ".join(dict.fromkeys(reply["cited"]))
    say(f"    {label}: {_short(reply['answer'])}{f'  [{shown(cited)}]' if cited else ''}")


def _short(text: str) -> str:
    line = shown(" ".join(text.split()))
    return line if len(line) <= LINE else line[: LINE - 1] + "…"


def _show_comparison(path: Path, report: dict[str, Any], labels: tuple[str, str]) -> None:
    for change in ("better", "worse"):
        say(f"{change} with {labels[1]}: {len(report[change])}", bold=True)
        for found in report[change]:
            say(f"  {shown(found['question'])}")
            for label, key in zip(labels, ("current", "other"), strict=True):
                _show_reply(f"{label} ({found[key]['verdict']})", found[key])
    rows = [_answers_row(label, report[key]) for label, key in zip(labels, ("current", "other"), strict=True)]
    figure_table([path.name, *ANSWERS.values()], rows)
    for label, key in zip(labels, ("current", "other"), strict=True):
        if counts := report[key].get("unanswerable"):
            say(f"{label}: {counts['asked'] - counts['answered']} of {counts['asked']} unanswerable questions refused")


def _refusal_row(folder: Path, report: dict[str, Any]) -> list[object]:
    told, untold = report["answerable"], report["unanswerable"]
    trade_off = report["at_wrong_refusals"] or dict.fromkeys(("0.01", "0.05", "0.10"))
    figures = [report["auc"], *trade_off.values(), report["calibration_error"]]
    counts = [told["asked"], told["refused"], untold["asked"], untold["answered"]]
    return [folder.name, *counts, *map(_figure, figures), _figure(report["seconds"], 0)]


def _show_support(folder: Path, report: dict[str, Any]) -> None:
    counts = f"{report['sentences']} sentences of {report['questions']} questions' passages, {report['seconds']} s"
    say(f"{shown(str(folder))}: {counts}", bold=True)
    say(f"flagged as not fully supported: precision {_figure(report['precision'])}, recall {_figure(report['recall'])}")
    rows: list[list[object]] = []
    for kind, scores in report["true"].items():
        rows.append(["true", kind, scores["count"], _figure(scores["flagged"]), "", ""])
    for kind, scores in report["false"].items():
        rows.append(["false", kind, scores["count"], "", _figure(scores["precision"]), _figure(scores["recall"])])
    table(["sentence", "kind", "count", "flagged", "precision", "recall"], rows, header=True)
    say()
