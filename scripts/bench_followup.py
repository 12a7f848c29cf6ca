"""What the history is good for: conversations, each turn asked as it was typed, with its history, and put by hand.

    python scripts/bench_followup.py                         knowledge/samples alone
    KBQA_TESTDATA=... python scripts/bench_followup.py       also a company's files and the manual of a database
    python scripts/bench_followup.py --after DIR...          questions of BEIR folders, each after another one

The conversations are tests/data/conversations.jsonl: a turn has the files that answer it, strings of which the right
passage holds one, of which the answer must hold one (where these differ), and the whole question as a person would put
it. Those about knowledge/samples were written when the rules stood, the others before.

With --after every question of a folder is asked with another one, drawn by chance, as its history: a change of subject
must not make it find less.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kbqa.analyzer import fold
from kbqa.build import Installation
from kbqa.chain import KnowledgeBase
from kbqa.config import Config, Home
from kbqa.evaluation import load_benchmark, opened
from kbqa.types import Answer, Hit

ROOT = Path(__file__).resolve().parents[1]
CONVERSATIONS = ROOT / "tests" / "data" / "conversations.jsonl"
KINDS = ("ellipsis", "pronoun", "comparison", "clarification", "topic", "short")
LEANING = KINDS[:4]
UNTOLD = "untold"  # by the documents: right is to refuse
WAYS = ("as typed", "with history", "by hand")
RANKS = ("file", "passage")
NOWHERE = 99


@dataclass(frozen=True)
class Outcome:
    """`file` and `passage`: the rank of the first hit that is right."""

    file: int
    passage: int
    right: bool
    refused: bool


def plain(text: str) -> str:
    return re.sub(r"\s", "", fold(text))


def outcome(answer: Answer, turn: dict[str, Any]) -> Outcome:
    return Outcome(
        file=rank([hit.chunk.source in turn["files"] for hit in answer.hits]),
        passage=rank([hit.chunk.source in turn["files"] and holds(hit, turn["holds"]) for hit in answer.hits]),
        right=any(plain(wanted) in plain(answer.text) for wanted in turn.get("answers", turn["holds"])),
        refused=not answer.grounded,
    )


def rank(right: Sequence[bool]) -> int:
    return next((number for number, yes in enumerate(right, 1) if yes), NOWHERE)


def holds(hit: Hit, wanted: Sequence[str]) -> bool:
    return any(plain(text) in plain(hit.chunk.searchable) for text in wanted)


def converse(kb: KnowledgeBase, turns: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Outcome]]]:
    """The kind of each follow-up ("first" for a first question) and what came of it, by way of asking."""
    history: list[tuple[str, str]] = []
    for turn in turns:
        question = turn["question"]
        told = kb.ask(question, history)
        answers = {
            "as typed": kb.ask(question),
            "with history": told,
            "by hand": kb.ask(turn.get("whole", question)),
        }
        yield turn.get("kind", "first"), {way: outcome(answers[way], turn) for way in WAYS}
        history.append((question, told.text))


@contextmanager
def base(name: str) -> Iterator[KnowledgeBase | None]:
    """A base of its own for a set of documents; None where they are not at hand."""
    data = os.environ.get("KBQA_TESTDATA")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="kbqa-followup-")))
        if name == "samples":
            documents = ROOT / "knowledge" / "samples"
        elif not data:
            yield None
            return
        elif name == "minikb":
            documents = Path(data) / "data" / "minikb" / "files"
        else:
            documents = folder / "manual"
            with tarfile.open(Path(data) / "data" / "enterprise" / "tidb-docs-cn.tar.gz") as archive:
                archive.extractall(documents, filter="data")
            documents = next(documents.iterdir())
        yield stack.enter_context(Installation(Home(folder), Config()).temporary_base(folder / "base", documents))


def table(title: str, outcomes: dict[str, list[dict[str, Outcome]]]) -> None:
    print(f"\n{title}\n\n| kind | turns | | file @1 / @5 | passage @1 / @5 | right answer | refused |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    groups = [(kind, outcomes[kind]) for kind in ("first", *KINDS) if outcomes[kind]]
    groups.append(("all that lean on the one before", [o for kind in LEANING for o in outcomes[kind]]))
    groups.append(("all new questions", [o for kind in KINDS[4:] for o in outcomes[kind]]))
    groups.append((UNTOLD, outcomes[UNTOLD]))
    for kind, rows in groups:
        for way in WAYS if kind != "first" else WAYS[:1]:
            of = [row[way] for row in rows]
            file, passage = ([sum(getattr(o, what) <= k for o in of) / len(of) for k in (1, 5)] for what in RANKS)
            right, refused = sum(o.right for o in of) / len(of), sum(o.refused for o in of) / len(of)
            print(
                f"| {kind} | {len(of)} | {way} | {file[0]:.2f} / {file[1]:.2f} | {passage[0]:.2f} / {passage[1]:.2f} "
                f"| {right:.2f} | {refused:.2f} |"
            )


def conversations() -> None:
    lines = CONVERSATIONS.read_text(encoding="utf-8").splitlines()
    talks = [json.loads(line) for line in lines]
    for title, names in (("Development", ("minikb", "tidb")), ("Held out", ("samples",))):
        outcomes: dict[str, list[dict[str, Outcome]]] = defaultdict(list)
        for name in names:
            with base(name) as kb:
                if kb is None:
                    print(f"KBQA_TESTDATA is not set: the conversations about {name} are left out")
                    continue
                for talk in talks:
                    for kind, by_way in converse(kb, talk["turns"]) if talk["base"] == name else ():
                        outcomes[kind].append(by_way)
        if outcomes:
            table(f"{title}: {', '.join(names)}", outcomes)


def after_another(folder: Path, limit: int, seed: int) -> None:
    benchmark = load_benchmark(folder)
    questions = [question for question in benchmark.questions if question.relevant and question.text.strip()]
    random.Random(seed).shuffle(questions)
    questions = questions[: limit + 1]
    found = {"alone": [0, 0], "after another": [0, 0]}
    with TemporaryDirectory() as home, opened(benchmark, Installation(Home(Path(home)), Config()).temporary_base) as kb:
        for before, question in pairwise(questions):
            for way, history in (("alone", []), ("after another", [(before.text, "")])):
                hits = kb.retriever.search(question.text, history=history).hits
                at = rank([hit.chunk.source in question.relevant for hit in hits])
                found[way] = [found[way][0] + (at <= 1), found[way][1] + (at <= 5)]
    count = len(questions) - 1
    for way, (first, five) in found.items():
        print(f"| {folder.name} | {count} | {way} | {first / count:.4f} / {five / count:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--after", type=Path, nargs="+", metavar="DIR", help="BEIR folders")
    parser.add_argument("--limit", type=int, default=2000, help="questions of each folder")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not options.after:
        conversations()
        return
    print("| set | questions | | a right document @1 / @5 |\n| --- | --- | --- | --- |")
    for folder in options.after:
        after_another(folder, options.limit, options.seed)


if __name__ == "__main__":
    main()
