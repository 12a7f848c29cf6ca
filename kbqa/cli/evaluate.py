"""kbqa eval: how good the parts are, on questions whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kbqa.cli.common import Command, FilePath, Group, Session, pass_session
from kbqa.cli.screen import print_json, say, shown

__all__ = ["evaluation"]

FIGURES = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")


@click.group(cls=Group, name="eval")
def evaluation() -> None:
    """Measure on questions whose answers are known."""


@evaluation.command(cls=Command)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=FilePath())
@pass_session
def retrieval(session: Session, folders: tuple[Path, ...]) -> None:
    """Recall, MRR and nDCG of retrieval on folders in BEIR layout: corpus.jsonl, queries.jsonl, qrels.tsv, each maybe
    gzipped. The settings of config.yaml are what is measured; no base is touched."""
    from kbqa.evaluation import evaluate_retrieval

    installation = session.installation()
    for folder in folders:
        report = evaluate_retrieval(folder, installation.temporary_base).as_json()
        if session.json:
            print_json({"dataset": str(folder), **report} if len(folders) > 1 else report)
        else:
            _show(folder, report)


def _show(folder: Path, report: dict[str, Any]) -> None:
    counts = f"{report['documents']} documents, {report['chunks']} passages, {report['queries']} questions"
    say(f"{shown(str(folder))}: {counts}, {report['seconds']} s", bold=True)
    say(f"{'':8}" + "".join(f"{figure:>11}" for figure in FIGURES) + f"{'p50 ms':>9}{'p99 ms':>9}")
    for name, arm in report["arms"].items():
        figures = "".join(f"{arm[figure]:>11.3f}" for figure in FIGURES)
        latency = arm["latency_ms"]
        say(f"{name:8}{figures}{latency['p50']:>9.1f}{latency['p99']:>9.1f}")
    say()
