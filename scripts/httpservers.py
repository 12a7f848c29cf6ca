"""What bench_http.py measures: servers on loopback, each in a process of its own, and the models behind them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil

HERE = Path(__file__).resolve().parent
MODEL = {"layers": 24, "hidden": 1024, "heads": 16, "groups": 2, "context": 4096}
VOCABULARY = 65_024

# --- servers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    process: psutil.Process

    @property
    def megabytes(self) -> float:
        """Of all its processes."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family) / 2**20

    @property
    def processor(self) -> float:
        """Seconds that its processes have computed."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=60)


@contextmanager
def running(name: str, command: Sequence[str | Path], port: int, log: Path, **environment: str) -> Iterator[Server]:
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=errors,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    server = Server(name, port, psutil.Process(process.pid))
    try:
        wait_until_open(port, process, log)
        server.get("/healthz")  # it listens before it has loaded anything; the naive one says 404
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"a server did not come up; its last words: {log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def kbqa(home: Path, workers: int = 1, **settings: object) -> Any:
    port = free_port()
    command = [sys.executable, "-m", "kbqa", "serve", "--home", home, "--port", str(port), "--workers", str(workers)]
    name = "kbqa" if workers == 1 else f"kbqa, {workers} workers"
    variables = {f"KBQA_{key.upper()}": str(value) for key, value in settings.items()}
    return running(name, command, port, home / f"serve-{port}.log", **variables)


@contextmanager
def naive(python: str, home: Path, texts: Path) -> Iterator[Server]:
    index, program, port = home / "naive-index", HERE / "naive_rag.py", free_port()
    if not index.is_dir():
        subprocess.run([python, program, "index", texts, index], check=True, stdout=subprocess.DEVNULL)
    command = [python, program, "serve", index, "--port", str(port)]
    with running("naive", command, port, home / "naive.log") as server:
        yield server


# --- models ----------------------------------------------------------------------------------------------------------


class SilentModel(ThreadingHTTPServer):
    """Has OpenAI's dialect, and says nothing until it may."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Silence)
        self.go_on = threading.Event()
        self.asked = 0

    @property
    def settings(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server_port}/v1"
        return {"generator__kind": "openai", "generator__base_url": url, "generator__model": "silent"}

    def wait_for(self, count: int, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while self.asked < count:
            if time.monotonic() > end:
                raise SystemExit(f"only {self.asked} of {count} streams have come to the model")
            time.sleep(0.1)


class Silence(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SilentModel

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.flush()
        self.server.asked += 1
        self.server.go_on.wait(300)
        for choice in ({"delta": {"content": "好。"}}, {"delta": {}, "finish_reason": "stop"}):
            self.wfile.write(f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def silent_model() -> Iterator[SilentModel]:
    server = SilentModel()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()


def tiny_giant(folder: Path) -> Path:
    """A ChatGLM3 with random weights: few words, but as many rows of them as the published one has."""
    if not folder.is_dir():
        from kbqa.chatglm import tiny

        tiny.PADDED_TO = VOCABULARY
        tiny.make_tiny("chatglm3", folder, tiny.Shape(**MODEL))
    return folder
