"""What all dialects talk to: the bases, opened once and shared, the generator, the keys, and what is written down.

Everything here that touches a base blocks: it is run in a thread, by `run` when it is short and by `answer` else.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as Generating
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from kbqa.config import ingest_command
from kbqa.errors import (
    Cancelled,
    ConfigError,
    GeneratorBusy,
    KbqaError,
    KnowledgeBaseClosed,
    KnowledgeBaseError,
    UnknownKnowledgeBase,
)
from kbqa.fields import base_fields, passport_fields
from kbqa.registry import FILE, Conversations, Database, FeedbackLog, Jobs, KeyRing, Stops
from kbqa.server.auth import Door
from kbqa.server.logs import AuditLog, Trace
from kbqa.server.metrics import Metrics
from kbqa.server.runner import Runner
from kbqa.server.stream import Feed
from kbqa.server.tasks import Tasks
from kbqa.types import Answer, GenerationRequest, Piece, Sentence, Turn

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.cancellation import Cancellation
    from kbqa.chain import KnowledgeBase
    from kbqa.retriever import Retrieval
    from kbqa.store import Store
    from kbqa.types import Chunk

__all__ = ["Part", "Service", "Written"]

DRAWN_AT_ONCE = 2  # pages of PDFs, each by a process of its own
BUSY = 2  # searches at once where each keeps a processor busy from its beginning to its end

T = TypeVar("T")
Part = Piece | Sentence | Answer


@dataclass(frozen=True, slots=True)
class Written:
    """All that the generator said by itself. The token counts are 0 where it does not know them."""

    text: str
    calls: tuple[Mapping[str, Any], ...]  # each as in Piece.tool_call
    finish: Literal["stop", "length", "tool_calls"]
    prompt_tokens: int
    completion_tokens: int


class Service:
    """One installation in one process. Raises what its generator does when config.yaml names one that cannot be."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.config = installation.config.server
        self.generator = installation.generator
        self.database = Database(installation.home.vectorstore / FILE)
        self.keys = KeyRing(self.database)
        self.jobs = Jobs(self.database)
        self.feedback = FeedbackLog(self.database)
        self.conversations = Conversations(self.database)
        self.tasks = Tasks(Stops(self.database), self.run)
        self.door = Door(self.keys, self.config)
        self.metrics = Metrics(self.generator, self.jobs.pending)
        self.runner = Runner(self.jobs, installation.home, self.metrics)
        audit = self.config.audit_log
        self.audit = AuditLog(installation.home.folder / audit if audit else None, self.config.log_questions)
        self._workers = ThreadPoolExecutor(self.config.threads, "kbqa-work")
        at_once = self._asked_at_once()
        self._askers = ThreadPoolExecutor(at_once, "kbqa-ask")
        # Quoting takes a processor and is soon done; a model's answer waits.
        self._quotes = installation.config.generator.kind == "extractive" == self.generator.name
        self._places = asyncio.Semaphore(at_once if self._quotes else self.config.concurrent_requests)
        self.drawing = asyncio.Semaphore(DRAWN_AT_ONCE)
        self._stores: dict[str, Store] = {}
        self._ready: dict[str, KnowledgeBase] = {}
        self._opening: dict[str, threading.Lock] = {}
        self._closings = 0
        self._lock = threading.Lock()

    def _asked_at_once(self) -> int:
        """Searches at once. Where they wait for nobody else, eight threads are slower than two, because they pass the
        interpreter to and fro (docs/benchmarks.md)."""
        config = self.installation.config
        waits = config.embedder.kind != "static" or config.retrieval.reranker is not None
        return self.config.threads if waits else min(self.config.threads, BUSY)

    def close(self) -> None:
        self.runner.stop()
        for threads in (self._askers, self._workers):
            threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            stores, self._stores = self._stores, {}
        for store in stores.values():
            store.close()
        self.database.close()
        if callable(close := getattr(self.generator, "close", None)):
            close()

    def body_limit(self, path: str) -> int:
        """Bytes that the body of a request to `path` may have."""
        uploads = path.startswith("/api/v1/kb/") and path.endswith("/documents")
        return (self.config.max_upload_total_mb if uploads else self.config.max_body_mb) * 2**20

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """`work` in one of the threads for what is short; it waits for one in line."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)

    # --- bases (these block) -----------------------------------------------------------------------------------------

    def base(self, name: str) -> KnowledgeBase:
        """Ready to be asked. UnknownKnowledgeBase, or IndexMismatch when it was built with other parts than today's.

        Another process may rebuild, restore or delete it at any time: that is looked for here, and the store itself
        follows what is written to it.
        """
        name, store = self._store(name)
        try:
            self.installation.check_fits(name, store.passport)
        except UnknownKnowledgeBase:
            self._forget(name)
            raise _unknown(name) from None
        base = self._ready.get(name)
        if base is None or base.store is not store:
            base = self.installation.knowledge_base(name, store, self.installation.synonyms(name))
            self._ready[name] = base
        return base

    def bases(self, sees: Callable[[str], bool]) -> list[dict[str, Any]]:
        """What there is, built or not; one that cannot be opened does not hide the others."""
        built = [self._summary(name) for name in self.installation.bases() if sees(name)]
        waiting = [base_fields(name, None) for name in self.installation.unbuilt() if sees(name)]
        return built + waiting

    def show(self, name: str) -> dict[str, Any]:
        name, store = self._store(name)
        try:
            return {**base_fields(name, store.counts()), "passport": passport_fields(store.passport)}
        except UnknownKnowledgeBase:
            self._forget(name)
            raise _unknown(name) from None

    def _summary(self, name: str) -> dict[str, Any]:
        try:
            return base_fields(name, self._store(name)[1].counts())
        except (KbqaError, OSError) as error:
            self._forget(name)
            unknown = dict.fromkeys(("documents", "failed", "chunks", "bytes"))
            return {"name": name, "built": True, **unknown, "error": str(error), "error_type": type(error).__name__}

    def store(self, name: str) -> Store:
        """The base as it lies on disk, whatever it was built with. UnknownKnowledgeBase."""
        return self._store(name)[1]

    def forget(self, name: str) -> None:
        """Closes a base that is to go."""
        self._forget(name)

    def _store(self, name: str) -> tuple[str, Store]:
        """The base as it lies on disk, under its checked name; opened by the first who asks."""
        try:
            name = self.installation.name(name)
        except ConfigError:
            raise _unknown(name) from None
        with self._lock:
            if store := self._stores.get(name):
                return name, store
        self._check_there(name)  # first: of names that are none nothing is remembered
        with self._lock:
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:
            with self._lock:
                store = self._stores.get(name)
            if store is None:
                self._check_there(name)
                store = self.installation.store(name)
                with self._lock:
                    self._stores[name] = store
        return name, store

    def _check_there(self, name: str) -> None:
        if name in self.installation.bases():
            return
        if name in self.installation.unbuilt():
            raise UnknownKnowledgeBase(f"{name} has not been built yet; run `{ingest_command(name)}`")
        raise _unknown(name)

    def _forget(self, name: str) -> None:
        with self._lock:
            store = self._stores.pop(name, None)
            self._ready.pop(name, None)
            self._closings += 1
        if store:
            store.close()

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """KnowledgeBaseClosed for whatever goes wrong with a base that somebody deletes meanwhile."""
        before = self._closings
        try:
            yield
        except KnowledgeBaseError as error:
            gone = before != self._closings or name not in self.installation.bases()
            if gone and type(error) is KnowledgeBaseError:
                raise KnowledgeBaseClosed(f"knowledge base {name} was closed meanwhile: {error}") from error
            raise

    # --- questions ---------------------------------------------------------------------------------------------------

    async def search(
        self,
        trace: Trace,
        base: str,
        question: str,
        k: int | None = None,
        fits: Callable[[Store], Callable[[Chunk], bool]] | None = None,
    ) -> Retrieval:
        """`fits(store)`: what holds of the passages that are wanted; all, unless given."""
        trace.base = base
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._askers, self._search, trace, base, question, k, fits)

    def _search(
        self,
        trace: Trace,
        base: str,
        question: str,
        k: int | None,
        fits: Callable[[Store], Callable[[Chunk], bool]] | None,
    ) -> Retrieval:
        start = time.perf_counter()
        with self._asking(base):
            kb = self.base(base)
            if fits is None:
                found = kb.search(question, k)
            else:
                found = kb.retriever.search_among(question, k or kb.retrieval.k, fits(kb.store))
        self.metrics.stage_seconds.labels("search").observe(time.perf_counter() - start)
        documents = list(dict.fromkeys(hit.chunk.source for hit in found.hits))
        self.audit.write(trace, "search", base, question, documents=documents)
        return found

    async def answer(
        self,
        trace: Trace,
        base: str,
        question: str,
        history: Sequence[Turn] = (),
        options: Mapping[str, Any] | None = None,
        through: Callable[[Generating[Part, None, None], Cancellation], Iterator[Part]] | None = None,
    ) -> Feed[Part]:
        """What `KnowledgeBase.stream` yields, the Answer last. Whoever asked for it closes it.

        `through` may look at each part, and do what blocks: it runs in the thread of the answer.
        """
        trace.base = base

        def make(given_up: Cancellation) -> Iterator[Part]:
            its = {**(options or {}), "cancellation": given_up, "owner": trace.who}
            parts = self._answer(trace, base, question, history, its)
            return parts if through is None else through(parts, given_up)

        return await self._feed(make)

    async def _feed(self, make: Callable[[Cancellation], Iterator[T]]) -> Feed[T]:
        with self.metrics.under_way.labels("waiting").track_inprogress():
            if self._quotes:
                return await Feed.start(make, self._places, self._askers.submit)
            return await Feed.start(make, self._places)

    def _answer(
        self, trace: Trace, base: str, question: str, history: Sequence[Turn], options: Mapping[str, Any]
    ) -> Generating[Part, None, None]:
        start, spoken, outcome = time.perf_counter(), False, "cancelled"
        (writing := self.metrics.under_way.labels("writing")).inc()
        try:
            with self._asking(base), closing(self._parts(base, question, history, options)) as parts:
                for part in parts:
                    trace.count(part)
                    if not spoken:
                        self.metrics.stage_seconds.labels("first").observe(time.perf_counter() - start)
                        spoken = True
                    if isinstance(part, Answer):
                        outcome = "grounded" if part.grounded else "refused"
                        self.metrics.stage_seconds.labels("answer").observe(time.perf_counter() - start)
                        self.metrics.count_stages(part)
                        documents = list(dict.fromkeys(citation.source for citation in part.citations))
                        self.audit.write(trace, "ask", base, question, documents=documents, grounded=part.grounded)
                    yield part
        except Cancelled:
            raise
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            writing.dec()
            self.metrics.answers.labels(outcome).inc()

    def _parts(
        self, base: str, question: str, history: Sequence[Turn], options: Mapping[str, Any]
    ) -> Generating[Part, None, None]:
        return cast("Generating[Part, None, None]", self.base(base).stream(question, history, options))

    @property
    def writes(self) -> bool:
        """Whether the generator can be talked to by itself; one that quotes has nothing to say without documents."""
        return self.generator.name != "extractive"

    async def write(self, trace: Trace, request: GenerationRequest) -> Feed[Piece | Written]:
        """What the generator says without documents, all of it once more at the end. Whoever asked for it closes it."""
        return await self._feed(
            lambda given_up: self._write(trace, replace(request, owner=trace.who, cancellation=given_up))
        )

    def _write(self, trace: Trace, request: GenerationRequest) -> Iterator[Piece | Written]:
        start, outcome, said = time.perf_counter(), "cancelled", list[Piece]()
        (writing := self.metrics.under_way.labels("writing")).inc()
        try:
            pieces = self.generator.stream(request)
            with closing(pieces) if isinstance(pieces, Generating) else nullcontext():
                for piece in pieces:
                    if not said:
                        self.metrics.stage_seconds.labels("first").observe(time.perf_counter() - start)
                    trace.count(piece)
                    said.append(piece)
                    yield piece
            outcome = "written"
            self.metrics.stage_seconds.labels("answer").observe(time.perf_counter() - start)
            self.audit.write(trace, "chat", None, request.messages[-1].content)
            yield _whole(said)
        except Cancelled:
            raise
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            writing.dec()
            self.metrics.answers.labels(outcome).inc()

    def warm(self) -> None:
        """Loads what the first question would wait for; it is no matter when that fails, the question will tell."""
        with suppress(KbqaError, OSError):
            built = self.installation.bases()
            default = self.installation.config.knowledge.default
            if built:
                self.base(default if default in built else built[0]).search("什么")

    def check_ready(self) -> None:
        """Raises what is in the way of answering: keys that cannot be read, a folder that is not there any more."""
        self.keys.by_digest()
        self.installation.bases()


def _outcome(error: Exception) -> str:
    return "busy" if isinstance(error, GeneratorBusy) else "failed"


def _whole(said: Sequence[Piece]) -> Written:
    end = next((piece for piece in reversed(said) if piece.finish), Piece())
    return Written(
        text="".join(piece.text for piece in said),
        calls=tuple(piece.tool_call for piece in said if piece.tool_call),
        finish=end.finish or "stop",
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.completion_tokens,
    )


def _unknown(name: str) -> UnknownKnowledgeBase:
    """Says nothing of the others, which the caller may not be allowed to know of."""
    return UnknownKnowledgeBase(f"there is no knowledge base {name!r}")
