"""Answers for questions that have none, written by a model and marked as such.

Every answer is on disk before the next is asked for, in a file beside the one that is being made. Whoever breaks off
goes on where he was; answers of another teacher are never taken for this one's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from kbqa.cancellation import Cancellation
from kbqa.errors import ConfigError, GeneratorError, KbqaError
from kbqa.prompt import messages
from kbqa.tuning.data import Columns, Row, fields_of, read_rows
from kbqa.types import GenerationRequest, Generator

__all__ = ["Taught", "answers_file", "teach"]

AT_ONCE = 4  # questions


@dataclass(frozen=True, slots=True)
class Taught:
    """`rows` in the order of those given; `unanswered` are questions that got no answer, with the reason."""

    rows: Sequence[Row]
    answered: int
    unanswered: Sequence[tuple[str, str]]


def answers_file(out: Path) -> Path:
    """Where answers are kept until `out` is written."""
    return out.with_name(f"{out.stem}.teacher.jsonl")


def teach(
    rows: Sequence[Row],
    teacher: Generator,
    name: str,
    kept: Path,
    *,
    at_once: int = AT_ONCE,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Taught:
    """Answers by `teacher` for the rows that have none; the others stay as they are.

    ConfigError when `kept` holds answers of another teacher; GeneratorError when the teacher fails: what it said until
    then is kept, and the same call goes on from there.
    """
    known = {_asked(row): row.response for row in _kept(kept, name)}
    wanted = [row for row in rows if not row.response]
    missing = list({_asked(row): row for row in wanted if _asked(row) not in known}.values())
    kept.parent.mkdir(parents=True, exist_ok=True)
    failed: dict[object, str] = {}
    with kept.open("a", encoding="utf-8", newline="\n") as file:
        for row, reason in _answers(missing, teacher, name, at_once, kept):
            if reason:
                failed[_asked(row)] = reason
                continue
            file.write(json.dumps(fields_of(row, Columns()), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            known[_asked(row)] = row.response
            on_row(row)
    made = [row if row.response else replace(row, response=known.get(_asked(row), ""), teacher=name) for row in rows]
    return Taught(
        [row for row in made if row.response],
        len(wanted) - sum(not row.response for row in made),
        [(row.prompt, failed[_asked(row)]) for row in made if not row.response],
    )


def _kept(path: Path, name: str) -> Iterator[Row]:
    """What was answered before. A line that was cut off by the end of the process is taken away."""
    if not path.is_file():
        return
    whole = path.read_bytes()
    if torn := whole.rpartition(b"\n")[2]:
        with path.open("rb+") as file:
            file.truncate(len(whole) - len(torn))
    if not whole.strip() or whole == torn:
        return
    for row in read_rows(path):
        if row.teacher != name:
            raise ConfigError(
                f"{path} holds answers of {row.teacher or 'somebody else'}; name that one as --teacher, or remove the "
                f"file to have all of them answered by {name}"
            )
        yield row


def _answers(rows: Sequence[Row], teacher: Generator, name: str, at_once: int, kept: Path) -> Iterator[tuple[Row, str]]:
    """Each row answered, or with the reason why it is not. When the teacher fails, what is on its way still comes."""
    pool = ThreadPoolExecutor(min(at_once, max(len(rows), 1)))
    broken: KbqaError | None = None
    leaving = Cancellation()
    try:
        asked = {pool.submit(_answer, row, teacher, leaving): row for row in rows}
        for future in as_completed(asked):
            if future.cancelled():
                continue
            try:
                text, reason = future.result()
            except KbqaError as error:
                broken = broken or error
                for other in asked:
                    other.cancel()
            else:
                yield replace(asked[future], response=text, teacher=name), reason
    except BaseException:  # Ctrl-C, or a full disk: nobody waits for what is on its way
        leaving.cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    if broken is not None:
        raise GeneratorError(
            f"{name} does not answer any more: {broken}; its answers so far are kept in {kept}, and the same command "
            "goes on from there"
        ) from broken


def _answer(row: Row, teacher: Generator, leaving: Cancellation) -> tuple[str, str]:
    """(text, "") or ("", why there is none)."""
    request = GenerationRequest(messages(row.prompt, row.history), row.prompt, temperature=0.0, cancellation=leaving)
    pieces = list(teacher.stream(request))
    text = "".join(piece.text for piece in pieces).strip()
    if any(piece.finish == "length" for piece in pieces):
        return "", "its answer was cut off at max_tokens"
    return text, "" if text else "it said nothing"


def _asked(row: Row) -> tuple[object, ...]:
    return row.prompt, row.history
