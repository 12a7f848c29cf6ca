"""knowledge/<kb>/ to store: plan, apply, report.

`scan` looks at the folder, `plan` decides (and touches nothing), `Ingestion` acts: files are read and cut in worker
processes, which also embed where the embedder is the built-in one, and committed one document at a time. A document is
acknowledged, and its FileReport handed out, when its transaction has committed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from tempfile import mkstemp
from typing import TYPE_CHECKING, NoReturn

from kbqa.analyzer import REMEMBERED
from kbqa.config import KnowledgeConfig
from kbqa.embedders.static import StaticEmbedder
from kbqa.errors import ConfigError, DocumentError
from kbqa.readers import ReadOptions, is_ignored, supports
from kbqa.sandbox import Sandbox
from kbqa.splitter import Splitter
from kbqa.store import FileStat, StoredDocument, Writer, text_digest
from kbqa.store.lexical import Prepared
from kbqa.types import Chunk, Document, Embedder, FileReport, IngestReport, Origin

if TYPE_CHECKING:
    from kbqa.types import Vectors

__all__ = ["Found", "Ingestion", "Plan", "copy_in", "plan", "scan"]

BATCH_CHUNKS = REMEMBERED // 2  # embedded together, over as many documents as it takes; few enough to index from memory
PATIENCE = 1.0  # seconds for which what was read waits for others to be committed with, once none of them comes, ...
LONGEST = 5.0  # ... and while they come one by one
RACY_NS = 2_000_000_000  # a file changed so shortly before it was taken in may have changed again within its mtime
RETRY = {"missing-extra", "needs-ocr", "unreadable"}  # failures that a change outside the file can mend

OnFile = Callable[[FileReport], None]


# --- look ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A file below knowledge/<kb>/ as the folder shows it; `problem` says why it cannot be taken in ("" if it can), and
    `kind` in a word, as that of a DocumentError."""

    path: Path
    size: int = 0
    mtime_ns: int = 0
    problem: str = ""
    kind: str = ""


def scan(folder: Path, paths: Sequence[Path] | None = None) -> dict[str, Found]:
    """source -> file, for all files below `folder` or below those `paths` that lie in it. Reads no file.

    Raises ConfigError when the folder does not exist or a path lies outside of it. What can never be a document
    (hidden files, lock files of office programs) is left out; links that lead out of the folder are problems.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder}; create it and put documents in, or name another base with --kb"
        )
    root = folder.resolve()
    found: dict[str, Found] = {}
    for start in [root] if paths is None else [_inside(path, root) for path in paths]:
        for path in _walk(start):
            source = path.relative_to(root).as_posix()
            if not any(is_ignored(root / part) for part in _parents(path, root)):
                found[source] = _look(path, root)
    return found


def _inside(path: Path, root: Path) -> Path:
    """The absolute path, its folder resolved; ConfigError when it does not lie in `root`."""
    absolute = path.absolute()
    resolved = absolute.parent.resolve() / absolute.name if absolute.name != ".." else absolute.resolve()
    if resolved != root and root not in resolved.parents:
        raise ConfigError(f"{path} is not inside {root}; copy it there with `kbqa add`")
    return resolved


def _walk(start: Path) -> Iterator[Path]:
    if not start.is_dir() or start.is_symlink():
        if start.exists() or start.is_symlink():
            yield start
        return
    for folder, folders, names in os.walk(start, onerror=_unreadable):
        folders.sort()
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*names, *linked]):
            yield Path(folder, name)


def _unreadable(error: OSError) -> NoReturn:
    """A folder that cannot be listed must not look empty: its documents would be removed."""
    raise ConfigError(f"{error.filename} cannot be looked into: {error.strerror}; nothing was changed") from error


def _parents(path: Path, root: Path) -> list[PurePosixPath]:
    relative = PurePosixPath(path.relative_to(root).as_posix())
    return [relative, *relative.parents][:-1]


def _look(path: Path, root: Path) -> Found:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return Found(path, problem="its name is not valid UTF-8; rename it", kind="name")
    if path.is_symlink():
        try:
            target = path.resolve()
        except (OSError, RuntimeError):  # RuntimeError: Python 3.11 and 3.12, for one that leads to itself
            return Found(path, problem="it is a link that leads nowhere", kind="link")
        if root not in target.parents:
            problem = "it is a link that leads out of the folder; copy the file instead"
            return Found(path, problem=problem, kind="link")
        if target.is_dir():
            problem = "it is a link to a folder, which is taken in under its own name"
            return Found(path, problem=problem, kind="link")
    try:
        stat = path.stat()
    except OSError as error:
        return Found(path, problem=f"it cannot be looked at: {error.strerror}", kind="unreadable")
    if not path.is_file():
        return Found(path, problem="it is not a file", kind="unsupported")
    if not supports(path):
        problem = f"kbqa does not read {path.suffix or 'files without a suffix'}"
        return Found(path, stat.st_size, stat.st_mtime_ns, problem, "unsupported")
    return Found(path, stat.st_size, stat.st_mtime_ns)


# --- decide ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do so that the base mirrors the folder; all are sources, sorted."""

    read: tuple[str, ...]  # new, or perhaps changed: the digest will tell
    remove: tuple[str, ...]
    unchanged: tuple[str, ...]
    failed: tuple[str, ...]  # failed before and has not changed since
    skip: tuple[str, ...]

    @property
    def finds_nothing(self) -> bool:
        """No file that can be read, or could be if it were not broken."""
        return not (self.read or self.unchanged or self.failed)


def plan(
    indexed: Mapping[str, StoredDocument], found: Mapping[str, Found], *, scope: Callable[[str], bool], retry: bool
) -> Plan:
    """`scope` says which sources this run is about; what lies outside stays as it is. `retry`: read failures again."""
    read, unchanged, failed, skip = [], [], [], []
    for source, file in sorted(found.items()):
        known = indexed.get(source)
        if file.problem:
            skip.append(source)
        elif known is None or _may_differ(known, file):
            read.append(source)
        elif known.status == "indexed":
            unchanged.append(source)
        elif retry or known.error_kind in RETRY:
            read.append(source)
        else:
            failed.append(source)
    kept = {source for source in found if source not in set(skip)}
    remove = [s for s, known in sorted(indexed.items()) if known.origin != "api" and scope(s) and s not in kept]
    return Plan(tuple(read), tuple(remove), tuple(unchanged), tuple(failed), tuple(skip))


def _may_differ(known: StoredDocument, file: Found) -> bool:
    same = (known.size, known.mtime_ns) == (file.size, file.mtime_ns)
    return not same or known.mtime_ns > known.updated_at * 1e9 - RACY_NS


# --- act -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ready:
    """A document on its way to the store: read and cut, to be committed with its batch, and embedded first if need be.

    `vectors` and `prepared` are what the workers made of the chunks already.
    """

    document: Document
    chunks: list[Chunk]
    digests: list[bytes]  # of what is embedded of each chunk
    stat: FileStat
    origin: Origin
    seconds: float
    vectors: Vectors | None = None
    prepared: Sequence[Prepared] = ()


class Ingestion:
    """Takes documents into one base, through its Writer."""

    def __init__(
        self, writer: Writer, splitter: Splitter, embedder: Embedder, *, on_file: OnFile = lambda report: None
    ) -> None:
        self._writer = writer
        self._splitter = splitter
        self._embedder = embedder
        self._on_file = on_file
        self._reports: list[FileReport] = []
        self._waiting: list[_Ready] = []
        self._since = 0.0  # when the first of them began to wait
        self._known: set[str] = set()
        self._answering: set[str] = set()
        self._start = time.perf_counter()

    def mirror(
        self,
        folder: Path,
        indexed: Mapping[str, StoredDocument],
        limits: KnowledgeConfig,
        *,
        paths: Sequence[Path] | None = None,
        on_plan: Callable[[Plan], None] = lambda plan: None,
        on_start: Callable[[str], None] = lambda source: None,
    ) -> IngestReport:
        """Make the base hold what `folder` (or just `paths` in it) holds; the report lists every file."""
        found = scan(folder, paths)
        todo = plan(indexed, found, scope=_scope(folder, paths), retry=paths is not None)
        on_plan(todo)
        self._known = set(indexed)
        self._answering = {source for source, document in indexed.items() if document.status == "indexed"}
        for source in todo.skip:
            file = found[source]
            self._report(FileReport(source, "skipped", error=file.problem, error_kind=file.kind))
        for source in todo.unchanged:
            self._report(_as_before(indexed[source], "unchanged"))
        for source in todo.failed:
            self._report(_as_before(indexed[source], "failed"))
        for source in todo.remove:
            self._writer.remove(source)
            self._report(FileReport(source, "removed"))
        self._read(_told(self._changed(todo.read, found, indexed), on_start), found, limits)
        return self.finish()

    def add(self, documents: Iterable[Document], known: Iterable[str] = ()) -> IngestReport:
        """Documents that come from a program, not from a file; mirroring never removes them."""
        self._known = set(known)
        for document in documents:
            stat = FileStat(document.digest, len(document.text.encode()), 0)
            start = time.perf_counter()
            chunks = self._splitter.split(document)
            digests = [text_digest(chunk.embedded) for chunk in chunks]
            self._wait(_Ready(document, chunks, digests, stat, "api", time.perf_counter() - start))
        return self.finish()

    def finish(self) -> IngestReport:
        self._commit()
        self._writer.checkpoint()
        return IngestReport(tuple(self._reports), time.perf_counter() - self._start)

    def _changed(
        self, sources: Sequence[str], found: Mapping[str, Found], indexed: Mapping[str, StoredDocument]
    ) -> Iterator[tuple[Path, str]]:
        """The files to read: those whose content is not what the base holds under that name."""
        for source in sources:
            file, known = found[source], indexed.get(source)
            if known is not None and known.status == "indexed" and known.size == file.size:
                try:
                    digest = digest_of(file.path)
                except OSError as error:
                    self._fail(source, file, DocumentError(f"it cannot be read: {error.strerror}", "unreadable"))
                    continue
                if digest == known.digest:
                    self._writer.touch(source, FileStat(digest, file.size, file.mtime_ns))
                    self._report(_as_before(known, "unchanged"))
                    continue
            yield file.path, source

    def _read(self, jobs: Iterator[tuple[Path, str]], found: Mapping[str, Found], limits: KnowledgeConfig) -> None:
        options = ReadOptions(max_bytes=limits.max_file_mb * 2**20, ocr=limits.ocr)
        workers = limits.workers or os.cpu_count() or 1
        # The built-in embedder is loaded in no time and runs on the processor: the workers embed, and the one process
        # that writes has that much less to do.
        embedder = self._embedder if isinstance(self._embedder, StaticEmbedder) else None
        with Sandbox(
            workers,
            limits.seconds_per_file,
            limits.memory_mb,
            options,
            splitter=self._splitter.config,
            embedder=embedder,
        ) as sandbox:
            for outcome in sandbox.read_all(jobs, self._pause):
                file = found[outcome.source]
                if outcome.document is None:
                    self._fail(
                        outcome.source, file, outcome.error or DocumentError("it could not be read"), outcome.seconds
                    )
                else:
                    stat = FileStat(outcome.document.digest, file.size, file.mtime_ns)
                    digests = [text_digest(chunk.embedded) for chunk in outcome.chunks]
                    self._wait(
                        _Ready(
                            outcome.document,
                            outcome.chunks,
                            digests,
                            stat,
                            "folder",
                            outcome.seconds,
                            outcome.vectors,
                            outcome.prepared,
                        )
                    )

    def _wait(self, ready: _Ready) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(ready)
        waited = time.monotonic() - self._since
        if waited >= LONGEST or sum(len(ready.chunks) for ready in self._waiting) >= BATCH_CHUNKS:
            self._commit()

    def _pause(self) -> None:
        """What is read is not to wait for hundreds of scanned pages that somebody else put there."""
        if self._waiting and time.monotonic() - self._since >= PATIENCE:
            self._commit()

    def _commit(self) -> None:
        """Embed what is waiting and has no vectors yet, each text once, and commit it document by document."""
        waiting, self._waiting = self._waiting, []
        vectors: dict[bytes, Vectors] = {}
        texts: dict[bytes, str] = {}
        for ready in waiting:
            if ready.vectors is None:
                texts |= {digest: chunk.embedded for digest, chunk in zip(ready.digests, ready.chunks, strict=True)}
            else:
                vectors |= zip(ready.digests, ready.vectors, strict=True)
        missing = sorted(self._writer.missing(texts.keys() - vectors.keys()))
        start = time.perf_counter()
        rows = self._embedder.embed_passages([texts[digest] for digest in missing]) if missing else ()
        vectors |= zip(missing, rows, strict=True)
        share = (time.perf_counter() - start) / max(1, len(texts))
        for ready in waiting:
            document = ready.document
            seconds = ready.seconds + (share * len(ready.chunks) if ready.vectors is None else 0.0)
            self._writer.put(
                document, ready.chunks, ready.digests, vectors, ready.stat, ready.origin, seconds, ready.prepared
            )
            self._report(
                FileReport(
                    source=document.source,
                    status="updated" if document.source in self._known else "added",
                    reader=document.reader,
                    chunks=len(ready.chunks),
                    pages=document.pages,
                    tables=document.tables,
                    seconds=round(seconds, 3),
                    warnings=document.warnings,
                )
            )

    def _fail(self, source: str, file: Found, error: DocumentError, seconds: float = 0.0) -> None:
        """A file that could be read before may be half copied or its disk away: what the base has of it stays."""
        message = str(error)
        reader = file.path.suffix.removeprefix(".").lower()
        if source in self._answering and error.kind != "empty":
            message += "; its earlier version still answers"
        else:
            stat = FileStat("", file.size, file.mtime_ns)
            self._writer.put_failure(source, stat, reader, message, error.kind, "folder")
        report = FileReport(source, "failed", reader, error=message, error_kind=error.kind, seconds=round(seconds, 3))
        self._report(report)

    def _report(self, report: FileReport) -> None:
        self._reports.append(report)
        self._on_file(report)


def _told(jobs: Iterable[tuple[Path, str]], on_start: Callable[[str], None]) -> Iterator[tuple[Path, str]]:
    """The same jobs; `on_start` hears of each as it is taken."""
    for path, source in jobs:
        on_start(source)
        yield path, source


def digest_of(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _as_before(known: StoredDocument, status: str) -> FileReport:
    return FileReport(
        source=known.source,
        status="unchanged" if status == "unchanged" else "failed",
        reader=known.reader,
        chunks=known.chunks,
        pages=known.pages,
        tables=known.tables,
        error=known.error,
        error_kind=known.error_kind,
        warnings=known.warnings,
    )


def _scope(folder: Path, paths: Sequence[Path] | None) -> Callable[[str], bool]:
    """Which sources `paths` speak of: themselves, and everything below them."""
    if paths is None:
        return lambda source: True
    root = folder.resolve()
    named = [_inside(path, root).relative_to(root).as_posix() for path in paths]
    return lambda source: any(name == "." or source == name or source.startswith(f"{name}/") for name in named)


# --- copy ------------------------------------------------------------------------------------------------------------


def copy_in(files: Sequence[Path], folder: Path, *, replace_existing: bool = False) -> list[Path]:
    """Copies of `files` in `folder`, whole or not at all; a file of that name with other content stops it all first."""
    targets = []
    for file in files:
        if not file.is_file():
            raise ConfigError(_no_file(file))
        target = folder / file.name
        if target.exists() and not replace_existing and digest_of(target) != digest_of(file):
            raise ConfigError(f"{target} exists and differs from {file}; rename the new file or add --replace")
        targets.append(target)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    copies: list[Path] = []
    try:
        for file, target in zip(files, targets, strict=True):
            copies.append(_copied(file, target))
        for copy, target in zip(copies, targets, strict=True):
            copy.replace(target)
    except BaseException:
        for copy in copies:
            copy.unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise
    return targets


def _no_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder; `kbqa add` takes files: name those in it, for example {path / '*.docx'}"
    return f"{path} is not a file" if path.exists() else f"there is no file {path}"


def _copied(file: Path, target: Path) -> Path:
    """A whole copy of `file` beside `target`, or an error that names both and no copy."""
    copy: Path | None = None
    try:
        handle, name = mkstemp(dir=target.parent, prefix=".adding-")
        copy = Path(name)
        os.close(handle)
        with copy.open("wb") as out, file.open("rb") as original:
            shutil.copyfileobj(original, out)
    except BaseException as error:
        if copy:
            copy.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DocumentError(
                f"{file} cannot be copied to {target}: {error.strerror or error}; nothing was added", "unreadable"
            ) from error
        raise
    return copy
