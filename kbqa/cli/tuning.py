"""kbqa tune: from a spreadsheet of questions and answers to a tuned model that is measured and served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbqa.cli.common import FilePath, Group, Session, pass_session
from kbqa.cli.screen import complain, print_json, say, shown
from kbqa.errors import ConfigError

if TYPE_CHECKING:
    from kbqa.chatglm.tokenizers import Tokenizer
    from kbqa.tuning.checks import Checks, Lengths
    from kbqa.tuning.convert import Converted
    from kbqa.tuning.tables import Named

__all__ = ["data_options", "limit_options", "tuning"]

SHOWN = 5  # of a kind of trouble; all of it is in --json
BAR = 40  # characters of the longest bar
LINE = 60  # characters of a question
Decorator = Callable[[Any], Any]


@click.group("tune", cls=Group)
def tuning() -> None:
    """Tune a ChatGLM model on your own questions and answers, measure it, serve it.

    \b
    kbqa tune convert faq.xlsx train.jsonl --dev dev.jsonl
    kbqa tune evaluate models/chatglm3-6b output/checkpoint-1000 --data dev.jsonl
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


# --- convert ---------------------------------------------------------------------------------------------------------


@tuning.command()
@click.argument("paths", metavar="IN...", nargs=-1, required=True, type=FilePath())
@click.argument("out", metavar="OUT.jsonl", type=FilePath())
@data_options()
@click.option("--dev", type=FilePath(), metavar="FILE", help="Put some of the rows into this file, to measure with.")
@click.option(
    "--dev-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="How many of them.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which of them.")
@click.option("--keep-duplicates", is_flag=True, help="Keep rows that say the same as another.")
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
    dev_share: float,
    seed: int,
    keep_duplicates: bool,
    model: str | None,
    max_source_length: int,
    max_target_length: int,
) -> None:
    """Make the file OUT.jsonl to train on out of spreadsheets, csv or json files IN...

    Each has a column of questions and one of answers (Q and A, 问题 and 答案, content and summary, ...). All sheets
    are read. What is left out is told, with the reason.
    """
    from kbqa.tuning.convert import convert as converted
    from kbqa.tuning.data import write_rows

    _check_new(out, dev)
    tokenizer = _tokenizer(model)
    found = converted(
        paths,
        _named(prompt_column, response_column, history_column),
        dev=dev_share if dev else 0.0,
        seed=seed,
        keep_duplicates=keep_duplicates,
    )
    checks = _checked(found.train, found.dev, tokenizer, max_source_length, max_target_length)
    write_rows(out, found.train)
    if dev:
        write_rows(dev, found.dev)
    if session.json:
        print_json({"out": str(out), "dev": str(dev) if dev else None, **found.as_json(), "checks": checks.as_json()})
        return
    _show_converted(found, keep_duplicates)
    _show_checks(checks)
    say(f"{shown(str(out))}: {_count(len(found.train), 'row')}", bold=True)
    if dev:
        say(f"{shown(str(dev))}: {_count(len(found.dev), 'row')} to measure with", bold=True)


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
