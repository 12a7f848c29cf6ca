"""kbqa on a machine without a network: the programs themselves run here, with all processes that they start, and an
attempt of any of them to reach another machine, or to look up its name, is written down and fails the test."""

import json
import os
import re
import signal
import subprocess
import sys

import httpx
import pytest
from serverkit import wait_until

# Python runs it at the start of every process, workers included.
GUARD = """
import json, os, sys

def _is_here(host):
    host = host.decode() if isinstance(host, bytes) else str(host)
    return host in ("", "localhost", "::1", "None") or host.startswith("127.")

def _tell(what, detail):
    line = json.dumps([what, os.getpid(), detail]) + "\\n"
    out = os.open(os.environ["AIRGAP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(out, line.encode())
    os.close(out)

def _guard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if not _is_here(host):
        _tell("reached out", f"{event} {host} from {sys.orig_argv}")
        raise PermissionError(f"{event} {host}: there is no network here")

_tell("started", sys.orig_argv)
sys.addaudithook(_guard)
"""
QUESTION = "年假有几天？"


class Gap:
    """Programs that run in it, and what their processes did."""

    def __init__(self, folder):
        self.home, self._log = folder / "home", folder / "log"
        guard = folder / "guard"
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "KBQA_"))},
            "PYTHONPATH": os.pathsep.join(filter(None, (str(guard), os.environ.get("PYTHONPATH")))),
            "AIRGAP_LOG": str(self._log),
            "KBQA_HOME": str(self.home),
            "http_proxy": "http://proxy.invalid:3128",  # nothing may go through one either
            "https_proxy": "http://proxy.invalid:3128",
        }

    def lines(self, what):
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        return [detail for kind, _, detail in map(json.loads, lines) if kind == what]

    def check(self):
        assert self.lines("reached out") == []

    def run(self, *arguments, **settings):
        command = [sys.executable, "-m", "kbqa", *arguments]
        environment = self.environment | settings
        return subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=120)


@pytest.fixture(scope="module")
def gap(tmp_path_factory):
    gap = Gap(tmp_path_factory.mktemp("gap"))
    folder = gap.home / "knowledge" / "default"
    folder.mkdir(parents=True)
    (folder / "员工手册.md").write_text("# 年假\n\n工作满一年的员工每年享有10天年假。\n", encoding="utf-8")
    (folder / "外链.html").write_text(
        '<link rel=stylesheet href="http://evil.invalid/a.css"><img src="http://evil.invalid/a.png">'
        "<p>食堂早上七点开门。</p><script src=http://evil.invalid/a.js></script>",
        encoding="utf-8",
    )
    done = gap.run("ingest", "--json")
    assert done.returncode == 0, done.stderr
    assert '"added": 2' in done.stdout
    return gap


ATTEMPTS = """
import contextlib, socket, subprocess, sys, urllib.request
for attempt in (
    lambda: socket.create_connection(("198.51.100.1", 80), 1),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("198.51.100.1", 53)),
    lambda: urllib.request.urlopen("http://example.org"),
    lambda: socket.create_connection(("127.0.0.1", 9), 1),
):
    with contextlib.suppress(OSError):
        attempt()
subprocess.run([sys.executable, "-P", "-c", "import socket; socket.getaddrinfo('worker.invalid', 1)"])
"""


def test_what_reaches_out_is_caught_in_workers_too(tmp_path):
    gap = Gap(tmp_path)
    subprocess.run([sys.executable, "-c", ATTEMPTS], env=gap.environment, stderr=subprocess.DEVNULL, check=True)
    hosts = [line.split(" ")[1] for line in gap.lines("reached out")]
    assert hosts == ["198.51.100.1", "example.org", "198.51.100.1", "proxy.invalid", "worker.invalid"]


def test_taking_documents_in_and_asking_them_needs_no_network(gap):
    asked = gap.run("ask", QUESTION, "--json")
    assert json.loads(asked.stdout)["grounded"], asked.stderr
    assert gap.run("search", QUESTION).returncode == 0
    assert any("kbqa.sandbox.worker" in " ".join(line) for line in gap.lines("started")), "what reads files is guarded"
    gap.check()


@pytest.mark.parametrize("kind", ["transformers", "chatglm"])
def test_a_model_in_the_process_needs_no_network(gap, tmp_path, kind, request):
    pytest.importorskip("torch")
    if kind == "transformers":
        model = request.getfixturevalue("parrot")
    else:
        from kbqa.chatglm.tiny import make_tiny

        model = tmp_path / "chatglm3-tiny"
        make_tiny("chatglm3", model)
    settings = {"KBQA_GENERATOR__KIND": kind, "KBQA_GENERATOR__MODEL": str(model), "KBQA_GENERATOR__MAX_TOKENS": "20"}
    asked = gap.run("ask", QUESTION, "--json", **settings)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["answer"]
    gap.check()


@pytest.fixture(scope="module")
def served(gap):
    command = [sys.executable, "-m", "kbqa", "serve", "--port", "0", "--json"]
    process = subprocess.Popen(command, env=gap.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=json.loads(process.stdout.readline())["url"], timeout=60, trust_env=False) as http:
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def test_serving_needs_no_network(gap, served):
    assert served.post("/api/v1/kb/default/ask", json={"question": QUESTION}).json()["grounded"]
    assert "event: done" in served.post("/api/v1/kb/default/ask", json={"question": QUESTION, "stream": True}).text
    assert served.post("/api/v1/kb/default/search", json={"question": QUESTION}).json()["hits"]
    chat = {"model": "kb:default", "messages": [{"role": "user", "content": QUESTION}]}
    assert served.post("/v1/chat/completions", json=chat).status_code == 200
    assert served.post("/v1/embeddings", json={"model": "static", "input": "年假"}).status_code == 200
    page = '<img src="http://evil.invalid/b.png"><p>班车晚上六点发车。</p>'.encode()
    told = served.post("/api/v1/kb/default/documents", files={"files": ("班车.html", page)}).json()
    wait_until(lambda: served.get(f"/api/v1/jobs/{told['job']['id']}").json()["state"] == "done", 60)
    assert served.post("/api/v1/kb/default/ask", json={"question": "班车几点发车？"}).json()["grounded"]
    for path in ("/api/v1/kb", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert served.get(path).status_code == 200, path
    assert any("kbqa.server.worker" in " ".join(line) for line in gap.lines("started")), "what does jobs is guarded"
    gap.check()


def test_what_browsers_are_shown_loads_nothing_from_elsewhere(gap, served):
    """The page at /, all that it is made of, and the page of the API."""
    seen, waiting = set(), ["/", "/docs"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = served.get(path, headers={"Accept": "text/html,*/*"})
        assert answer.status_code == 200, path
        if "html" in answer.headers["content-type"]:
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        if not re.search(r"html|javascript|css", answer.headers["content-type"]):
            continue
        text = answer.text
        assert not re.search(
            r"""(src|href|action|poster|srcset)\s*=\s*["']?\s*(https?:)?//|url\(\s*["']?(https?:)?//""", text
        )
        assert not re.search(
            r"""(from|import|importScripts|fetch|WebSocket|EventSource)\s*\(?\s*["'`](https?:|wss?:)?//""", text
        )
        found = re.findall(r"""(?:src|href)="([^"#]+)"|from\s+"([^"]+)"|import\s+"([^"]+)\"""", text)
        for address in filter(None, (part for parts in found for part in parts)):
            target = httpx.URL(f"http://x{path}").join(address)
            if target.host == "x" and target.path not in seen and "${" not in address:
                waiting.append(target.path)
    assert "/openapi.json" in seen
    assert any(path.endswith("/main.js") for path in seen)
    gap.check()
