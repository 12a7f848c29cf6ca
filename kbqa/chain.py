"""One knowledge base that can be asked: retrieve, refuse or generate, check, cite.

The walk of a question: `Retriever.search` -> too little? the fixed refusal, and no generator is asked -> the prompt
from the best passages that fit -> `Generator.stream` -> each sentence, as soon as it is whole, against the passages ->
Answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator as Generating
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from kbqa.config import PromptConfig, RetrievalConfig
from kbqa.documents import LangChainDocument, from_langchain
from kbqa.ingest import Ingestion
from kbqa.prompt import fill, fit, messages
from kbqa.retriever import Retrieval, Retriever, expand
from kbqa.splitter import Splitter
from kbqa.store import Store
from kbqa.support import Quote, Reply, check, says_something
from kbqa.types import (
    REFUSAL,
    Answer,
    Chunk,
    Citation,
    Document,
    Embedder,
    GenerationRequest,
    Generator,
    IngestReport,
    Measuring,
    Piece,
    Sentence,
    Turn,
)

__all__ = ["KnowledgeBase"]

T = TypeVar("T")
_REFUSAL_SIGNS = re.compile(r"无法回答|无法根据|没有提及|未提及|没有相关信息|cannot (be answered|answer)")
SHORT_REFUSAL = 60  # characters: a longer text that says 无法回答 somewhere also says something else
LEAST = 100  # characters of the best passage: with fewer, it is no passage any more


@dataclass(frozen=True, slots=True)
class KnowledgeBase:
    """Everything that is needed to answer from one base. Safe to use from many threads; leaving it closes the store."""

    name: str
    store: Store
    retriever: Retriever
    generator: Generator
    splitter: Splitter
    embedder: Embedder
    retrieval: RetrievalConfig
    prompt: PromptConfig

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def search(self, question: str, k: int | None = None) -> Retrieval:
        """The `k` best hits and the confidence in them; raises QuestionError for an empty or overlong question."""
        return self.retriever.search(question, k)

    def ask(self, question: str, history: Sequence[Turn] = ()) -> Answer:
        """The answer with its citations, or the refusal."""
        for part in self.stream(question, history):
            if isinstance(part, Answer):
                return part
        raise AssertionError("stream() ends with an Answer")

    def stream(
        self, question: str, history: Sequence[Turn] = (), options: Mapping[str, Any] | None = None
    ) -> Iterator[Piece | Sentence | Answer]:
        """Pieces of new text as the generator writes them, then the Answer. Closing the iterator cancels the work.

        Behind the pieces that complete a sentence comes that Sentence, checked; the Answer has them all once more.
        `options` are further fields of the GenerationRequest, such as temperature and max_tokens.
        """
        start, stages = time.perf_counter(), _Stages()
        with stages.of("retrieve"):
            found = self.retriever.search(question, history=history)
        if found.confidence < self.retrieval.min_confidence or not found.hits:
            yield Piece(REFUSAL)
            took = time.perf_counter() - start
            yield Answer(question, REFUSAL, (), found.hits, False, found.confidence, took, stages=stages.seconds)
            return
        with stages.of("retrieve"):
            passages = expand(found.hits, self.store, self.retrieval.neighbours)
        shown, prompt = self._filled(question, [text for text, _ in passages], options or {})
        request = GenerationRequest(
            messages=messages(prompt, history, self.prompt.history_turns),
            question=found.question,
            hits=found.hits,
            weights=found.weights,
            **(options or {}),
        )
        request.cancellation.check()
        seen = [chunk for _, chunks in passages[: len(shown)] for chunk in chunks]
        proof = _Proof([*seen, *(hit.chunk for hit in found.hits if hit.chunk not in seen)])
        # A generator function's stream can be closed, which cancels the work; a plain iterator has nothing to cancel.
        pieces, end = self.generator.stream(request), Piece()
        with closing(pieces) if isinstance(pieces, Generating) else nullcontext():
            for piece in stages.each("generate", pieces):
                if piece.finish:
                    end = piece
                if piece.text:
                    yield piece
                    yield from stages.each("check", proof.add(piece.text))
        yield from stages.each("check", proof.end())
        text = proof.text
        if not text:
            yield Piece(REFUSAL)
        grounded = bool(text) and not _refuses(text)
        yield Answer(
            question=question,
            text=text or REFUSAL,
            citations=tuple(proof.citations) if grounded else (),
            hits=found.hits,
            grounded=grounded,
            confidence=found.confidence,
            seconds=time.perf_counter() - start,
            sentences=tuple(proof.sentences) if grounded else (),
            cut_off=end.finish == "length",
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            stages=stages.seconds,
        )

    def _filled(self, question: str, passages: Sequence[str], options: Mapping[str, Any]) -> tuple[list[str], str]:
        """The first passages that fit, by characters and by what the generator can take, and the prompt with them."""
        shown = fit(passages, self.prompt.max_characters)
        while True:
            prompt = fill(question, shown, self.prompt.template)
            asked = GenerationRequest(messages(prompt), **options)
            fits = not isinstance(self.generator, Measuring) or self.generator.fits(asked)
            if fits or (len(shown) == 1 and len(shown[0]) < LEAST):
                return shown, prompt  # where it still does not fit, the question is too long: the generator will say so
            shown = shown[:-1] if len(shown) > 1 else [shown[0][: len(shown[0]) * 3 // 4]]

    def add_documents(self, documents: Iterable[Document]) -> IngestReport:
        """Take in documents that have no file; one of the same source is replaced. They stay until removed by name."""
        with self.store.write() as writer:
            known = [document.source for document in self.store.documents()]
            return Ingestion(writer, self.splitter, self.embedder).add(documents, known)

    def add_langchain_documents(self, documents: Iterable[LangChainDocument]) -> IngestReport:
        """The same for documents as LangChain's loaders and splitters make them, pieces of one source put together."""
        return self.add_documents(from_langchain(documents))


def _refuses(text: str) -> bool:
    return REFUSAL in text or (len(text) <= SHORT_REFUSAL and _REFUSAL_SIGNS.search(text) is not None)


class _Stages:
    """Seconds spent in each named stage, without those in which nobody asked for more."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        following = iter(items)
        while True:
            with self.of(name):
                try:
                    item = next(following)
                except StopIteration:
                    return
            yield item


class _Proof:
    """An answer while it is written: its sentences, each held against the sources, and the citations so far.

    Citations are numbered in order, each quote once. A sentence that says that it cannot tell claims nothing.
    """

    def __init__(self, sources: Sequence[Chunk]) -> None:
        self._sources = sources
        self._reply = Reply()
        self.sentences: list[Sentence] = []
        self.citations: list[Citation] = []

    @property
    def text(self) -> str:
        return self._reply.text.rstrip()

    def add(self, piece: str) -> Iterator[Sentence]:
        yield from self._checked(self._reply.add(piece))

    def end(self) -> Iterator[Sentence]:
        yield from self._checked(self._reply.end())

    def _checked(self, spans: Sequence[tuple[int, int]]) -> Iterator[Sentence]:
        for span in spans:
            claim, text = self._reply.claim(span), self._reply.text[slice(*span)]
            if says_something(claim) and not _refuses(text):
                support = check(claim, self._sources)
                quotes = support.quotes if support.verdict == "supported" else ()
                cited = tuple(self._cite(quote) for quote in quotes)
                self.sentences.append(Sentence(text, span, support.verdict, cited, support.doubts))
                yield self.sentences[-1]

    def _cite(self, quote: Quote) -> Citation:
        for citation in self.citations:
            if (citation.source, citation.span) == (quote.chunk.source, quote.span):
                return citation
        citation = Citation(
            marker=len(self.citations) + 1,
            source=quote.chunk.source,
            page=quote.chunk.page_at(quote.span[0]),
            heading=quote.chunk.heading,
            quote=quote.text,
            span=quote.span,
        )
        self.citations.append(citation)
        return citation
