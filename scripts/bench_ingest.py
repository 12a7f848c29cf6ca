"""How fast does kbqa take documents in, and how does that grow?

    python scripts/bench_ingest.py                         # a generated manual of 1,200 Markdown files
    python scripts/bench_ingest.py --folder path/to/docs   # your own
    python scripts/bench_ingest.py --scale 10k,100k        # corpora of so many chunks, made of small files

Where KBQA_TESTDATA names the data sets, the manual is a real one (1,201 files). Every figure is of a fresh process,
start-up included, and the median of --runs. Memory is the largest sum over all processes of a run. `--naive` adds
the LangChain program of naive_rag.py on a subset of the files, in turn with kbqa on the same subset.

Needs psutil (pip install 'kbqa[dev]').
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
QUESTION = "如何备份集群数据？"
CHUNKS_PER_FILE = 3  # of the small files that --scale makes
YESTERDAY = 86_400  # files seem to be so old, in seconds, as in a folder that was not written just now


@dataclass(frozen=True)
class Run:
    """One finished process: wall time, the peak of its memory (its children's included), what it printed."""

    seconds: float
    megabytes: float
    lines: list[str]


def run(*command: str | Path) -> Run:
    """Run a Python program; it must succeed."""
    start = time.perf_counter()
    program = [sys.executable, *map(str, command)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode not in (0, 3):  # 3: some files failed, the rest went in
        raise SystemExit(f"{' '.join(map(str, command))} ended with exit code {process.returncode}")
    return Run(seconds, peak[0] / 2**20, output.splitlines())


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in [root, *root.children(recursive=True)]:
                total += member.memory_info().rss
        except psutil.Error:  # it ended in the meantime
            continue
        peak[0] = max(peak[0], total)
        time.sleep(0.05)


# --- corpora ---------------------------------------------------------------------------------------------------------

CHARACTERS = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经"
    "十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其些然前外天政四日那社义事平形"
    "相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展"
)


def make_corpus(folder: Path, files: int, seed: int = 11) -> None:
    """`files` small Markdown files of invented Chinese: headings, paragraphs, now and then a table."""
    chance = random.Random(seed)
    words = ["".join(chance.choices(CHARACTERS, k=chance.choice((2, 2, 2, 3, 4)))) for _ in range(5000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]  # as words are spread in real text

    def some(count: int) -> list[str]:
        return chance.choices(words, weights, k=count)

    for number in range(files):
        parts = [f"# {''.join(some(2))} {number}"]
        for section in range(chance.randint(1, 4)):
            parts.append(f"## {section + 1} {''.join(some(2))}")
            for _ in range(chance.randint(1, 3)):
                sentences = [f"{''.join(some(5))}，{''.join(some(6))} {chance.randint(1, 9999)}。" for _ in range(5)]
                parts.append("".join(sentences))
            if chance.random() < 0.2:
                rows = [f"| {some(1)[0]} | {chance.randint(1, 999)} |" for _ in range(6)]
                parts.append("\n".join(["| 参数 | 默认值 |", "|---|---|", *rows]))
        path = folder / f"{number // 1000:03}" / f"{number:06}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _age(folder)


def _age(folder: Path) -> None:
    then = time.time() - YESTERDAY
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


@contextmanager
def the_corpus(given: Path | None) -> Iterator[tuple[str, Path]]:
    """(what it is, folder): the one given, or the manual of the data sets, or a generated one."""
    if given is not None:
        yield given.name, given
        return
    testdata = os.environ.get("KBQA_TESTDATA")
    archive = Path(testdata, "data/enterprise/tidb-docs-cn.tar.gz") if testdata else None
    with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
        if archive is not None and archive.is_file():
            with tarfile.open(archive) as packed:
                packed.extractall(scratch, filter="data")
            yield "the TiDB manual (pingcap/docs-cn)", Path(scratch)
        else:
            make_corpus(Path(scratch), 1200)
            yield "a generated manual", Path(scratch)


def subset(folder: Path, count: int, target: Path) -> None:
    """Copy `count` Markdown files, evenly spread over the folder, to `target`."""
    files = sorted(folder.rglob("*.md"))
    for number in range(min(count, len(files))):
        source = files[number * len(files) // min(count, len(files))]
        copy = target / source.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy)


# --- kbqa ------------------------------------------------------------------------------------------------------------


class Base:
    """A home folder with one base, driven through the command line."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.documents = home / "knowledge" / "default"

    def kbqa(self, *arguments: str) -> Run:
        return run("-m", "kbqa", *arguments, "--home", self.home, "--json")

    def ingest(self) -> tuple[Run, dict[str, float]]:
        done = self.kbqa("ingest")
        summary: dict[str, float] = json.loads(done.lines[-1])["summary"]
        return done, summary

    @property
    def disk(self) -> float:
        """Megabytes below vectorstore/."""
        return sum(path.stat().st_size for path in (self.home / "vectorstore").rglob("*") if path.is_file()) / 1e6

    def forget(self) -> None:
        shutil.rmtree(self.home / "vectorstore", ignore_errors=True)

    def change_one(self) -> None:
        path = min(self.documents.rglob("*.md"))
        changed = f"{path.read_text(encoding='utf-8')}\n又加了一句话，编号 {time.time_ns()}。\n"
        path.write_text(changed, encoding="utf-8")


def size(folder: Path) -> tuple[int, float]:
    """(files, megabytes)"""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes) / 1e6


@dataclass(frozen=True)
class Measured:
    """Medians of several rounds of: take all in, do it again, change one file and do it again, ask."""

    cold: Run
    again: Run
    changed: Run
    asked: Run
    summary: dict[str, float]  # of a cold run, as `kbqa ingest --json` prints it
    disk: float


def measure(base: Base, runs: int) -> Measured:
    rounds: list[tuple[Run, Run, Run, Run]] = []
    for _ in range(runs):
        base.forget()
        cold, summary = base.ingest()
        again, _ = base.ingest()
        base.change_one()
        changed, _ = base.ingest()
        rounds.append((cold, again, changed, base.kbqa("ask", QUESTION)))
    cold, again, changed, asked = (middle(steps) for steps in zip(*rounds, strict=True))
    return Measured(cold, again, changed, asked, summary, base.disk)


def middle(done: Sequence[Run]) -> Run:
    """The median run by time, with the median of the memory."""
    by_time = sorted(done, key=lambda one: one.seconds)
    megabytes = statistics.median(one.megabytes for one in done)
    return Run(statistics.median(one.seconds for one in done), megabytes, by_time[len(by_time) // 2].lines)


# --- reports ---------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a Markdown table; the first is the header."""
    header, *body = rows
    for row in (header, ["---"] * len(header), *body):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def report_corpus(name: str, folder: Path, runs: int) -> None:
    files, megabytes = size(folder)
    with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
        base = Base(Path(scratch))
        shutil.copytree(folder, base.documents)
        found = measure(base, runs)
    seconds, summary = found.cold.seconds, found.summary
    print(f"### kbqa on {name}: {files:,} files, {megabytes:.1f} MB; median of {runs}\n")
    print(
        f"{summary['added']:,} files taken in, {summary['failed']} failed, {summary['skipped']} skipped; "
        f"{summary['chunks']:,} chunks, {found.disk:.1f} MB on disk\n"
    )
    rates = [f"{summary['added'] / seconds:.0f}", f"{megabytes / seconds:.2f}"]
    steps = [("ingest, nothing changed", found.again), ("ingest, one file changed", found.changed)]
    rows = [["step", "seconds", "files/s", "MB/s", "peak MB"]]
    rows.append(["ingest, cold", f"{seconds:.2f}", *rates, f"{found.cold.megabytes:.0f}"])
    for step, done in (*steps, (f"ask {QUESTION}", found.asked)):
        rows.append([step, f"{done.seconds:.2f}", "", "", f"{done.megabytes:.0f}"])
    table(rows)


def report_naive(name: str, folder: Path, count: int, runs: int) -> None:
    """kbqa and the LangChain program on the same files, in turn."""
    naive = HERE / "naive_rag.py"
    rounds: list[tuple[Run, Run, Run, Run]] = []
    with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
        base, index = Base(Path(scratch, "home")), Path(scratch, "index")
        subset(folder, count, base.documents)
        files, megabytes = size(base.documents)
        for _ in range(runs):
            base.forget()
            ours, _ = base.ingest()
            theirs = run(naive, "ingest", base.documents, index)
            rounds.append((ours, theirs, base.kbqa("ask", QUESTION), run(naive, "query", index, QUESTION)))
    ours, theirs, asked, queried = (middle(steps) for steps in zip(*rounds, strict=True))
    print(f"### beside the naive program: {files:,} files of {name}, {megabytes:.2f} MB; median of {runs}\n")
    rows = [["", "kbqa", "naive", "naive / kbqa"]]
    for step, mine, other in (("ingest", ours, theirs), ("one question, cold", asked, queried)):
        times = [mine.seconds, other.seconds, other.seconds / mine.seconds]
        rows.append([f"{step}, seconds", *(f"{value:.2f}" for value in times)])
        memory = [mine.megabytes, other.megabytes, other.megabytes / mine.megabytes]
        rows.append([f"{step}, peak MB", *(f"{value:.1f}" for value in memory)])
    rows.append(["files/s", f"{files / ours.seconds:.1f}", f"{files / theirs.seconds:.2f}", ""])
    table(rows)
    print(f"The naive program's own figures: {theirs.lines[-1]}\n", flush=True)


def report_scale(targets: Sequence[int], runs: int) -> None:
    """Corpora of growing size, so that what grows faster than the corpus shows."""
    rows = ["chunks,files,MB,cold s,chunks/s,peak MB,disk MB,unchanged s,one changed s,ask s,ask MB".split(",")]
    for target in targets:
        with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
            base = Base(Path(scratch))
            make_corpus(base.documents, max(1, target // CHUNKS_PER_FILE))
            files, megabytes = size(base.documents)
            found = measure(base, runs)
        chunks = found.summary["chunks"]
        row = [f"{chunks:,}", f"{files:,}", f"{megabytes:.1f}", f"{found.cold.seconds:.1f}"]
        row += [f"{chunks / found.cold.seconds:.0f}", f"{found.cold.megabytes:.0f}", f"{found.disk:.0f}"]
        row += [f"{done.seconds:.2f}" for done in (found.again, found.changed, found.asked)]
        rows.append([*row, f"{found.asked.megabytes:.0f}"])
    print(f"### how it grows, generated small files; median of {runs}\n")
    table(rows)


def count(text: str) -> int:
    """`10k` -> 10000, `1m` -> 1000000"""
    factor = {"k": 1000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    return int(float(text.rstrip("kKmM")) * factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="the documents to take in")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--naive", type=int, nargs="?", const=150, default=0, metavar="FILES", help="files for both")
    parser.add_argument("--scale", type=lambda text: [count(part) for part in text.split(",")], metavar="10k,100k")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    if given.scale:
        report_scale(given.scale, given.runs)
        return
    with the_corpus(given.folder) as (name, folder):
        report_corpus(name, folder, given.runs)
        if given.naive:
            report_naive(name, folder, given.naive, given.runs)


if __name__ == "__main__":
    main()
