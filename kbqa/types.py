"""The nouns that travel between the parts, and the protocols that have more than one implementation.

Data is frozen. `source` is always a path below knowledge/<kb>/ with `/`; `score` is in [0, 1] and higher is
better; a span is `(start, end)` in characters (Python string indexes) into `Document.text`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from kbqa.cancellation import Cancellation
from kbqa.errors import BeyondModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]  # (n, dim) or (dim,), unit length

__all__ = [
    "BLOCK_SEPARATOR",
    "CELL_SEPARATOR",
    "REFUSAL",
    "Adaptable",
    "Answer",
    "Block",
    "Chunk",
    "Citation",
    "Document",
    "Embedder",
    "FileReport",
    "GenerationRequest",
    "Generator",
    "Hit",
    "IngestReport",
    "Load",
    "Measuring",
    "Message",
    "Origin",
    "Piece",
    "Queued",
    "Reranker",
    "Sentence",
    "Turn",
    "Verdict",
]

BLOCK_SEPARATOR = "\n\n"
CELL_SEPARATOR = " | "
REFUSAL = "根据已知信息无法回答该问题"

BlockKind = Literal["heading", "text", "table", "code"]
Origin = Literal["folder", "upload", "api"]
Turn = tuple[str, str]  # a question and the answer it got
Verdict = Literal["supported", "partly", "not"]  # on a sentence: do the documents bear it out?


@dataclass(frozen=True, slots=True)
class Block:
    """One heading, paragraph, table or piece of code of a document, in reading order.

    A table's text has one row a line, its cells joined by CELL_SEPARATOR; line breaks inside a cell are spaces.
    The first `header_rows` lines are its header.
    """

    kind: BlockKind
    text: str
    level: int = 0  # of a heading: 1 is the outermost
    page: int | None = None  # counted from 1; None where the format has no pages
    header_rows: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader saw in one file. `digest` is the SHA-256 of the file's bytes, in hex."""

    source: str
    title: str
    blocks: tuple[Block, ...]
    digest: str
    reader: str = ""
    pages: int | None = None
    warnings: tuple[str, ...] = ()  # what was not read, each in one line
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All blocks joined by BLOCK_SEPARATOR; spans point into this."""
        return BLOCK_SEPARATOR.join(block.text for block in self.blocks)

    @property
    def tables(self) -> int:
        return sum(block.kind == "table" for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage: `text` is exactly `document.text[span[0]:span[1]]`.

    `preface` is the header of the table that `text` continues ("" otherwise): it is searched and shown with the
    rows but is not part of the span. `breaks` holds `(offset, page)` for each page that begins inside the span.
    """

    source: str
    ordinal: int  # from 0, in reading order
    text: str
    span: tuple[int, int]
    title: str = ""
    heading: str = ""  # the heading path, "第三章 报销 > 3.2 住宿"
    preface: str = ""
    page: int | None = None  # where the chunk begins
    breaks: tuple[tuple[int, int], ...] = ()
    id: int = 0  # given by the store, never reused; 0 before

    @property
    def context(self) -> str:
        """What the text belongs to: title and heading path, without repeating the title."""
        if not self.heading or self.heading == self.title:
            return self.title
        if not self.title or self.heading.startswith(f"{self.title} > "):
            return self.heading
        return f"{self.title} > {self.heading}"

    @property
    def passage(self) -> str:
        """The text to show and to hand to a model: table rows come with their header."""
        return f"{self.preface}\n{self.text}" if self.preface else self.text

    @property
    def searchable(self) -> str:
        """What both indexes see: the context first, then header and text."""
        return f"{self.context}\n{self.passage}" if self.context else self.passage

    @property
    def embedded(self) -> str:
        """What the embedder sees: `searchable`, without a title that is only the file's name, so that one text under
        two names is embedded once."""
        return replace(self, title="").searchable if self.title == PurePosixPath(self.source).stem else self.searchable

    def page_at(self, offset: int) -> int | None:
        """The page on which the document's character `offset` stands."""
        at = bisect_right(self.breaks, offset, key=lambda start_page: start_page[0])
        return self.breaks[at - 1][1] if at else self.page


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that may answer. `lexical` and `dense` are the arms' own scores, None where an arm did not find it;
    `reranked` is what a reranker thinks of it, None where none was asked."""

    chunk: Chunk
    score: float
    lexical: float | None = None
    dense: float | None = None
    reranked: float | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a sentence of the answer stands: `quote` is exactly the document's text at `span`."""

    marker: int  # from 1, as [1] in the answer
    source: str
    page: int | None
    heading: str
    quote: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A whole sentence of an answer, held against the passages: `text` stands at `span` in `Answer.text`.

    `citations` tell where it stands, when it is supported; `doubts` are the words, numbers and negations that the
    closest passage does not bear out.
    """

    text: str
    span: tuple[int, int]
    verdict: Verdict
    citations: tuple[Citation, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[int, ...]:
        return tuple(citation.marker for citation in self.citations)


@dataclass(frozen=True, slots=True)
class Answer:
    """`grounded` is False when the documents do not tell: then `text` is a refusal, and nothing is cited or checked.

    `sentences` are those that say something: no list numbers, table rules or white space. `cut_off`: the generator had
    to stop at its limit. The token counts are 0 where it does not know them. `stages`: the seconds that retrieve,
    generate and check took, of those that there were.
    """

    question: str
    text: str
    citations: tuple[Citation, ...]
    hits: tuple[Hit, ...]
    grounded: bool
    confidence: float
    seconds: float = 0.0
    sentences: tuple[Sentence, ...] = ()
    cut_off: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stages: Mapping[str, float] = field(default_factory=dict, compare=False)


FileStatus = Literal["added", "updated", "unchanged", "removed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class FileReport:
    """What ingestion did with one file. `error` is one line, "" when all went well, and `error_kind` says it in a word,
    as the `kind` of a DocumentError."""

    source: str
    status: FileStatus
    reader: str = ""
    chunks: int = 0
    pages: int | None = None
    tables: int = 0
    error: str = ""
    error_kind: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IngestReport:
    files: tuple[FileReport, ...]
    seconds: float

    def count(self, status: FileStatus) -> int:
        return sum(file.status == status for file in self.files)

    @property
    def chunks(self) -> int:
        """Chunks of the files that went in this time."""
        return sum(file.chunks for file in self.files if file.status in ("added", "updated"))


# --- generation ------------------------------------------------------------------------------------------------------

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """`tool_calls` are those that an assistant's message ended with; a tool's message says which one it answers."""

    role: Role
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()  # each as in Piece.tool_call
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One turn to generate.

    `messages` end with the user's. Only that last one carries the filled 「已知信息」 prompt; history holds bare
    questions and answers. `question` and `hits` are what the prompt was filled from: a generator that quotes
    instead of writing needs them, a language model does not look at them; so are `weights`, how telling each of the
    question's words is in this base (its inverse document frequency). Sampling values that are None are the
    generator's own defaults; temperature 0 is greedy. `deadline` is in seconds of `time.monotonic()`. `cancellation`
    stops the work from another thread, wherever it is: `stream` then raises Cancelled. `owner` is who asks, as far as
    it is known: what a model has read for one must not make it faster for another, who could so find out what it was.
    """

    messages: tuple[Message, ...]
    question: str = ""
    hits: tuple[Hit, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    response_schema: Mapping[str, Any] | None = None
    adapter: str | None = None
    deadline: float | None = None
    owner: str | None = None
    cancellation: Cancellation = field(default_factory=Cancellation, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise BeyondModel(f"max_tokens is {self.max_tokens}; an answer has at least 1 token")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of what a generator says: new text (never repeated), a tool call, or the end.

    A tool call is whole: {"id": "...", "name": "...", "arguments": {...}}. The last piece has `finish` set. The counts
    are those so far, where the generator knows them, so that they are known of an answer that is broken off too.
    """

    text: str = ""
    tool_call: Mapping[str, Any] | None = None
    finish: Literal["stop", "length", "tool_calls"] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Generator(Protocol):
    """Writes the answer. Closing the iterator cancels the work; so does the request's `cancellation`."""

    name: str

    def stream(self, request: GenerationRequest) -> Iterator[Piece]: ...


@runtime_checkable
class Measuring(Protocol):
    """A generator that can tell whether a prompt is too long for it."""

    def fits(self, request: GenerationRequest) -> bool:
        """Whether what must stay of it (the last question, system messages, tools) leaves room for the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """How many requests a model works on and how many wait, and how many of both there may be."""

    running: int
    waiting: int
    slots: int
    places: int


@runtime_checkable
class Queued(Protocol):
    """A generator with a queue of its own."""

    @property
    def load(self) -> Load: ...


@runtime_checkable
class Adaptable(Protocol):
    """A generator beside whose model several tuned adapters are at hand; a request names one, or none."""

    def adapters(self) -> Sequence[str]: ...


class Embedder(Protocol):
    """Texts to unit vectors, so that the inner product is the cosine."""

    name: str
    dim: int
    fingerprint: str  # changes whenever the same text would get another vector
    weight_file: Path | None  # where what its cosines count beside BM25 is kept; None: nowhere

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """(n, dim) float32, unit length; a text without any known token gives a zero row."""
        ...

    def embed_query(self, text: str) -> Vectors:
        """(dim,) float32."""
        ...


class Reranker(Protocol):
    """Reads a question and a passage together, which tells more than their vectors do, and costs more."""

    name: str

    def score(self, question: str, passages: Sequence[str]) -> list[float]:
        """For each passage how well it answers the question, in [0, 1]."""
        ...
