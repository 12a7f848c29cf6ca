"""The process in which a job is done: `Runner` starts one for each.

It reads its order from standard input, one line of JSON, and writes what happens to standard output, a line of JSON
each. When standard input ends, because somebody cancelled or the service is no more, it stops behind the file it is at.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kbqa.config import Home, load_config
from kbqa.errors import ConfigError, KbqaError, KnowledgeBaseBusy
from kbqa.fields import file_fields
from kbqa.types import FileReport

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.ingest import Plan

__all__ = ["main"]

T = TypeVar("T")
AGAIN = 0.5  # seconds after which a base that somebody else writes is tried again
NICE = 10  # questions come first


class _Stopped(Exception):
    pass


def main() -> None:
    # Whatever a library prints must not stand among the messages.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if hasattr(os, "nice"):
        os.nice(NICE)
    # Ctrl-C and systemd signal all processes: the service decides, and the readers (which inherit this) must not seem
    # to have been brought down by their files.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def tell(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message, ensure_ascii=False).encode(errors="replace").decode() + "\n")
        out.flush()

    order = json.loads(sys.stdin.buffer.readline())
    stopped = threading.Event()
    threading.Thread(target=_until_the_end, args=(stopped,), daemon=True).start()
    try:
        _Work(order, tell, stopped).run()
        tell({"end": "done"})
    except _Stopped:
        tell({"end": "stopped"})
    except (KbqaError, OSError) as error:
        tell({"end": "failed", "type": type(error).__name__, "message": str(error)})


def _until_the_end(stopped: threading.Event) -> None:
    # Not through sys.stdin: Python aborts when it ends while a thread waits in there.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stopped.set()


def _installation(home: Home) -> Installation:
    """With the settings of today, which may be others than those that the service began with."""
    from kbqa.build import Installation

    try:
        return Installation(home, load_config(home))
    except ConfigError as error:
        where = "" if str(home.config) in str(error) else f"{home.config}: "
        raise ConfigError(f"{where}{error}; correct it, `kbqa doctor` says whether it is right") from error


class _Work:
    def __init__(
        self, order: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None], stopped: threading.Event
    ) -> None:
        self._home = Home(Path(order["home"]))
        self._base: str = order["base"]
        self._kind: str = order["kind"]
        self._sources: list[str] | None = order["sources"]
        self._allow_empty: bool = order["allow_empty"]
        self._patience: float = order["patience"]
        self._tell = tell
        self._stopped = stopped

    def run(self) -> None:
        if self._kind == "remove":
            self._when_free(self._remove)
        else:
            self._when_free(self._ingest)

    def _when_free(self, work: Callable[[], T]) -> T:
        """`work`, as soon as nobody else writes the base; KnowledgeBaseBusy when that lasts too long."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return work()
            except KnowledgeBaseBusy as error:
                if time.monotonic() > until:
                    raise
                self._tell({"waiting": str(error)})
            if self._stopped.wait(AGAIN):
                raise _Stopped

    def _ingest(self) -> None:
        folder = self._home.documents(self._base)
        _installation(self._home).ingest(
            self._base,
            None if self._sources is None else [folder / source for source in self._sources],
            rebuild=self._kind == "rebuild",
            allow_empty=self._allow_empty,
            on_plan=self._on_plan,
            on_start=self._on_start,
            on_file=self._on_file,
        )

    def _remove(self) -> None:
        """Of documents whose files are gone: a name whose file is there is another document by now, or still the old
        one, because the service was killed before it had removed anything."""
        from kbqa.store import Store

        with Store.open(self._home.base(self._base)) as store, store.write() as writer:
            for source in self._sources or ():
                if _is_there(self._home.documents(self._base), source):
                    self._on_file(FileReport(source, "skipped", error="a file of that name is there"))
                elif writer.remove(source):
                    self._on_file(FileReport(source, "removed"))

    def _on_plan(self, plan: Plan) -> None:
        parts = (plan.read, plan.remove, plan.unchanged, plan.failed, plan.skip)
        self._tell({"plan": plan.read, "total": sum(map(len, parts))})

    def _on_start(self, source: str) -> None:
        self._check()
        self._tell({"start": source})

    def _on_file(self, file: FileReport) -> None:
        self._tell({"file": file_fields(file)})
        self._check()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _Stopped


def _is_there(folder: Path, source: str) -> bool:
    """By this very name, also where capitals do not matter."""
    parts = source.split("/")
    if any(part in ("", ".", "..") for part in parts):  # what a program pushed may be called anything
        return False
    path = folder.joinpath(*parts)
    return path.parent.is_dir() and path.name in (entry.name for entry in path.parent.iterdir())
