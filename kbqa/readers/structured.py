"""JSON and JSON Lines: flat records become a table, records with long texts a block each, the rest `path: value`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions, heading_block, one_line, table_block, text_block
from kbqa.readers.encoding import decode
from kbqa.readers.text import text_blocks
from kbqa.types import Block

__all__ = ["read_json", "read_jsonl"]

_LONG_RECORD = 200  # characters a record, on average: beyond, a table's rows are hard to read
_MAX_COLUMNS = 30
_TITLES = ("title", "name", "标题", "名称")


def read_json(data: bytes, options: ReadOptions) -> Content:
    text, warnings = decode(data)
    try:
        value = _load(text)
    except ValueError as error:
        values, bad = _lines(text)
        if values and not bad:  # JSON Lines under the wrong name
            return Content(blocks=tuple(_blocks(values, 1)), warnings=warnings)
        title, blocks = text_blocks(text)
        warnings += (f"this is no valid JSON ({error}); read as plain text",)
        return Content(title=title, blocks=tuple(blocks), warnings=warnings)
    title = next((value[key] for key in _TITLES if isinstance(value.get(key), str)), "") if _is_map(value) else ""
    return Content(title=one_line(title), blocks=tuple(_blocks(value, 1)), warnings=warnings)


def read_jsonl(data: bytes, options: ReadOptions) -> Content:
    text, warnings = decode(data)
    values, bad = _lines(text)
    if bad > len(values):
        try:
            values = _load(text)  # one value over many lines, under the wrong name
        except ValueError as error:
            raise DocumentError(f"{bad} of its {bad + len(values)} lines are no JSON") from error
    elif bad:
        warnings += (f"{bad} lines that are no JSON were left out",)
    return Content(blocks=tuple(_blocks(values, 1)), warnings=warnings)


def _load(text: str) -> Any:
    """Numbers stay as they are written."""
    try:
        return json.loads(text, parse_float=str, parse_int=str)
    except RecursionError as error:
        raise DocumentError("its JSON is nested too deeply") from error


def _lines(text: str) -> tuple[list[Any], int]:
    values, bad = [], 0
    for line in text.splitlines():
        if line.strip():
            try:
                values.append(_load(line))
            except ValueError:
                bad += 1
    return values, bad


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _scalar(value: object) -> str | None:
    """The text of a value that is none of object or list; lists of short words are one value too."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) and len(item) < 40 for item in value):
        return "、".join(value)
    return None


def _blocks(value: Any, level: int) -> Iterator[Block]:
    if (text := _scalar(value)) is not None:
        yield text_block(text)
    elif isinstance(value, list):
        yield from _list(value, level)
    elif level > 6:
        yield text_block("\n".join(_paths(value, "")))
    else:
        flat = {key: text for key, item in value.items() if (text := _scalar(item)) is not None}
        if flat:
            yield text_block("\n".join(f"{key}: {text}" for key, text in flat.items() if text))
        for key, item in value.items():
            if key not in flat:
                yield heading_block(key, level)
                yield from _blocks(item, level + 1)


def _list(items: Sequence[Any], level: int) -> Iterator[Block]:
    if all(_is_map(item) for item in items):
        yield from _records(items)
    elif all(isinstance(item, list) and all(_scalar(cell) is not None for cell in item) for item in items):
        yield table_block([[_scalar(cell) or "" for cell in row] for row in items])
    elif all(_scalar(item) is not None for item in items):
        yield text_block("\n".join(f"- {_scalar(item)}" for item in items))
    else:
        for item in items:
            yield from _blocks(item, level + 1)


def _records(records: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    columns = list(dict.fromkeys(key for record in records for key in record))
    flat = all(_scalar(value) is not None for record in records for value in record.values())
    length = sum(len(_scalar(value) or "") for record in records for value in record.values())
    if flat and 1 < len(columns) <= _MAX_COLUMNS and length <= _LONG_RECORD * len(records) and len(records) > 1:
        yield table_block([columns, *([_scalar(record.get(key)) or "" for key in columns] for record in records)])
        return
    for record in records:
        yield text_block("\n".join(_paths(record, "")))


def _paths(value: Any, path: str) -> Iterator[str]:
    """`path: value` lines; a list's items are counted from 1."""
    if (text := _scalar(value)) is not None:
        if text:
            yield f"{path}: {text}" if path else text
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, f"{path}.{key}" if path else key)
    else:
        for number, item in enumerate(value, start=1):
            yield from _paths(item, f"{path}[{number}]")
