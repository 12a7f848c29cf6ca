"""Kill `kbqa serve` with SIGKILL at random moments, in the midst of uploads, jobs, removals and streams.

Each round starts the service, lets several clients upload, remove and ask, and kills it. Then, before it is started
again:

- every file whose upload was answered with 202 lies in knowledge/ as it was sent, and nothing lies there that was not
  sent whole,
- the base opens and `verify` has nothing to complain about that it could not mend.

And once it runs again: every job comes to an end, every document that was answered for is found by the word that only
it holds, none that was answered to be removed is, one in the midst of whose removal the service was killed is there
with its file or gone with it, and no question is answered with a fault of the service.

    python scripts/crash_serve.py --kills 30
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from kbqa.build import Installation
from kbqa.config import Home
from kbqa.errors import KnowledgeBaseBusy
from kbqa.server.uploads import HIDDEN
from kbqa.store import Store, VerifyReport, verify

KB = "default"
API = f"/api/v1/kb/{KB}"
ENDED = ("done", "failed", "cancelled")
PATIENCE = 120.0  # seconds in which all jobs must have come to an end


@dataclass
class World:
    """What was sent, and what the service has answered for."""

    home: Home
    rng: random.Random
    sent: dict[str, bytes] = field(default_factory=dict)  # by source, whether it was answered or not
    words: dict[str, str] = field(default_factory=dict)  # source -> the word that only it holds
    kept: set[str] = field(default_factory=set)  # answered with 202
    gone: set[str] = field(default_factory=set)  # answered to be removed
    asked: set[str] = field(default_factory=set)  # to be removed, and nothing was answered
    given_up: set[str] = field(default_factory=set)  # jobs in whose midst the service was killed too often
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def document(self) -> tuple[str, bytes]:
        with self.lock:
            number = len(self.sent)
            word = f"zq{number:06d}"
            lines = [
                f"第{line}条：编号{word}的设备由第{line % 9}组保管，每年检查一次。"
                for line in range(self.rng.randint(1, 400))
            ]
            source = f"卷{number % 7}/规定{number}.txt"
            self.sent[source], self.words[source] = "\n".join(lines).encode(), word
            return source, self.sent[source]


class Service:
    def __init__(self, home: Home) -> None:
        command = [sys.executable, "-m", "kbqa", "--home", str(home.folder), "serve", "--port", "0", "--json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout
        self.url = json.loads(self._process.stdout.readline())["url"]

    def end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        self._process.wait(60)
        assert self._process.stdout
        self._process.stdout.close()


def client(work: Callable[[World, httpx.Client], None], world: World, url: str, over: threading.Event) -> None:
    """Works until the service is killed, which breaks the connection."""
    with httpx.Client(base_url=url, timeout=60) as http, suppress(httpx.TransportError):
        while not over.is_set():
            work(world, http)


def upload(world: World, http: httpx.Client) -> None:
    files = dict(world.document() for _ in range(world.rng.choice((1, 1, 2, 8, 40))))
    answer = http.post(f"{API}/documents", files=[("files", file) for file in files.items()])
    if answer.status_code != 202:
        world.wrong.append(f"an upload was answered with {answer.status_code}: {answer.text[:200]}")
    with world.lock:
        world.kept |= files.keys()
        world.outcomes["files answered for"] += len(files)


def remove(world: World, http: httpx.Client) -> None:
    time.sleep(0.2)
    with world.lock:
        if len(world.kept) < 20:
            return
        source = world.rng.choice(sorted(world.kept))
        world.kept.discard(source)  # from here on it may be gone, or not: the answer will tell
        world.asked.add(source)
    answer = http.delete(f"{API}/documents/{source}")
    if answer.status_code not in (200, 202):
        world.wrong.append(f"a removal was answered with {answer.status_code}: {answer.text[:200]}")
    with world.lock:
        world.asked.discard(source)
        world.gone.add(source)
        world.outcomes["files removed"] += 1


def ask(world: World, http: httpx.Client) -> None:
    body = {"question": "设备由哪个组保管？", "stream": True}
    with http.stream("POST", f"{API}/ask", json=body) as answer:
        said = answer.read().decode()
    if answer.status_code != 200 or "event: done" not in said:
        world.wrong.append(f"a question was answered with {answer.status_code}: {said[:200]}")
    world.outcomes["questions answered"] += 1


def damage(world: World) -> list[str]:
    """What is wrong on disk, behind a kill."""
    folder = world.home.documents(KB)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    whole = {source: path for source, path in files.items() if not source.startswith(HIDDEN)}
    wrong = [
        f"{source} lies there half, or was never sent"
        for source, path in whole.items()
        if world.sent.get(source) != path.read_bytes()
    ]
    wrong += [f"{source} was answered for and is not there" for source in world.kept - whole.keys()]
    wrong += [f"{source} was removed and is there" for source in world.gone & whole.keys()]
    if Store.exists(world.home.base(KB)):
        report = verified(world.home.base(KB))
        wrong += [f"verify: {finding}" for finding in report.findings if not finding.mended]
    return wrong


def verified(base: Path) -> VerifyReport:
    """As soon as the process of a job has noticed that its service is no more."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return verify(base)
        except KnowledgeBaseBusy:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def catch_up(world: World, http: httpx.Client) -> list[str]:
    """What is wrong once all jobs have come to an end."""
    until = time.monotonic() + PATIENCE
    jobs = jobs_of(http)
    while not all(job["state"] in ENDED for job in jobs):
        if time.monotonic() > until:
            return ["a job does not come to an end"]
        time.sleep(0.2)
        jobs = jobs_of(http)
    for job in jobs:
        if job["state"] == "failed" and "3 times" not in job["error"]["message"]:
            return [f"a job failed: {job['error']}"]
    failed = {job["id"] for job in jobs if job["state"] == "failed"}
    if failed - world.given_up:  # reported, and one that looks at everything mends it
        world.given_up |= failed
        http.post(f"{API}/ingest")
        return catch_up(world, http)
    wrong = []
    for source in world.rng.sample(sorted(world.kept), min(30, len(world.kept))):
        if source not in found(http, world.words[source]):
            wrong.append(f"{source} was answered for and is not found")
    for source in world.rng.sample(sorted(world.gone), min(10, len(world.gone))):
        if source in found(http, world.words[source]):
            wrong.append(f"{source} was removed and is found")
    for source in sorted(world.asked):
        file, known = ((world.home.documents(KB) / source).is_file(), source in found(http, world.words[source]))
        if file != known:
            wrong.append(f"{source} was to be removed, and its file {'is there' if file else 'is gone'} alone")
    return wrong


def jobs_of(http: httpx.Client) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = http.get("/api/v1/jobs", params={"limit": 10_000}).json()["jobs"]
    return jobs


def found(http: httpx.Client, word: str) -> list[str]:
    return [hit["source"] for hit in http.post(f"{API}/search", json={"question": word}).json()["hits"]]


def attack(world: World, seconds: float, drained: bool) -> list[str]:
    """One round; what is wrong behind it."""
    service, over = Service(world.home), threading.Event()
    try:
        if drained:
            with httpx.Client(base_url=service.url, timeout=60) as http:
                if wrong := catch_up(world, http):
                    return wrong
        with ThreadPoolExecutor(5) as pool:
            for work in (upload, upload, remove, ask, ask):
                pool.submit(client, work, world, service.url, over)
            time.sleep(seconds)
            service.end(signal.SIGKILL)
            over.set()
    finally:
        service.end(signal.SIGKILL)
    world.outcomes["kills"] += 1
    return world.wrong or damage(world)


def run(kills: int, seconds: float, seed: int, folder: Path) -> tuple[World, list[str]]:
    world = World(Home(folder), random.Random(seed))
    world.home.documents(KB).mkdir(parents=True)
    Installation(world.home).create(KB)
    for _ in range(kills):
        if wrong := attack(world, world.rng.uniform(0.1, seconds), drained=world.rng.random() < 0.6):
            return world, wrong
    service = Service(world.home)
    try:
        with httpx.Client(base_url=service.url, timeout=60) as http:
            return world, catch_up(world, http) + damage(world)
    finally:
        service.end(signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=3.0, help="that a service lives at most")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kbqa-crash-") as folder:
        world, wrong = run(options.kills, options.seconds, options.seed, Path(folder))
    for name, count in sorted(world.outcomes.items()):
        print(f"{count:6}  {name}")
    print(f"{len(world.given_up):6}  jobs given up behind three kills")
    print(*wrong[:10] or ["nothing was lost, and nothing lay there half"], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
