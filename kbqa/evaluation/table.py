"""A user's own questions: a table with a column of questions, and of answers, of sources, or of both.

xlsx, xls, csv, tsv or jsonl. The first row names the columns, in English or Chinese. Several answers or sources of
one question stand in several columns (答案1, 答案2), or in one cell, each on a line of its own or parted by `|`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbqa.analyzer import fold
from kbqa.errors import ConfigError
from kbqa.evaluation.benchmark import Question
from kbqa.readers.encoding import decode

__all__ = ["load_questions", "located"]

COLUMNS = {
    "question": "question questions query text q 问题 提问 题目 问",
    "answer": "answer answers a gold expected 答案 标准答案 参考答案 回答 答",
    "source": "source sources file files document 来源 出处 文件 文档 来源文件",
    "answerable": "answerable 可回答 可否回答 能否回答 是否可回答",
}
_COLUMN = {name: column for column, names in COLUMNS.items() for name in names.split()}
NO_ANSWER = frozenset(
    ("无", "无答案", "没有答案", "不可回答", "不能回答", "无法回答", "拒答", "unanswerable", "no answer")
)
NO = frozenset(("false", "no", "n", "0", "否", "不", "不可", "不能", "不可以", *NO_ANSWER))
YES = frozenset(("true", "yes", "y", "1", "是", "可", "能", "可以", "可回答"))
SHEETS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")

Row = tuple[str, list[tuple[str, Any]]]  # where it stands, and (column, value) of its cells


def load_questions(path: Path) -> list[Question]:
    """Sources are as they are written (see `located`). ConfigError names the row that is not as it should be."""
    if not path.is_file():
        raise ConfigError(f"there is no file or folder {path}")
    questions = [question for where, cells in _rows(path) if (question := _question(path, where, cells))]
    if not questions:
        raise ConfigError(f"{path} holds no question")
    return questions


def located(path: Path, questions: Iterable[Question], sources: Sequence[str], kb: str) -> list[Question]:
    """The questions of `path` with the sources of the base in place of those written, which may leave out folders.

    Raises ConfigError for a source that the base does not hold.
    """
    by_end: dict[str, list[str]] = {}
    for source in sources:
        parts = fold(source).split("/")
        for start in range(len(parts)):
            by_end.setdefault("/".join(parts[start:]), []).append(source)
    found = []
    for question in questions:
        relevant: dict[str, int] = {}
        for written in question.relevant:
            meant = by_end.get(fold(written).replace("\\", "/").strip("/"))
            if meant is None:
                raise ConfigError(
                    f"{path}, {question.id}: {kb} holds no document {written}; see `kbqa kb documents {kb}`"
                )
            relevant |= dict.fromkeys(meant, 1)
        found.append(replace(question, relevant=relevant))
    return found


def _question(path: Path, where: str, cells: Sequence[tuple[str, Any]]) -> Question | None:
    """None for a row without a question."""
    values: dict[str, list[str]] = {column: [] for column in COLUMNS}
    for column, value in cells:
        values[column] += _texts(value, parted=column in ("answer", "source"))
    if not values["question"]:
        return None
    said = [fold(text) for text in values["answerable"]]
    if unknown := [text for text in said if text not in NO | YES]:
        raise ConfigError(f"{path}, {where}: answerable is {unknown[0]!r}; write true or false (是 or 否)")
    # 无 may also be what the documents say; then the column `answerable` says so.
    answers = [text for text in values["answer"] if fold(text) not in NO_ANSWER or any(s in YES for s in said)]
    refuse = any(text in NO for text in said) or (not answers and bool(values["answer"]))
    if not (refuse or answers or values["source"]):
        raise ConfigError(f"{path}, {where}: neither answer nor source; write 无 as the answer if it must be refused")
    relevant = {} if refuse else dict.fromkeys(values["source"], 1)
    return Question(where, values["question"][0], () if refuse else tuple(answers), not refuse, relevant)


def _texts(value: Any, parted: bool) -> list[str]:
    match value:
        case None:
            return []
        case list():
            return [text for item in value for text in _texts(item, False)]
        case float() if value.is_integer():  # what a spreadsheet makes of 15
            text = str(int(value))
        case _:
            text = str(value)
    parts = re.split("[\n|｜]", text) if parted else [text]
    return [part.strip() for part in parts if part.strip()]


def _rows(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _json_rows(path)
    elif suffix in SHEETS:
        sheets = _sheets(path)
        for name, rows in [sheet for sheet in sheets if _has_questions(sheet[1])] or sheets[:1]:
            yield from _table_rows(path, rows, f"{name} row")
    elif suffix in (".csv", ".tsv"):
        text, _ = decode(path.read_bytes())
        delimiter = max(",\t;", key=text.partition("\n")[0].count)
        yield from _table_rows(path, list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), "row")
    else:
        raise ConfigError(f"{path} cannot hold questions; use xlsx, xls, csv, tsv or jsonl, or name a folder")


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
                cells = [(column, value) for key, value in row.items() if (column := _column(key))]
            except (ValueError, AttributeError) as error:
                raise ConfigError(f"{path}, line {number}: not a JSON object") from error
            if not any(column == "question" for column, _ in cells):
                raise ConfigError(f"{path}, line {number}: no question")
            yield f"line {number}", cells


def _table_rows(path: Path, rows: Sequence[Sequence[Any]], where: str) -> Iterator[Row]:
    """The first row that is not empty names the columns."""
    if not _has_questions(rows):
        names = ", ".join(str(cell) for cell in rows[_first(rows)] if str(cell).strip()) if rows else "nothing"
        raise ConfigError(f"{path} has no column of questions (question or 问题); its first row says: {names}")
    first = _first(rows)
    columns = [_column(str(cell)) for cell in rows[first]]
    if not {"answer", "source", "answerable"}.intersection(columns):
        names = ", ".join(str(cell) for cell in rows[first] if str(cell).strip())
        raise ConfigError(f"{path} has no column of answers or sources (答案, 来源); its first row says: {names}")
    for number, row in enumerate(rows[first + 1 :], first + 2):
        cells = [(column, cell) for column, cell in zip(columns, row, strict=False) if column]
        yield f"{where} {number}", cells


def _has_questions(rows: Sequence[Sequence[Any]]) -> bool:
    return bool(rows) and "question" in [_column(str(cell)) for cell in rows[_first(rows)]]


def _first(rows: Sequence[Sequence[Any]]) -> int:
    return next((number for number, row in enumerate(rows) if any(_texts(cell, False) for cell in row)), 0)


def _sheets(path: Path) -> list[tuple[str, list[list[Any]]]]:
    """Name and rows of the sheets that are not empty; rows count from the top of the sheet."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    try:
        workbook = CalamineWorkbook.from_path(str(path))
        sheets = [
            (name, workbook.get_sheet_by_name(name).to_python(skip_empty_area=False)) for name in workbook.sheet_names
        ]
    except PasswordError as error:
        raise ConfigError(f"{path} is protected by a password; save a copy without one") from error
    except CalamineError as error:
        raise ConfigError(f"{path} cannot be read as a spreadsheet: {error}") from error
    return [(name, rows) for name, rows in sheets if rows]


def _column(name: str) -> str:
    """Which column a heading names, "" for one that is not looked at; a number behind it does not matter."""
    plain = re.sub(r"\(.*?\)|[\d\s_*:]+$", "", fold(name)).strip()
    return _COLUMN.get(plain, "")
