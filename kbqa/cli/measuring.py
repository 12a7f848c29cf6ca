"""kbqa tune evaluate: what a tuned model learned, and what it forgot."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from kbqa import __version__
from kbqa.cli.common import Command, FilePath, Session, pass_session
from kbqa.cli.models import family_option
from kbqa.cli.screen import complain, figure_table, is_terminal, print_json, say, shown
from kbqa.cli.tuning import data_options, limit_options
from kbqa.errors import ConfigError

if TYPE_CHECKING:
    from kbqa.chatglm.model import ChatGLM
    from kbqa.tuning.data import Row
    from kbqa.tuning.evaluate import Candidate, Evaluation, Scored
    from kbqa.tuning.preprocess import Limits

__all__ = ["evaluate"]

OnRow = Callable[["Candidate", "Scored"], None]


@click.command(cls=Command)
@click.argument("base", metavar="BASE")
@click.argument("checkpoints", metavar="[CHECKPOINT]...", nargs=-1, type=FilePath())
@click.option("--data", required=True, metavar="FILE", type=FilePath(), help="Rows that were not trained on.")
@click.option("--out", metavar="DIR", type=FilePath(), default="evaluation", show_default=True, help="A new folder.")
@data_options("content", "summary", "history")
@limit_options
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most N rows, a sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which sample.")
@click.option("--held", metavar="FILE", type=FilePath(), help="Text (.txt) or questions (.jsonl) of your own to hold.")
@click.option("--no-guard", is_flag=True, help="Do not measure what was forgotten.")
@click.option("--no-base", is_flag=True, help="Do not score the untuned base.")
@click.option("--dtype", type=click.Choice(["auto", "bfloat16", "float16", "float32"]), default="auto")
@click.option("--bits", "--quantization_bit", type=click.Choice(["4", "8"]), help="Quantize the base while loading.")
@click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; else a GPU if there is one.")
@click.option(
    "--batch",
    "--per_device_eval_batch_size",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Rows that are asked at once.",
)
@family_option
@pass_session
def evaluate(
    session: Session,
    base: str,
    checkpoints: tuple[Path, ...],
    data: Path,
    out: Path,
    prompt_column: str,
    response_column: str,
    history_column: str,
    max_source_length: int,
    max_target_length: int,
    limit: int | None,
    seed: int,
    held: Path | None,
    no_guard: bool,
    no_base: bool,
    dtype: str,
    bits: str | None,
    device: str | None,
    batch: int,
    family: str | None,
) -> None:
    """Ask the model BASE, bare and with each CHECKPOINT, the rows of a file, and score the answers.

    A CHECKPOINT is a folder with a P-Tuning prefix or a LoRA adapter, or one with checkpoint-N folders. DIR gets each
    model's answers as JSON lines, summary.json, report.html and report.png. What a checkpoint forgot is kept beside it
    too, for `kbqa tune promote`.
    """
    from kbqa.tuning.data import Columns, read_rows
    from kbqa.tuning.evaluate import checkpoints as found_in
    from kbqa.tuning.evaluate import compare
    from kbqa.tuning.guard import held as held_back
    from kbqa.tuning.preprocess import Limits
    from kbqa.tuning.report import check_libraries

    folders = list(dict.fromkeys(folder.resolve() for path in checkpoints for folder in found_in(path)))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; name a new folder with --out, or remove it first")
    rows = _sampled(read_rows(data, Columns(prompt_column, response_column, history_column)), limit, seed)
    what = None if no_guard or not folders else held_back(held)
    check_libraries()
    _check_metrics()
    model = _model(base, dtype, device, bits, family)
    limits = Limits(max_source_length, max_target_length)
    about = _about(model, base, data, rows, limits)
    out.mkdir(parents=True, exist_ok=True)
    with _progress(session, len(rows)) as shown_row:
        written = _writers(out, shown_row)
        found = []
        for it in compare(model, folders, rows, limits, what, batch, not no_base, written):
            _keep(it, about)
            found.append(it)
    _report(out, found, about)
    if session.json:
        print_json({"out": str(out), **about, "models": [it.as_json() for it in found]})
    else:
        _show(out, found, max_source_length, max_target_length)


def _sampled(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    from random import Random

    if limit is None or limit >= len(rows):
        return rows
    return [rows[at] for at in sorted(Random(seed).sample(range(len(rows)), limit))]


def _check_metrics() -> None:
    """Whether the libraries are there, before a model is loaded."""
    from kbqa.tuning.metrics import score

    score("好", "好")


def _model(base: str, dtype: str, device: str | None, bits: str | None, family: str | None) -> ChatGLM:
    import torch

    from kbqa.chatglm import load_chatglm
    from kbqa.chatglm.architecture import read_architecture
    from kbqa.chatglm.hub import find_model

    folder = find_model(base)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        dtype = "bfloat16" if device == "cpu" else read_architecture(folder, cast("Any", family)).dtype
    number = cast("Any", int(bits) if bits else None)
    return load_chatglm(folder, cast("Any", dtype), device, number, family=cast("Any", family))


def _about(model: ChatGLM, base: str, data: Path, rows: Sequence[Row], limits: Limits) -> dict[str, Any]:
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "kbqa": __version__,
        "base": base,
        "fingerprint": model.fingerprint,
        "dtype": str(model.decoder.dtype).removeprefix("torch."),
        "data": str(data),
        "data_digest": hashlib.sha256(data.read_bytes()).hexdigest(),
        "rows": len(rows),
        **(
            {"answered_by": dict(teachers)} if (teachers := Counter(row.teacher for row in rows if row.teacher)) else {}
        ),
        "max_source_length": limits.max_source_length,
        "max_target_length": limits.max_target_length,
    }


def _writers(out: Path, shown_row: OnRow) -> OnRow:
    """Each answer is on disk as soon as it is there."""
    from kbqa.tuning.evaluate import write_scored

    def written(candidate: Candidate, scored: Scored) -> None:
        write_scored(out / _file_name(candidate.name))(scored)
        shown_row(candidate, scored)

    return written


def _file_name(name: str) -> str:
    return f"{name.replace('/', '_')}.jsonl"


def _keep(found: Evaluation, about: dict[str, Any]) -> None:
    """Beside the checkpoint, what it forgot."""
    from kbqa.tuning.guard import write_evaluation

    if found.folder is None or found.forgetting is None:
        return
    try:
        write_evaluation(found.folder, {**about, **found.as_json()})
    except OSError as error:
        complain(
            f"what was found cannot be kept beside {shown(str(found.folder))} ({error.strerror}), where "
            "kbqa tune promote looks for it",
            fg="yellow",
        )


def _report(out: Path, found: Sequence[Evaluation], about: dict[str, Any]) -> None:
    import json

    from kbqa.tuning.report import draw, page

    chart = draw(found)
    (out / "report.png").write_bytes(chart)
    told = {name.replace("_", " "): str(value) for name, value in about.items()}
    (out / "report.html").write_text(page(found, told, chart), encoding="utf-8")
    summary = {**about, "models": [it.as_json() for it in found]}
    (out / "summary.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _progress(session: Session, rows: int) -> Iterator[OnRow]:
    """Counts on a terminal how many rows each model has answered."""
    if session.json or not is_terminal(sys.stderr):
        yield lambda candidate, scored: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False)) as progress:
        tasks: dict[str, Any] = {}

        def count(candidate: Candidate, scored: Scored) -> None:
            if candidate.name not in tasks:
                tasks[candidate.name] = progress.add_task(shown(candidate.name), total=rows)
            progress.advance(tasks[candidate.name])

        yield count


def _show(out: Path, found: Sequence[Evaluation], source: int, target: int) -> None:
    from kbqa.tuning.report import figures

    lines = {it.name: figures(it) for it in found}
    figure_table(["", *next(iter(lines.values()))], [[name, *line.values()] for name, line in lines.items()])
    first = found[0]
    if taught := sum(bool(it.row.teacher) for it in first.scored):
        complain(f"{taught:,} of the wanted answers were written by a model (teacher)", fg="yellow")
    if first.long_prompts:
        complain(f"{first.long_prompts:,} of the questions were cut to {source:,} tokens", fg="yellow")
    if first.long_answers:
        complain(f"{first.long_answers:,} of the wanted answers are longer than {target:,} tokens", fg="yellow")
    for it in found:
        if it.failed:
            reason = next(scored.said.error for scored in it.scored if scored.said.error)
            complain(f"{shown(it.name)}: {it.failed:,} rows got no answer: {shown(reason)}", fg="red")
        if it.forgetting is not None and it.forgetting.drop > 0:
            say(f"{shown(it.name)} forgot: {it.forgetting.told()}")
    say(f"{shown(str(out / 'report.html'))} shows the answers side by side", bold=True)
