"""The rows that a model is tuned on and measured with, and the files that hold them.

A file is JSON lines, one object a row, as the ADGEN set of the original trainers has it: `content` is the prompt,
`summary` the response, other names on request. It may be gzipped.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from kbqa.analyzer import fold
from kbqa.errors import ConfigError

__all__ = ["Columns", "Row", "fields_of", "plain", "read_rows", "row_of", "split", "write_rows"]

TEACHER = "teacher"  # the field of a row whose response a model wrote


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to say to the model and what it is to answer; `history` holds earlier (prompt, response) turns.

    `teacher` names the generator that wrote the response; "" where a person did.
    """

    prompt: str
    response: str
    history: tuple[tuple[str, str], ...] = ()
    teacher: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the fields of a file are called, as the original trainers' options name them."""

    prompt: str = "content"
    response: str = "summary"
    history: str = "history"


def read_rows(path: Path, columns: Columns | None = None, *, unanswered: bool = False) -> list[Row]:
    """All rows of a file of JSON lines, in their order; with `unanswered` also those that have no response yet.

    ConfigError names the line that is not as it should be, and the fields that it has.
    """
    columns = columns or Columns()
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file of JSON lines")
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    rows = [row_of(fields, columns, where, unanswered) for where, fields in _objects(path)]
    if not rows:
        raise ConfigError(f"{path} holds no row")
    return rows


def row_of(fields: Mapping[str, Any], columns: Columns, where: str, unanswered: bool = False) -> Row:
    """The row that an object of JSON holds; ConfigError, which begins with `where`, when it holds none."""
    wanted = [columns.prompt] if unanswered else [columns.prompt, columns.response]
    if missing := [name for name in wanted if name not in fields]:
        raise ConfigError(
            f"{where}: no field {missing[0]!r}; it has {', '.join(map(repr, fields)) or 'none'} "
            "(--prompt-column and --response-column say what yours are called)"
        )
    prompt, response = (_text(fields.get(name), name, where) for name in (columns.prompt, columns.response))
    if not prompt.strip() or not (response.strip() or unanswered):
        empty = columns.response if prompt.strip() else columns.prompt
        raise ConfigError(f"{where}: {empty!r} is empty; `kbqa tune convert` leaves such rows out and counts them")
    history = _history(fields.get(columns.history), columns.history, where)
    return Row(prompt, response, history, _text(fields.get(TEACHER), TEACHER, where))


def write_rows(path: Path, rows: Iterable[Row], columns: Columns | None = None) -> None:
    """A new file of JSON lines, there only when it is whole. ConfigError when something lies at `path` already."""
    columns = columns or Columns()
    if path.exists():
        raise ConfigError(f"{path} exists already; name another file, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(fields_of(row, columns), ensure_ascii=False) + "\n" for row in rows)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def fields_of(row: Row, columns: Columns) -> dict[str, Any]:
    """As it stands in a file: what a row has not is not mentioned."""
    fields: dict[str, Any] = {columns.prompt: row.prompt, columns.response: row.response}
    if row.history:
        fields[columns.history] = [list(turn) for turn in row.history]
    if row.teacher:
        fields[TEACHER] = row.teacher
    return fields


def split(rows: Sequence[Row], dev: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(train, dev), each in the order of `rows`: about the share `dev` of the prompts, the same for the same seed.

    All rows with one prompt go to one side, so that nothing that is measured has been trained on.
    """
    asked = [plain(row.prompt) for row in rows]
    prompts = list(dict.fromkeys(asked))
    wanted = min(max(round(len(prompts) * dev), 1 if dev > 0 else 0), max(len(prompts) - 1, 0))
    held = set(Random(seed).sample(prompts, wanted))
    sides: tuple[list[Row], list[Row]] = [], []
    for row, prompt in zip(rows, asked, strict=True):
        sides[prompt in held].append(row)
    return sides


def plain(text: str) -> str:
    """Without what does not change a question: case, width, white space, punctuation at its end."""
    folded = "".join(fold(text).split())
    end = len(folded)
    while end and unicodedata.category(folded[end - 1]).startswith("P"):
        end -= 1
    return folded[:end] or folded


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and its fields."""
    open_text = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with open_text(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    fields = json.loads(line)
                    if not isinstance(fields, dict):
                        raise ValueError("not an object")
                    yield f"{path}, line {number}", fields
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8; `kbqa tune convert` reads other encodings") from error
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(
            f"{path}, line {number}: not a JSON object; `kbqa tune convert` makes such a file of xlsx, csv and json"
        ) from error


def _text(value: object, name: str, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, int | float):
        return str(value)
    raise ConfigError(f"{where}: {name!r} is no text")


def _history(value: object, name: str, where: str) -> tuple[tuple[str, str], ...]:
    """Pairs, as the original trainers have them."""
    if value is None or value == "":
        return ()
    if not isinstance(value, list) or any(
        not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(said, str) for said in turn)
        for turn in value
    ):
        raise ConfigError(f"{where}: {name!r} must be a list of pairs [question, answer]")
    return tuple((_whole(asked), _whole(answered)) for asked, answered in value)


def _whole(text: str) -> str:
    """Half a surrogate pair, as JSON can bring it, is no character: no file takes it."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
