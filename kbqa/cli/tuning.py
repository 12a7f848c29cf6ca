"""kbqa tune: from a spreadsheet of questions and answers to a tuned model that is measured and served."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbqa.cli.common import FilePath, Group, Session, base_name, known_names, pass_session
from kbqa.cli.screen import complain, is_terminal, print_json, say, shown
from kbqa.errors import ConfigError

if TYPE_CHECKING:
    from kbqa.chain import KnowledgeBase
    from kbqa.chatglm.tokenizers import Tokenizer
    from kbqa.tuning.checks import Checks, Lengths
    from kbqa.tuning.convert import Converted
    from kbqa.tuning.data import Row
    from kbqa.tuning.knowledge import Grounded
    from kbqa.tuning.tables import Named
    from kbqa.tuning.teacher import Taught
    from kbqa.types import Generator

__all__ = ["counting", "data_options", "limit_options", "tuning"]

DEV_SHARE = 0.1  # of the questions
SHOWN = 5  # of a kind of trouble; all of it is in --json
BAR = 40  # characters of the longest bar
LINE = 60  # characters of a question
Decorator = Callable[[Any], Any]


@click.group("tune", cls=Group)
def tuning() -> None:
    """Tune a ChatGLM model on your own questions and answers, measure it, serve it.

    \b
    kbqa tune convert faq.xlsx train.jsonl --dev dev.jsonl
    kbqa tune train tune.yaml
    kbqa tune evaluate models/chatglm3-6b output/faq --data dev.jsonl
    kbqa tune promote faq output/faq/checkpoint-1000
    """


def _options(*options: Decorator) -> Decorator:
    def decorated(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def data_options(prompt: str | None = None, response: str | None = None, history: str | None = None) -> Decorator:
    """--prompt-column and so on; a command whose files have names of their own says which."""

    def option(name: str, default: str | None, what: str) -> Decorator:
        return click.option(
            f"--{name}-column",
            f"--{name}_column",
            metavar="NAME",
            default=default,
            show_default=default is not None,
            help=f"What the column of {what} is called{'' if default else '; else one of the usual names'}.",
        )

    return _options(
        option("prompt", prompt, "questions"),
        option("response", response, "answers"),
        option("history", history, "earlier turns"),
    )


limit_options: Decorator = _options(
    click.option(
        "--max-source-length",
        "--max_source_length",
        type=click.IntRange(min=4),
        default=256,
        show_default=True,
        help="Tokens of a question that are read.",
    ),
    click.option(
        "--max-target-length",
        "--max_target_length",
        type=click.IntRange(min=4),
        default=256,
        show_default=True,
        help="Tokens of an answer.",
    ),
)


@contextmanager
def counting(session: Session, what: str, total: int) -> Iterator[Callable[[object], None]]:
    """Counts on a terminal how many rows are done."""
    if session.json or not total or not is_terminal(sys.stderr):
        yield lambda row: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False)) as progress:
        task = progress.add_task(shown(what), total=total)
        yield lambda row: progress.advance(task)


# --- convert ---------------------------------------------------------------------------------------------------------


@tuning.command()
@click.argument("paths", metavar="IN...", nargs=-1, required=True, type=FilePath())
@click.argument("out", metavar="OUT.jsonl", type=FilePath())
@data_options()
@click.option("--dev", type=FilePath(), metavar="FILE", help="Put some of the rows into this file, to measure with.")
@click.option(
    "--dev-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help=f"How many of them; else {DEV_SHARE}.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which of them.")
@click.option("--keep-duplicates", is_flag=True, help="Keep rows that say the same as another.")
@click.option(
    "--teacher", metavar="NAME", help="Answer questions without an answer by this generator of config.yaml, marked so."
)
@click.option(
    "--with-knowledge",
    "kb",
    metavar="KB",
    type=base_name,
    shell_complete=known_names,
    help="Put questions below the passages that this knowledge base finds, as they will be asked.",
)
@click.option(
    "--max-characters", metavar="N", type=click.IntRange(min=50), help="Of a question's passages; else as when asked."
)
@click.option("--model", metavar="PATH", help="The model that is to be tuned: lengths are counted in its tokens.")
@limit_options
@pass_session
def convert(
    session: Session,
    paths: tuple[Path, ...],
    out: Path,
    prompt_column: str | None,
    response_column: str | None,
    history_column: str | None,
    dev: Path | None,
    dev_share: float | None,
    seed: int,
    keep_duplicates: bool,
    teacher: str | None,
    kb: str | None,
    max_characters: int | None,
    model: str | None,
    max_source_length: int,
    max_target_length: int,
) -> None:
    """Make the file OUT.jsonl to train on out of spreadsheets, csv or json files IN...

    Each has a column of questions and one of answers (Q and A, 问题 and 答案, content and summary, ...). All sheets
    are read. What is left out is told, with the reason.
    """
    from kbqa.tuning.convert import convert as converted
    from kbqa.tuning.data import split, write_rows
    from kbqa.tuning.teacher import answers_file

    _check_belonging(dev, dev_share, kb, max_characters)
    _check_new(out, dev)
    installation = session.installation() if teacher or kb else None
    asked = installation.teacher(teacher) if installation and teacher else None
    if installation and kb:
        installation.store(kb).close()  # whether there is such a base, before anything is paid for
    tokenizer = _tokenizer(model)
    columns = _named(prompt_column, response_column, history_column)
    found = converted(paths, columns, unanswered=teacher is not None, keep_duplicates=keep_duplicates)
    rows, taught = found.rows, None
    if asked is not None and teacher is not None:
        taught = _taught(session, rows, asked, teacher, out)
        rows = taught.rows
    if not rows:
        raise ConfigError(f"{teacher} answered nothing, and no row has an answer of its own")
    train, held = split(rows, (dev_share or DEV_SHARE) if dev else 0.0, seed)
    checks = _checked(train, held, tokenizer, max_source_length, max_target_length)
    below = None
    if installation is not None and kb:
        with installation.open(kb) as base:
            below = [_grounded(session, base, side, max_characters, seed) for side in (train, held)]
        train, held = list(below[0].rows), list(below[1].rows)
        long = _checked(train, held, tokenizer, max_source_length, max_target_length)
        checks = replace(checks, prompts=long.prompts, responses=long.responses)
    write_rows(out, train)
    if dev:
        write_rows(dev, held)
    answers_file(out).unlink(missing_ok=True)
    teachers = Counter(row.teacher for row in (*train, *held) if row.teacher)
    if session.json:
        written = {"out": str(out), "rows": len(train), "dev": str(dev) if dev else None, "dev_rows": len(held)}
        more = {"teachers": teachers, "unanswered": [list(it) for it in taught.unanswered] if taught else []}
        knowledge = {"with_knowledge": [_knowledge_fields(it) for it in below] if below else None}
        print_json({**written, **found.as_json(), **more, **knowledge, "checks": checks.as_json()})
        return
    _show_converted(found, keep_duplicates)
    _show_taught(teachers, taught)
    if below:
        _show_knowledge(below)
    _show_checks(checks)
    _show_written(out, len(train), dev, len(held))


def _show_written(out: Path, rows: int, dev: Path | None, dev_rows: int) -> None:
    say(f"{shown(str(out))}: {_count(rows, 'row')}", bold=True)
    if dev:
        say(f"{shown(str(dev))}: {_count(dev_rows, 'row')} to measure with", bold=True)


def _check_belonging(dev: Path | None, dev_share: float | None, kb: str | None, max_characters: int | None) -> None:
    """UsageError for an option that says something of another one that is not there."""
    if dev_share is not None and dev is None:
        raise click.UsageError("--dev-share says how many rows are put apart; say where with --dev")
    if max_characters is not None and kb is None:
        raise click.UsageError("--max-characters is of passages; name their base with --with-knowledge")


def _show_taught(teachers: Mapping[str, int], taught: Taught | None) -> None:
    for name, count in teachers.items():
        say(f"  answered by {shown(name)}: {count:,}")
    _some([f"{_short(question)}: {reason}" for question, reason in (taught.unanswered if taught else ())], "unanswered")


def _taught(session: Session, rows: Sequence[Row], teacher: Generator, name: str, out: Path) -> Taught:
    from kbqa.tuning.teacher import answers_file, teach

    try:
        with counting(session, f"{name} answers", sum(not row.response for row in rows)) as count:
            return teach(rows, teacher, name, answers_file(out), on_row=count)
    finally:
        if close := getattr(teacher, "close", None):
            close()


def _grounded(
    session: Session, base: KnowledgeBase, rows: Sequence[Row], max_characters: int | None, seed: int
) -> Grounded:
    from kbqa.tuning.knowledge import grounded

    with counting(session, f"{base.name} is searched", len(rows)) as count:
        return grounded(rows, base, max_characters=max_characters, seed=seed, on_row=count)


def _show_knowledge(below: Sequence[Grounded]) -> None:
    asked, refused = (sum(getattr(it, name) for it in below) for name in ("with_passages", "refusals"))
    say(f"  below passages: {asked:,}, and {refused:,} of them once more without those that answer, to be refused")
    bare = [_short(question) for it in below for question in it.bare]
    _some(bare, "left bare, for the passages found do not tell the answer")
    longest = max((len(row.prompt) for it in below for row in it.rows), default=0)
    say(f"  the longest has {longest:,} characters; max_source_length must hold it, for the question stands at its end")


def _knowledge_fields(it: Grounded) -> dict[str, Any]:
    return {"with_passages": it.with_passages, "refusals": it.refusals, "bare": list(it.bare)}


def _check_new(*paths: Path | None) -> None:
    """Before anything is read."""
    given = [path for path in paths if path is not None]
    for path in given:
        if path.suffix != ".jsonl":
            raise ConfigError(f"{path} is to hold JSON lines; name it with .jsonl at its end")
        if path.exists():
            raise ConfigError(f"{path} exists already; name another file, or remove it first")
    if len(set(given)) < len(given):
        raise ConfigError(f"{given[0]} cannot hold the rows to train on and those to measure with")


def _named(prompt: str | None, response: str | None, history: str | None) -> Named:
    from kbqa.tuning.tables import Named

    return Named(prompt, response, history)


def _show_converted(found: Converted, kept: bool) -> None:
    for path, read in found.files:
        say(f"{shown(str(path))}: {_count(len(read.rows), 'row')}")
        _some([f"{it.where}: {it.reason}" for it in read.dropped], "left out")
        for warning in read.warnings:
            complain(f"  {shown(warning)}", fg="yellow")
    _some([f"{it.where}: {it.reason}" for it in found.repeated], "duplicates, kept" if kept else "duplicates, left out")


# --- check -----------------------------------------------------------------------------------------------------------


@tuning.command()
@click.argument("train", metavar="TRAIN.jsonl", type=FilePath())
@click.argument("dev", metavar="[DEV.jsonl]", required=False, type=FilePath())
@data_options("content", "summary", "history")
@click.option("--model", metavar="PATH", help="The model that is to be tuned: lengths are counted in its tokens.")
@limit_options
@pass_session
def check(
    session: Session,
    train: Path,
    dev: Path | None,
    prompt_column: str,
    response_column: str,
    history_column: str,
    model: str | None,
    max_source_length: int,
    max_target_length: int,
) -> None:
    """Look at rows before training on them: their lengths, duplicates, contradictions, and what leaks into DEV."""
    from kbqa.tuning.data import Columns, read_rows

    columns = Columns(prompt_column, response_column, history_column)
    rows = read_rows(train, columns)
    held = read_rows(dev, columns) if dev else []
    checks = _checked(rows, held, _tokenizer(model), max_source_length, max_target_length)
    if session.json:
        print_json({"train": str(train), "dev": str(dev) if dev else None, **checks.as_json()})
        return
    _show_checks(checks)
    if checks.duplicates:
        say(f"{_count(checks.duplicates, 'duplicate')}; `kbqa tune convert` leaves them out", fg="yellow")
    say(f"{_count(checks.rows, 'row')}" + (f", {checks.dev_rows:,} to measure with" if dev else ""), bold=True)


def _tokenizer(model: str | None) -> Tokenizer | None:
    if model is None:
        return None
    from kbqa.chatglm.architecture import read_architecture
    from kbqa.chatglm.hub import find_model
    from kbqa.chatglm.tokenizers import load_tokenizer

    folder = find_model(model)
    return load_tokenizer(folder, read_architecture(folder).family)


def _checked(train: Sequence[Any], dev: Sequence[Any], tokenizer: Tokenizer | None, source: int, target: int) -> Checks:
    from kbqa.tuning.checks import check
    from kbqa.tuning.preprocess import Limits

    return check(train, dev, tokenizer, Limits(source, target))


def _show_checks(checks: Checks) -> None:
    _show_lengths(f"questions, {checks.unit}", checks.prompts)
    _show_lengths(f"answers, {checks.unit}", checks.responses)
    conflicts = [f"{_short(it.prompt)}: {' / '.join(map(_short, it.responses))}" for it in checks.conflicts]
    _some(conflicts, "questions with different answers")
    _some(list(map(_short, checks.leaked)), "questions to measure with that are trained on too")


def _show_lengths(name: str, lengths: Lengths) -> None:
    if not lengths.values:
        return
    figures = f"{lengths.at(0):,} to {lengths.at(1):,}, half of them up to {lengths.at(0.5):,}"
    say(f"{name}: {figures}")
    bars = lengths.bars()
    most = max(count for _, count in bars)
    for end, count in bars:
        say(f"  {end:>7,}  {'█' * -(-count * BAR // most)} {count:,}")
    if lengths.over:
        complain(
            f"  {_count(lengths.over, 'is', 'are')} longer than {lengths.limit:,} and will be cut in training",
            fg="yellow",
        )


def _some(lines: Sequence[str], what: str) -> None:
    """The first few of them, and how many there are."""
    if not lines:
        return
    complain(f"  {what}: {len(lines):,}", fg="yellow")
    for line in lines[:SHOWN]:
        complain(f"    {shown(line)}")
    if len(lines) > SHOWN:
        complain(f"    ... and {len(lines) - SHOWN:,} more (all with --json)")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LINE else f"{line[: LINE - 1]}…"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
