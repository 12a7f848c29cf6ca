"""A document and its file on their way out: both or, whatever kills the service, soon after it is there again."""

from __future__ import annotations

from pathlib import Path

from kbqa.errors import KnowledgeBaseError, UnknownKnowledgeBase
from kbqa.registry import Job
from kbqa.server.errors import Conflict, NotFound
from kbqa.server.service import Service
from kbqa.server.uploads import below
from kbqa.store import Store

__all__ = ["no_document", "remove"]

AT_ONCE = 1.0  # seconds for which a base that is being written is waited for before its job removes the document


def remove(service: Service, kb: str, folder: Path, source: str, who: str) -> Job | None:
    """The job that will remove the document, None where that is done; its file is gone in any case.

    The job is written down before anything is done and forgotten when all is, so that one who is killed in between
    leaves it behind for the next.
    """
    store, known = _known(service, kb, source)
    path = below(folder, source)
    there = path is not None and (path.is_file() or path.is_symlink()) and (known or _is_spelled(path))
    if not known and not there:
        raise no_document(kb, source)
    job = service.jobs.add(kb, "remove", who, [source]) if store else None
    if path is not None and there:
        try:
            _unlink(path, folder)
        except Conflict:
            if job:
                service.jobs.withdraw(job.id)
            raise
    if store is None or job is None:
        return None
    try:
        with store.write(AT_ONCE) as writer:
            writer.remove(source)
    except KnowledgeBaseError:  # somebody else writes it, or its disk is full: the job waits, or says so
        return job
    service.jobs.withdraw(job.id)
    return None


def no_document(kb: str, source: str) -> NotFound:
    return NotFound(f"{kb} has no document {source!r}")


def _known(service: Service, kb: str, source: str) -> tuple[Store | None, bool]:
    """The base, None where it was not built yet, and whether it has the document."""
    try:
        store = service.store(kb)
        return store, store.document(source) is not None
    except UnknownKnowledgeBase:
        return None, False


def _is_spelled(path: Path) -> bool:
    """Whether the file has this very name: where capitals do not matter, or final dots, another name would do too, and
    the document that is called as the file is would be left without one."""
    return path.name in (entry.name for entry in path.parent.iterdir())


def _unlink(path: Path, folder: Path) -> None:
    """The file, and the folders that it leaves empty."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Conflict(f"{path.name} cannot be removed: {error.strerror}; it is still there, and answers") from error
    for parent in path.parents:
        if parent == folder:
            return
        try:
            parent.rmdir()
        except OSError:  # not empty
            return
