"""Kill `kbqa ingest` with SIGKILL at random moments and look at what is left.

Each round changes the documents a little (adds, edits, removes), starts an ingest and kills it somewhere between its
first and its last moment. Then, before anything is repaired by hand:

- the base opens and `verify` has nothing to complain about that it could not mend,
- every document that the killed process reported as taken in is found by a search for the word only it holds,
- no document that it reported as removed, and no old version of one reported as updated, is found.

At the end an ingest that nobody kills must leave the same documents and chunks as one that never was.

    python scripts/crash_test.py --kills 200
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from kbqa.analyzer import Terms
from kbqa.build import Installation
from kbqa.config import Home
from kbqa.store import Store, verify

KB = "crash"
WORDS = "差旅 报销 年假 合同 设备 网关 备份 恢复 审批 流程 部门 预算 采购 供应商 保修 口令 会议 培训 仓库 质检".split()


@dataclass
class World:
    """The documents as they are, and what the killed processes have said of them."""

    home: Home
    rng: random.Random
    files: dict[str, str] = field(default_factory=dict)  # source -> the word that only this version of it holds
    acknowledged: dict[str, str] = field(default_factory=dict)  # source -> word a finished report vouches for
    gone: set[str] = field(default_factory=set)  # words that must not be found any more
    serial: int = 0

    @property
    def folder(self) -> Path:
        return self.home.documents(KB)

    def write(self, source: str) -> None:
        self.serial += 1
        word = f"zq{self.serial:06d}"
        paragraphs = [
            f"第{number}节 {''.join(self.rng.choices(WORDS, k=40))}，编号{word}。"
            for number in range(self.rng.randint(1, 12))
        ]
        path = self.folder / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# 文件{source}\n\n编号{word}。\n\n" + "\n\n".join(paragraphs) + "\n", encoding="utf-8")
        self.files[source] = word

    def change(self, adds: int, edits: int, removals: int) -> None:
        for source in self.rng.sample(sorted(self.files), min(edits, len(self.files))):
            self.write(source)
        for source in self.rng.sample(sorted(self.files), min(removals, len(self.files) // 2)):
            (self.folder / source).unlink()
            del self.files[source]
        for _ in range(adds):
            self.write(f"卷{self.rng.randint(1, 9)}/文件{self.serial}.md")

    def heard(self, report: dict[str, str], words: dict[str, str]) -> None:
        """Take in one line of a report; `words` is what the files held when the process started."""
        source, status = report["source"], report["status"]
        before = self.acknowledged.get(source)
        if status in ("added", "updated", "unchanged"):
            if before not in (None, words[source]):
                self.gone.add(str(before))
            self.acknowledged[source] = words[source]
        elif status == "removed" and before is not None:
            self.gone.add(before)
            del self.acknowledged[source]


def ingest(home: Home, kill_after: float | None) -> tuple[list[dict[str, str]], bool, float]:
    """Reports of one `kbqa ingest`, whether it was killed, and how long it ran."""
    command = [sys.executable, "-m", "kbqa", "--home", str(home.folder), "ingest", "--kb", KB, "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        out, err = process.communicate(timeout=kill_after)
        killed = False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        killed = True
    if not killed and process.returncode != 0:
        raise SystemExit(f"ingest failed with {process.returncode}:\n{err}")
    whole = [line for line in out.splitlines(keepends=True) if line.endswith("\n")]
    reports = [json.loads(line) for line in whole]
    return [report for report in reports if "source" in report], killed, time.perf_counter() - start


def problems(world: World) -> list[str]:
    """What is wrong with the base now; empty when all is well or nothing was ever written.

    Between a commit and its report there is a moment: a document may already be in its new version, or be gone with
    its file, although the killed process could not say so any more.
    """
    base = world.home.base(KB)
    if not Store.exists(base):
        return [f"{len(world.acknowledged)} documents acknowledged, no base"] if world.acknowledged else []
    wrong = []
    with Store.open(base) as store:
        for source, word in world.acknowledged.items():
            now = world.files.get(source)
            if now is not None and not any(source in _found(store, version) for version in (word, now)):
                wrong.append(f"acknowledged but not found: {source} ({word})")
        wrong += [f"removed but found: {word}" for word in world.gone if _found(store, word)]
    if wrong:
        return wrong  # verify mends; what is wrong is to be looked at first
    report = verify(base)
    wrong += [f"verify: {finding}" for finding in report.findings if not finding.mended]
    return wrong


def _found(store: Store, word: str) -> set[str]:
    hits = store.search_words(Terms([word], []), 50)
    return {chunk.source for chunk in store.chunks([chunk_id for chunk_id, _ in hits]).values()}


def content(home: Home) -> list[tuple[object, ...]]:
    """Everything the base says, without ids and times."""
    with Store.open(home.base(KB)) as store:
        documents = sorted((d.source, d.digest, d.status, d.chunks, d.title) for d in store.documents())
        chunks = [
            (chunk.source, chunk.ordinal, chunk.span, chunk.text, chunk.heading)
            for document in documents
            for chunk in store.neighbours(document[0], 0, 10**6)
        ]
    return [*documents, *chunks]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--files", type=int, default=120, help="documents at the start")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="kbqa-crash-") as folder:
        world = World(Home(Path(folder)), rng)
        world.change(adds=options.files, edits=0, removals=0)
        longest = 3.0
        while outcomes["killed"] < options.kills:
            words = dict(world.files)
            reports, killed, seconds = ingest(world.home, kill_after=rng.uniform(0.2, longest))
            if not killed:
                longest = 0.9 * longest + 0.1 * seconds
            for report in reports:
                world.heard(report, words)
            outcomes["killed" if killed else "finished before the kill"] += 1
            outcomes["documents acknowledged by killed runs"] += len(reports) if killed else 0
            if wrong := problems(world):
                kept = Path(tempfile.mkdtemp(prefix="kbqa-crash-kept-"))
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                print(f"after kill {outcomes['killed']} (kept in {kept}):", *wrong[:10], sep="\n  ")
                return 1
            world.change(adds=rng.randint(0, 20), edits=rng.randint(0, 20), removals=rng.randint(0, 20))
        ingest(world.home, kill_after=None)
        fresh = Home(Path(folder) / "fresh")
        fresh.knowledge.mkdir(parents=True)
        fresh.documents(KB).symlink_to(world.folder, target_is_directory=True)
        Installation(fresh).ingest(KB)
        same = content(world.home) == content(fresh)
    for name, count in outcomes.items():
        print(f"{count:6}  {name}")
    print("the finished base equals one that was never interrupted" if same else "the finished base DIFFERS")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
