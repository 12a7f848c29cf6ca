"""A real HTTP server with the OpenAI dialect on loopback, that can misbehave in every way that servers do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SAID = "根据制度，员工每年享有 10 天年假。 未休的可以顺延。"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        where = {"path": self.path, "port": self.client_address[1], "headers": dict(self.headers)}
        self.server.seen.append({**where, **body})
        step = self.server.script.pop(0) if self.server.script else self.server.usual
        try:
            step(self)
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()  # the other side has gone
            self.close_connection = True

    def do_GET(self):
        """GET /models: the server's `models`, or what another step does."""
        self.server.listed(self)

    def begin(self, kind: str = "text/event-stream", **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def log_message(self, *args):
        pass


Step = Callable[[Handler], None]


class ChatServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.seen: list[dict] = []
        self.script: list[Step] = []
        self.usual: Step = answer()
        self.listed: Step = refusal(404)
        self.left = threading.Event()  # a client has gone before it had everything
        self.over = threading.Event()  # silent handlers wait for this

    def handle_error(self, request, client_address):
        self.left.set()


@contextmanager
def serving() -> Iterator[ChatServer]:
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


# --- what it says ----------------------------------------------------------------------------------------------------


def delta(content: str = "", finish: str | None = None, **fields) -> dict:
    said = {"content": content} if content else {}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "glm",
        "choices": [{"index": 0, "delta": said | fields, "finish_reason": finish}],
    }


USAGE = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}


def stream_of(text: str, finish: str = "stop", usage: dict | None = USAGE) -> list:
    counts = {**delta(), "choices": [], "usage": usage}
    return [delta(role="assistant"), *map(delta, text), delta(finish=finish), *([counts] if usage else []), "[DONE]"]


def encoded(events: list, line_end: str = "\n") -> bytes:
    """Events as bytes: objects as JSON, texts as they are."""
    texts = [event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events]
    return "".join(f"data: {text}{line_end}{line_end}" for text in texts).encode()


def raw(content: bytes, cut: int = 0, ends: bool = True) -> Step:
    """An event stream of these bytes, in chunks of `cut`; one that does not end breaks the connection off."""

    def step(handler: Handler) -> None:
        handler.begin()
        size = cut or len(content)
        for at in range(0, len(content), size):
            handler.chunk(content[at : at + size])
        if ends:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            handler.close_connection = True

    return step


def answer(text: str = SAID, finish: str = "stop", **how) -> Step:
    return raw(encoded(stream_of(text, finish)), **how)


def events(*said, **how) -> Step:
    return raw(encoded(list(said)), **how)


def refusal(status: int, body: object = b"", **headers: str) -> Step:
    """An answer that is no stream; `body` is bytes, or becomes JSON."""

    def step(handler: Handler) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return step


def silence(*first, headers: bool = True) -> Step:
    """Says the first events, if any, and then nothing until the test is over; notices when the client leaves."""

    def step(handler: Handler) -> None:
        if headers:
            handler.begin()
        for event in first:
            handler.chunk(encoded([event]))
        handler.connection.settimeout(0.02)
        while not handler.server.over.is_set():
            try:
                if not handler.connection.recv(1):
                    handler.server.left.set()
                    break
            except TimeoutError:
                pass
        handler.close_connection = True

    return step


def endless(handler: Handler) -> None:
    """Goes on and on, until the client leaves."""
    handler.begin()
    while not handler.server.over.is_set():
        handler.chunk(encoded([delta("又")]))


def old_http(text: str) -> Step:
    """HTTP/1.0, as small servers speak it: no length, the end of the connection is the end of the answer."""

    def step(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + encoded(stream_of(text)))
        handler.close_connection = True

    return step
