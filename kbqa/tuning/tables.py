"""Spreadsheets, delimited text and JSON to rows, with word of everything that is left out.

A sheet has one row that names its columns, maybe below a title. What is merged stands in each row that it covers;
numbers, dates and the results of formulas are what a person sees in the cells.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbqa.analyzer import fold
from kbqa.errors import ConfigError, DocumentError
from kbqa.importing import is_failure
from kbqa.readers.content import ReadOptions, clean
from kbqa.readers.encoding import decode
from kbqa.readers.sniff import detect
from kbqa.readers.table import read_delimited, read_sheets
from kbqa.tuning.data import TEACHER, Row

__all__ = ["Dropped", "Named", "Read", "read_table"]

PROMPTS = "q question questions content prompt query instruction input 问题 问 提问 问句 标准问题"
RESPONSES = "a answer answers summary response output reply completion 答案 答 回答 答复 回复 标准答案"
HISTORIES = "history 历史 历史对话"
MESSAGES = ("conversations", "messages")
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "bot": "assistant"}

LOOK_FOR_NAMES = 12  # rows of a sheet
SHOWN = 12  # names of columns in a message
SHEETS = ("xlsx", "xls", "xlsb", "ods")  # formats as `detect` names them
DELIMITED = ("csv", "tsv", "txt")
JSON = ("json", "jsonl")


@dataclass(frozen=True, slots=True)
class Named:
    """What the columns are called; None: one of the usual names."""

    prompt: str | None = None
    response: str | None = None
    history: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that is not among the rows, where it stands and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Read:
    """What a file held: rows, and where each stands."""

    rows: Sequence[Row]
    places: Sequence[str]
    dropped: Sequence[Dropped] = ()
    warnings: Sequence[str] = ()


class _NoColumns(Exception):
    """A sheet, or an object, lacks a column; the text says which, and what it has."""


def read_table(path: Path, named: Named | None = None, unanswered: bool = False) -> Read:
    """All rows of xlsx, xls, xlsb, ods, csv, tsv, json (a list, or lines), each maybe gzipped if it is text.

    With `unanswered` also those without a response. ConfigError when the file is none of these, is protected or
    damaged, lacks the columns or holds no row; the message names the columns that it has.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the files in it")
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    data, name = _bytes(path), path.stem if path.suffix.lower() == ".gz" else path.name
    try:
        found = _reader(data, name)(data, named or Named(), unanswered)
    except (DocumentError, _NoColumns) as error:
        raise ConfigError(f"{path} {error}") from error
    except BaseException as error:  # whatever a parser trips over
        if is_failure(error):
            raise ConfigError(f"{path} is damaged: {type(error).__name__}: {error}") from error
        raise
    if not found.rows:
        why = f": {found.dropped[0].where}: {found.dropped[0].reason}" if found.dropped else ""
        raise ConfigError(f"{path} holds no row with a question and an answer{why}")
    return found


def _reader(data: bytes, name: str) -> Callable[[bytes, Named, bool], Read]:
    """By what the file is, not by what it is called."""
    if not data.strip(b"\0 \t\r\n"):
        raise _NoColumns("is empty")
    format = detect(data, name)
    reader = next((reader for formats, reader in _READERS.items() if format in formats), None)
    if reader is None:
        raise _NoColumns(f"is {format or 'in no format that is known'}, not a table; save it as xlsx, csv or json")
    return reader


def _bytes(path: Path) -> bytes:
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


# --- sheets and delimited text ---------------------------------------------------------------------------------------


def _from_workbook(data: bytes, named: Named, unanswered: bool) -> Read:
    """Sheets without the columns are left out, unless none has them."""
    rows, dropped, warnings, lacking = [], [], [], []
    sheets = [sheet for sheet in read_sheets(data, ReadOptions()) if any(any(row) for row in sheet.rows)]
    for sheet in sheets:
        try:
            found, lost = _from_grid(sheet.rows, named, unanswered, f"{sheet.title} row", sheet.first)
        except _NoColumns as error:
            lacking.append(Dropped(sheet.title, f"the sheet {error}"))
            continue
        rows += found
        dropped += lost
        if sheet.formulas_without_value:
            warnings.append(
                f"{sheet.title}: {sheet.formulas_without_value} formulas have no stored result; open and save the file "
                "in a spreadsheet program"
            )
    if not sheets:
        raise _NoColumns("is empty")
    if len(lacking) == len(sheets):
        raise _NoColumns(lacking[0].reason.removeprefix("the sheet "))
    return _read(rows, [*lacking, *dropped], warnings)


def _from_delimited(data: bytes, named: Named, unanswered: bool) -> Read:
    rows, warnings = read_delimited(data, ReadOptions())
    if not any(any(row) for row in rows):
        raise _NoColumns("is empty")
    found, dropped = _from_grid(rows, named, unanswered, "row", 1)
    return _read(found, dropped, warnings)


def _from_grid(
    grid: Sequence[Sequence[str]], named: Named, unanswered: bool, where: str, first: int
) -> tuple[list[tuple[Row, str]], list[Dropped]]:
    """`first` is the number that a person sees beside the first row of `grid`."""
    header, columns = _header(grid, named, unanswered)
    rows: list[tuple[Row, str]] = []
    dropped: list[Dropped] = []
    for number, cells in enumerate(grid[header + 1 :], first + header + 1):
        fields = {name: cells[column] for name, column in columns.items() if column < len(cells)}
        place = f"{where} {number}"
        row = _row(fields, unanswered)
        if isinstance(row, Row):
            rows.append((row, place))
        elif any(cell.strip() for cell in cells):
            dropped.append(Dropped(place, row))
    return rows, dropped


def _header(grid: Sequence[Sequence[str]], named: Named, unanswered: bool) -> tuple[int, dict[str, int]]:
    """Which row names the columns, and where those that are wanted stand."""
    lacking: _NoColumns | None = None
    for number, row in enumerate(grid[:LOOK_FOR_NAMES]):
        try:
            found = _columns([cell.strip() for cell in row], named, unanswered)
            return number, {name: [cell.strip() for cell in row].index(column) for name, column in found.items()}
        except _NoColumns as error:
            lacking = lacking if lacking or len(set(filter(None, row))) < 2 else error
    raise lacking or _NoColumns(_lacks("a question", grid[0]))


def _columns(names: Sequence[str], named: Named, unanswered: bool) -> dict[str, str]:
    """prompt, response and history (if there is one) -> the name among `names`."""
    wanted = {
        "prompt": (named.prompt, PROMPTS, "a question"),
        "response": (named.response, RESPONSES, "an answer"),
        "history": (named.history, HISTORIES, "a history"),
    }
    found: dict[str, str] = {}
    for field, (given, usual, what) in wanted.items():
        plain = [fold(name).strip() for name in names]
        looked_for = [fold(given).strip()] if given else usual.split()
        at = next((plain.index(name) for name in looked_for if name in plain), None)
        if at is not None:
            found[field] = names[at]
        elif given or field == "prompt" or (field == "response" and not unanswered):
            raise _NoColumns(_lacks(f"{given!r}" if given else what, names))
    if found["prompt"] == found.get("response"):
        raise _NoColumns(f"has its questions and answers in one column, {found['prompt']!r}")
    return found


def _lacks(what: str, names: Sequence[str]) -> str:
    has = [name.strip() for name in names if name.strip()]
    shown = ", ".join(has[:SHOWN]) + (", ..." if len(has) > SHOWN else "") if has else "nothing"
    return (
        f"has no column of that name: {what}" if what.startswith("'") else f"has no column for {what} (such as Q and A)"
    ) + f"; it has: {shown}. --prompt-column and --response-column say what yours are called"


def _row(fields: Mapping[str, str], unanswered: bool) -> Row | str:
    """The row, or why there is none."""
    prompt, response = (clean(fields.get(name, "")).strip() for name in ("prompt", "response"))
    if not prompt:
        return "no question"
    if not response and not unanswered:
        return "no answer"
    history = _history(fields.get("history", ""))
    if isinstance(history, str):
        return history
    return Row(prompt, response, history, fields.get(TEACHER, ""))


def _history(value: Any) -> tuple[tuple[str, str], ...] | str:
    """Pairs, or a text in which they are written as JSON; or why it is neither."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError:
            return "its history is no list of pairs [question, answer]"
    if not isinstance(value, list):
        return () if value is None else "its history is no list of pairs [question, answer]"
    pairs = []
    for turn in value:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(said, str) for said in turn):
            return "its history is no list of pairs [question, answer]"
        pairs.append((clean(turn[0]).strip(), clean(turn[1]).strip()))
    return tuple(pairs)


# --- JSON ------------------------------------------------------------------------------------------------------------


def _from_json(data: bytes, named: Named, unanswered: bool) -> Read:
    text, warnings = decode(data)
    rows: list[tuple[Row, str]] = []
    dropped: list[Dropped] = []
    lacking: _NoColumns | None = None
    for place, value in _values(text):
        try:
            found = list(_from_object(value, named, unanswered))
        except _NoColumns as error:
            lacking = lacking or error
            found = [str(error)]
        rows += ((row, place) for row in found if isinstance(row, Row))
        dropped += (Dropped(place, row) for row in found if isinstance(row, str))
    if not rows and (lacking or not dropped):
        raise lacking or _NoColumns("is empty")
    return _read(rows, dropped, warnings)


def _values(text: str) -> Iterator[tuple[str, Any]]:
    """The members of a list; else what stands on each line."""
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise _NoColumns(f"is no JSON: {error}") from error
        yield from ((f"entry {number}", value) for number, value in enumerate(values, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                raise _NoColumns(f"is neither a JSON list nor JSON lines: line {number}: {error}") from error


def _from_object(value: Any, named: Named, unanswered: bool) -> Iterator[Row | str]:
    """The rows of an object, or why it has none. The turns of a conversation are a row each."""
    if not isinstance(value, dict):
        yield "no object with fields"
        return
    said = next((value[name] for name in MESSAGES if isinstance(value.get(name), list)), None)
    if said is not None and named == Named():
        yield from _turns(said)
        return
    columns = _columns(list(value), named, unanswered)
    fields = {name: value[column] for name, column in columns.items()}
    if any(isinstance(fields.get(name), dict | list) for name in ("prompt", "response")):
        yield "question or answer is no text"
        return
    texts = {name: "" if fields.get(name) is None else str(fields.get(name)) for name in ("prompt", "response")}
    if fold(columns["prompt"]) == "instruction" and isinstance(value.get("input"), str) and value["input"].strip():
        texts["prompt"] += f"\n{value['input']}"  # what the instruction is about, in the layout of Alpaca
    made = _row({**texts, TEACHER: str(value.get(TEACHER) or "")}, unanswered)
    history = _history(fields.get("history"))
    if isinstance(made, str) or isinstance(history, str):
        yield made if isinstance(made, str) else str(history)
    else:
        yield Row(made.prompt, made.response, history, made.teacher)


def _turns(said: Sequence[Any]) -> Iterator[Row | str]:
    """A row for each answer of a conversation, with the turns before it."""
    history: list[tuple[str, str]] = []
    asked = ""
    for message in said:
        role = ROLES.get(str(message.get("role") or message.get("from"))) if isinstance(message, dict) else None
        content = (message.get("content") or message.get("value")) if role else None
        if role is None or not isinstance(content, str):
            yield "a message that is neither a question nor an answer (system, tools); give it without"
            return
        text = clean(content).strip()
        if role == "user":
            asked = f"{asked}\n{text}" if asked else text
        elif asked and text:
            yield Row(asked, text, tuple(history))
            history.append((asked, text))
            asked = ""
    if not history:
        yield "no question with an answer"


def _read(rows: Sequence[tuple[Row, str]], dropped: Sequence[Dropped], warnings: Sequence[str]) -> Read:
    return Read([row for row, _ in rows], [place for _, place in rows], dropped, warnings)


_READERS: Mapping[tuple[str, ...], Callable[[bytes, Named, bool], Read]] = {
    SHEETS: _from_workbook,
    DELIMITED: _from_delimited,
    JSON: _from_json,
}
