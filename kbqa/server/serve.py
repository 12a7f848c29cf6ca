"""`kbqa serve`: the service as a process, or several, that starts with a clear word or not at all and ends gently."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from kbqa.config import Config, Home, find_home, load_config
from kbqa.errors import ConfigError, KbqaError
from kbqa.registry import FILE, Database, KeyRing
from kbqa.server.auth import is_loopback
from kbqa.server.connection import PatientProtocol
from kbqa.server.listener import BACKLOG, Shared, address_of, listening
from kbqa.server.logs import log, log_to_stderr
from kbqa.server.metrics import SHARED

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["application", "serve"]

IN_PROCESS = ("chatglm", "transformers")  # kinds of generators that hold a model's weights
WITH_TORCH = (*IN_PROCESS, "sentence-transformers")
HUNG = 60  # seconds in which one of several processes must start, and answer the one that looks after it


def serve(home: Home, config: Config, workers: int, say: Callable[[str], None]) -> None:
    """Listens as `config.server` says until it is told to stop; `say` hears the address once it is taken.

    ConfigError when it must not listen there, cannot, or cannot be several.
    """
    _check_keys(home, config)
    _check_workers(config, workers)
    _set_threads(config)
    log_to_stderr()
    listener = listening(config.server.host, config.server.port)
    address = address_of(listener)
    try:
        if workers == 1:
            _serve_alone(home, config, listener, lambda: say(address))
        else:
            _serve_together(home, config, workers, listener, lambda: say(address))
    finally:
        listener.close()


def application() -> FastAPI:
    """The application of one of several processes, which finds all it needs in the environment."""
    log_to_stderr()
    threading.Thread(target=_end_with_parent, name="kbqa-parent", daemon=True).start()
    try:
        home = find_home()
        return _application(home, load_config(home))
    except KbqaError as error:  # config.yaml may be another one than that of the processes before
        log.error(f"a process cannot start: {error}")
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    """Nobody would tell this process to stop, or could find it, if the one that started it was killed."""
    if parent := parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _application(home: Home, config: Config) -> FastAPI:
    """Imports what is heavy, which must not happen before `_set_threads`."""
    from kbqa.build import Installation
    from kbqa.server.app import create_app
    from kbqa.server.service import Service

    return create_app(Service(Installation(home, config)))


def _check_keys(home: Home, config: Config) -> None:
    host = config.server.host
    if is_loopback(host):
        return
    database = Database(home.vectorstore / FILE)
    try:
        if KeyRing(database).all():
            return
    finally:
        database.close()
    raise ConfigError(
        f"{host} can be reached from other machines, and there is no key yet: everybody could ask everything; make one "
        "with `kbqa key add NAME`, or listen on 127.0.0.1"
    )


def _check_workers(config: Config, workers: int) -> None:
    kind = config.generator.kind
    if workers > 1 and kind in IN_PROCESS:
        raise ConfigError(
            f"--workers {workers} would load the model of generator.kind {kind} {workers} times; use one worker (it "
            "answers many at once), or let a server hold the model (kind: openai)"
        )


def _set_threads(config: Config) -> None:
    """Many requests at once keep the processors busy: libraries need not divide one among several. Models do.

    Libraries read this once, while they are loaded.
    """
    if {config.generator.kind, config.embedder.kind}.isdisjoint(WITH_TORCH) and config.retrieval.reranker is None:
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(variable, "1")


def _settings(config: Config, workers: int) -> uvicorn.Config:
    settings = uvicorn.Config(
        "kbqa.server.serve:application",
        factory=True,
        workers=workers,
        log_config=None,  # what there is to say goes through our own
        access_log=False,
        server_header=False,
        http=PatientProtocol,
        ws="none",
        backlog=BACKLOG,
        timeout_graceful_shutdown=config.server.shutdown_seconds,
    )
    settings.timeout_worker_healthcheck = HUNG  # not a parameter in all versions
    return settings


def _serve_alone(home: Home, config: Config, listener: socket.socket, started: Callable[[], None]) -> None:
    settings = _settings(config, 1)
    settings.app, settings.factory = _application(home, config), False
    with _gentle_signals():
        _Server(settings, started).run([listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._say()


class _Together(Multiprocess):
    """Says in the log which process took another's place, and why."""

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:
            process.child_conn.close()  # open here as well, it would hide for HUNG seconds that one died while asked
        for old, new in self._replaced_by(super().keep_subprocess_alive):
            log.warning(f"process {old.pid} died or hung ({_end(old.exitcode)}); {new.pid} takes its place")

    def restart_all(self) -> None:
        for old, new in self._replaced_by(super().restart_all):
            log.info(f"process {new.pid} takes the place of {old.pid}, as SIGHUP asks")

    def _replaced_by(self, step: Callable[[], None]) -> Iterator[tuple[Process, Process]]:
        before = list(self.processes)
        step()
        return ((old, new) for old, new in zip(before, self.processes, strict=True) if old is not new)


def _end(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}  # those of real-time signals have none
    return names.get(-code, f"signal {-code}")


def _serve_together(
    home: Home, config: Config, workers: int, listener: socket.socket, started: Callable[[], None]
) -> None:
    """Each process reads the configuration itself; what the command line changed goes through the environment."""
    from kbqa.build import Installation

    installation = Installation(home, config)
    os.environ["KBQA_HOME"] = str(home.folder)
    os.environ["KBQA_SERVER__HOST"] = config.server.host
    _ = installation.embedder, installation.generator  # what they cannot do either is said here, once
    with tempfile.TemporaryDirectory(prefix="kbqa-metrics-", ignore_cleanup_errors=True) as figures:
        os.environ[SHARED] = figures
        settings = _settings(config, workers)
        if os.name != "nt":  # where sockets are handed over in another way
            listener = Shared(os.dup(listener.fileno()))
            settings.backlog, settings.loop = 1, "asyncio"  # which is what Shared knows
        started()
        with listener:
            _Together(settings, sockets=[listener]).run()


@contextmanager
def _gentle_signals() -> Iterator[None]:
    """uvicorn ends gently and then sends itself the signal once more, for others to end by: here that is the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
