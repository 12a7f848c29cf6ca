"""What the service writes down: one line of JSON a request on standard error, and the audit log.

Neither ever holds a key, a header or an address with what stands behind its `?`; questions only where
`server.log_questions` says so.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kbqa.types import Answer, Piece

__all__ = ["AuditLog", "Trace", "log", "log_to_stderr"]

log = logging.getLogger("kbqa.server")


@dataclass(slots=True)
class Trace:
    """What becomes known of one request on its way through the service."""

    id: str
    started: float = field(default_factory=time.perf_counter)
    who: str | None = None  # the name of the key; None where nobody has asked for it yet
    base: str | None = None
    prompt_tokens: int = 0  # of the answer so far, where the model tells them
    completion_tokens: int = 0
    error: str | None = None  # also one that came after the status was sent
    at_end: list[Callable[[], None]] = field(default_factory=list)  # called when the whole answer is sent

    def count(self, part: object) -> None:
        """A part of the answer, which may tell how many tokens it took so far."""
        if isinstance(part, Piece | Answer) and (part.prompt_tokens or part.completion_tokens):
            self.prompt_tokens, self.completion_tokens = part.prompt_tokens, part.completion_tokens


class AuditLog:
    """Lines of JSON at the end of a file, which is opened for each: it may be moved away at any time."""

    def __init__(self, path: Path | None, questions: bool) -> None:
        self._path = path
        self._questions = questions

    def write(self, trace: Trace, action: str, base: str | None, question: str, **fields: Any) -> None:
        """`base` None: the model alone was asked. Blocks.

        A log that cannot be written is an error in the other one, and no reason to give no answer.
        """
        if self._path is None:
            return
        asked = {"question": question} if self._questions else {}
        entry = {"time": _now(), "request": trace.id, "who": trace.who, "action": action, "base": base, **fields}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(entry | asked))
        except OSError as error:
            log.error(f"the audit log {self._path} cannot be written: {error.strerror}")


def log_to_stderr() -> None:
    """Sends what the service and uvicorn have to say to standard error, each as a line of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name, level in (("kbqa.server", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.getLogger("kbqa").handlers = [handler]  # for what the other layers warn of


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {"time": _now(), "level": record.levelname.lower(), "message": record.getMessage()}
        if isinstance(fields := getattr(record, "fields", None), Mapping):
            entry |= fields
        if record.exc_info and record.exc_info[1]:
            entry["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return _line(entry).rstrip("\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False).encode(errors="replace").decode() + "\n"
