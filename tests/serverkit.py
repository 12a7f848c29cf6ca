"""The real service on a free port of loopback, in a thread: `with serving(home) as service: service.http.get(...)`."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import uvicorn

from kbqa.build import Installation
from kbqa.config import Config, Home, load_config
from kbqa.server.app import create_app
from kbqa.server.connection import PatientProtocol
from kbqa.server.service import Service

JSON = {"Content-Type": "application/json"}


HANDBOOK = "# 员工手册\n\n工作满一年的员工每年享有10天年假。\n"
CARS = "# 车辆\n\n公车由行政部统一调度，私用须经总经理批准。\n"


def take_in(home: Path, **texts: str) -> Path:
    """`home`, with a base of each name, in which the text is the one document."""
    for name, text in texts.items():
        folder = home / "knowledge" / name
        folder.mkdir(parents=True)
        (folder / "员工手册.md").write_text(text, encoding="utf-8")
        Installation(Home(home), Config()).ingest(name)
    return home


class Lines(logging.Handler):
    """What the service wrote to its log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def requests(self) -> list[dict]:
        return [record.fields for record in self.records if hasattr(record, "fields")]


@dataclass
class Running:
    url: str
    service: Service
    http: httpx.Client
    log: Lines = field(default_factory=Lines)
    stack: ExitStack = field(default_factory=ExitStack)

    def post(self, path: str, body: object, **settings) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(path, content=content, headers={**JSON, **settings.pop("headers", {})}, **settings)

    def ask(self, question: str, kb: str = "default", **fields) -> httpx.Response:
        return self.post(f"/api/v1/kb/{kb}/ask", {"question": question, **fields})

    def search(self, question: str, kb: str = "default", **fields) -> httpx.Response:
        return self.post(f"/api/v1/kb/{kb}/search", {"question": question, **fields})

    def events(self, question: str, kb: str = "default", **fields) -> list[tuple[str, dict]]:
        """The whole stream of an answer."""
        response = self.ask(question, kb, stream=True, **fields)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return events_of(response.text)

    def with_key(self, secret: str) -> Running:
        http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {secret}"}, timeout=30)
        return replace(self, http=self.stack.enter_context(http))


def events_of(text: str) -> list[tuple[str, dict]]:
    found = []
    for block in text.split("\n\n"):
        if lines := [line for line in block.split("\n") if line and not line.startswith(":")]:
            assert [line.partition(": ")[0] for line in lines] == ["event", "data"]
            found.append((lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))))
    return found


@contextmanager
def serving(home: Path, generator: object = None, settings: dict | None = None, **server) -> Iterator[Running]:
    """`generator` takes the place of the one that config.yaml names; `server` are settings of its section."""
    config = load_config(Home(home), settings or {})
    installation = Installation(Home(home), replace(config, server=replace(config.server, **server)))
    if generator is not None:
        installation.generator = generator
    service = Service(installation)
    settings = {"log_config": None, "access_log": False, "http": PatientProtocol, "ws": "none"}
    runner = uvicorn.Server(uvicorn.Config(create_app(service), port=0, **settings))
    lines, logger = Lines(), logging.getLogger("kbqa.server")
    logger.addHandler(lines)
    level, logger.level = logger.level, logging.INFO
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        wait_until(lambda: runner.started or not thread.is_alive())
        port = runner.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with ExitStack() as stack:
            http = stack.enter_context(httpx.Client(base_url=url, timeout=30))
            yield Running(url, service, http, lines, stack)
    finally:
        runner.should_exit = True
        thread.join(20)
        logger.removeHandler(lines)
        logger.level = level
        assert not thread.is_alive(), "the service did not stop"


def wait_until(holds, seconds: float = 20) -> None:
    """Looks seldomer the longer it takes: who asks a service all the time keeps it from its work."""
    began = time.monotonic()
    while not holds():
        waited = time.monotonic() - began
        assert waited < seconds, "waited in vain"
        time.sleep(min(max(0.01, waited / 10), 0.1))
