"""Both places that models come from, on loopback: what the clients of Hugging Face and ModelScope ask, from a folder.

`with serving(folder) as hub`: the models are `folder/ORGANISATION/NAME`. The clients find it through the variables in
`hub.environment(home)`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        address = urlsplit(self.path)
        path, query = unquote(address.path), {name: values[0] for name, values in parse_qs(address.query).items()}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(\w+))?", path):
            self._huggingface(found[1], found[2] or "main")
        elif found := re.fullmatch(rf"/api/models/([^/]+/[^/]+)/tree/{COMMIT}", path):
            files = self.server.files(found[1])
            self._json(200, [{"type": "file", "path": it.name, "size": it.stat().st_size, "oid": ""} for it in files])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self._file(self.server.folder / found[1] / found[3])
        elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo/files", path):
            self._modelscope(found[1], query.get("Revision", "master"))
        elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo", path):
            self._file(self.server.folder / found[1] / query["FilePath"])
        else:
            self._json(404, {"error": "Not Found", "Code": 404, "Message": "not found"})

    # --- what is there -----------------------------------------------------------------------------------------------

    def _huggingface(self, model: str, revision: str) -> None:
        if revision not in ("main", COMMIT) or not (self.server.folder / model).is_dir():
            self._json(404, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})
            return
        names = [{"rfilename": path.name} for path in self.server.files(model)]
        self._json(200, {"id": model, "modelId": model, "sha": COMMIT, "private": False, "siblings": names})

    def _modelscope(self, model: str, revision: str) -> None:
        if revision != "master" or not (self.server.folder / model).is_dir():
            self._json(404, {"Code": 10010205001, "Success": False, "Message": f"model {model} does not exist"})
            return
        files = [
            {"Name": path.name, "Path": path.name, "Type": "blob", "Size": path.stat().st_size, "Sha256": digest(path)}
            for path in self.server.files(model)
        ]
        self._json(200, {"Code": 200, "Success": True, "Message": "success", "Data": {"Files": files}})

    # --- files -------------------------------------------------------------------------------------------------------

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._json(404, {"error": "Entry not found"}, **{"X-Error-Code": "EntryNotFound"})
            return
        content, start = path.read_bytes(), 0
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start = int(wanted[1])
        part = content[start : int(wanted[2]) + 1 if wanted and wanted[2] else None]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{digest(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.sent.append((path.name, start))
        if path.name == self.server.breaks_off:
            self.server.breaks_off = ""
            part = part[: len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)

    def _json(self, status: int, value: object, **headers: str) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.folder = folder
        self.breaks_off = ""  # the name of a file whose connection breaks off once, after half of what was asked for
        self.sent: list[tuple[str, int]] = []  # (file, from which byte)

    def files(self, model: str) -> list[Path]:
        return sorted(path for path in (self.folder / model).iterdir() if path.is_file())

    def environment(self, home: Path, url: str | None = None) -> dict[str, str]:
        """With which a client talks to this server, keeps its own files in `home` and does not try for long."""
        return os.environ | {
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": url or self.url,
            "HF_HUB_OFFLINE": "0",  # the tests before may have loaded a model of this machine
            "HF_HUB_DISABLE_XET": "1",
            "MODELSCOPE_ENDPOINT": url or self.url,
            "MODELSCOPE_CACHE": str(home / "ms"),
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
            "no_proxy": "127.0.0.1",
        }

    def handle_error(self, request, client_address):
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
