"""Folders with documents and questions whose answers are known.

Two layouts. BEIR: corpus.jsonl (`id` or `_id`, `title`, `text`), queries.jsonl (`id` or `_id`, `text`, and for answers
`answers`, of which any one counts, and `answerable`) and qrels.tsv (query, document, score; any score above 0 is
relevant); queries_unanswerable.jsonl may hold questions that must be refused. Each file may be gzipped. The other:
files/ with documents of any format and qa.jsonl (`id`, `question`, `answers`, `answerable`, `file`).
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from kbqa.chain import KnowledgeBase
from kbqa.errors import ConfigError
from kbqa.types import Block, Document

__all__ = ["Benchmark", "OpenBase", "Question", "load_benchmark", "opened", "sampled"]

Material = Iterable[Document] | Path  # documents, or a folder of files
OpenBase = Callable[[Path, Material], KnowledgeBase]  # (temporary folder, what goes in); the caller decides settings
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """`relevant`: source of a document that answers -> grade; `evidence`: sentences of the documents that tell."""

    id: str
    text: str
    answers: tuple[str, ...] = ()
    answerable: bool = True
    relevant: Mapping[str, int] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`material` goes into the base that is asked."""

    folder: Path
    material: tuple[Document, ...] | Path
    questions: tuple[Question, ...]

    @property
    def answerable(self) -> list[Question]:
        return [question for question in self.questions if question.answerable]

    @property
    def unanswerable(self) -> list[Question]:
        return [question for question in self.questions if not question.answerable]

    def judged(self) -> list[Question]:
        """Those of which is known which documents answer; ConfigError when there are none."""
        if questions := [question for question in self.questions if question.relevant]:
            return questions
        raise ConfigError(f"{self.folder}: no question has a relevant document (qrels.tsv, or `file` in qa.jsonl)")


def load_benchmark(folder: Path) -> Benchmark:
    """Read a folder in either layout; ConfigError names the file or the line that is not as it should be."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    if (folder / "qa.jsonl").is_file() and (folder / "files").is_dir():
        return Benchmark(folder, folder / "files", tuple(_file_questions(folder)))
    documents = tuple(_document(row) for row in _rows(folder, "corpus.jsonl", "text"))
    relevant: dict[str, dict[str, int]] = {}
    for line in _lines(folder, "qrels.tsv"):
        query, document, score = [*line.rstrip("\n").split("\t"), "", ""][:3]
        if score.lstrip("-").isdigit() and int(score) > 0:
            relevant.setdefault(query, {})[document] = int(score)
    questions = [_question(row, relevant) for row in _rows(folder, "queries.jsonl", "text")]
    if _exists(folder, "queries_unanswerable.jsonl"):
        rows = _rows(folder, "queries_unanswerable.jsonl", "text")
        questions += [_question({**row, "answerable": False}, {}) for row in rows]
    return Benchmark(folder, documents, tuple(questions))


def sampled(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """At most `limit` of the items, the same for the same seed, in their order; all when `limit` is None."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i] for i in sorted(Random(seed).sample(range(len(items)), limit))]


@contextmanager
def opened(benchmark: Benchmark, open_base: OpenBase) -> Iterator[KnowledgeBase]:
    """A base in a temporary folder that holds the benchmark's documents."""
    with (
        tempfile.TemporaryDirectory(prefix="kbqa-eval-") as temporary,
        open_base(Path(temporary) / "base", benchmark.material) as kb,
    ):
        yield kb


def _document(row: dict[str, Any]) -> Document:
    text, title = str(row.get("text") or ""), str(row.get("title") or "")
    blocks = tuple(Block("text", line) for line in text.split("\n") if line.strip())
    return Document(_id(row), title, blocks, sha256(f"{title}\n{text}".encode()).hexdigest(), "jsonl")


def _question(row: dict[str, Any], relevant: Mapping[str, Mapping[str, int]]) -> Question:
    return Question(
        _id(row),
        str(row["text"]),
        _texts(row.get("answers")),
        bool(row.get("answerable", True)),
        relevant.get(_id(row), {}),
        _texts(row.get("evidence")),
    )


def _file_questions(folder: Path) -> Iterator[Question]:
    for row in _rows(folder, "qa.jsonl", "question"):
        relevant = {str(row["file"]): 1} if row.get("file") else {}
        answerable = bool(row.get("answerable", True))
        yield Question(_id(row), str(row["question"]), _texts(row.get("answers")), answerable, relevant)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(str(text) for text in value if str(text).strip())
    return (str(value),) if value else ()


def _id(row: dict[str, Any]) -> str:
    return str(row["id"] if "id" in row else row["_id"])


def _rows(folder: Path, name: str, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(folder, name), 1):
        if line.strip():
            try:
                row = json.loads(line)
                _id(row), row[text]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{folder / name}, line {number}: not an object with id and {text}") from error
            yield row


def _exists(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def _lines(folder: Path, name: str) -> Iterator[str]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        with plain.open(encoding="utf-8") as file:
            yield from file
    elif packed.is_file():
        with gzip.open(packed, "rt", encoding="utf-8") as file:
            yield from file
    else:
        raise ConfigError(
            f"{folder} holds no {name} (or {name}.gz); it must be in BEIR layout, or hold files/ and qa.jsonl"
        )
