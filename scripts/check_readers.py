"""Read every file of the document collection and compare with what its manifest expects.

    KBQA_TESTDATA=... python scripts/check_readers.py [--format docx] [--no-ocr] [-v]

Prints a line a format and each file that fails, with the reason; exits 1 below the goals.
The rules are those of the collection's README: strings are looked for after NFKC, without white space and format
characters, in lower case; text that needs recognition may differ in up to a fifth of its characters.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from kbqa.errors import DocumentError
from kbqa.readers import ReadOptions, read

GOAL_TEXT = 0.95  # of the files with a text layer: all their strings found
GOAL_OCR = 0.8
SLOW = 60.0  # seconds for one file


@dataclass(frozen=True)
class Result:
    path: str
    format: str
    group: str  # text, ocr, or failure (error, empty, any)
    problems: tuple[str, ...]
    seconds: float


def fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    return "".join(char for char in text if not char.isspace() and unicodedata.category(char) != "Cf").lower()


def resembles(wanted: str, text: str, share: float = 0.8) -> bool:
    """Whether some stretch of `text` as long as `wanted` has that share of its characters, in order."""
    if wanted in text:
        return True
    size = len(wanted)
    return any(
        sum(
            block.size
            for block in SequenceMatcher(None, wanted, text[at : at + size], autojunk=False).get_matching_blocks()
        )
        >= share * size
        for at in range(max(1, len(text) - size + 1))
    )


def problems(path: Path, expect: Mapping[str, Any], options: ReadOptions) -> Iterator[str]:
    """What is wrong with how the file at `path` is read; a crash is let through."""
    outcome = expect["outcome"]
    try:
        document = read(path, options=options)
    except DocumentError as error:
        if "\n" in str(error) or path.name not in str(error):
            yield f"its error is no line naming the file: {error!r}"
        if outcome == "text":
            yield f"not read ({error.kind}): {error}"
        elif outcome == "empty" and error.kind != "empty":
            yield f"its error is {error.kind}, not empty"
        return
    if outcome in ("error", "empty"):
        yield f"read as {document.reader} ({len(document.text)} characters), {expect.get('kind')} expected"
        return
    text = fold(document.text)
    if outcome == "text":
        wanted = [fold(string) for string in expect.get("strings", ())]
        found = resembles if expect.get("ocr") else str.__contains__
        for string in wanted:
            if not (found(string, text) if expect.get("ocr") else string in text):
                yield f"misses {string!r}"
    for string in expect.get("absent", ()):
        if fold(string) in text:
            yield f"holds {string!r}"
    for before, after in expect.get("order", ()):
        if not 0 <= text.find(fold(before)) < text.find(fold(after)):
            yield f"{before!r} does not come before {after!r}"
    if not document.title or any(not block.text.strip() for block in document.blocks):
        yield "has no title or holds blank blocks"


def check(entry: Mapping[str, Any], folder: Path, ocr: bool = True) -> Result:
    expect, path = entry["expect"], folder / entry["path"]
    begun = time.perf_counter()
    try:
        found = list(problems(path, expect, ReadOptions(ocr=ocr)))
    except Exception as error:  # noqa: BLE001 - one file of many; reported
        found = [f"CRASH {type(error).__name__}: {error}"]
    seconds = time.perf_counter() - begun
    if seconds > SLOW:
        found.append(f"took {seconds:.0f} s")
    group = ("ocr" if expect.get("ocr") else "text") if expect["outcome"] == "text" else "failure"
    return Result(entry["path"], entry["format"], group, tuple(found), seconds)


def manifest(testdata: Path) -> tuple[list[dict[str, Any]], Path]:
    folder = testdata / "data" / "docs"
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], folder


def reached(results: list[Result]) -> dict[str, tuple[int, int, float]]:
    """For each group: files that passed, files, and the share that has to pass."""
    goals = {"text": GOAL_TEXT, "ocr": GOAL_OCR, "failure": 1.0}
    counted = {}
    for group, goal in goals.items():
        of_group = [result for result in results if result.group == group]
        counted[group] = (sum(not result.problems for result in of_group), len(of_group), goal)
    return counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--format", help="only files of this format")
    parser.add_argument("--no-ocr", action="store_true", help="leave out files that need text recognition")
    arguments = parser.parse_args()
    testdata = os.environ.get("KBQA_TESTDATA")
    if not testdata:
        sys.exit("set KBQA_TESTDATA to the folder that holds data/docs/manifest.jsonl")
    entries, folder = manifest(Path(testdata))
    entries = [entry for entry in entries if arguments.format in (None, entry["format"])]
    if arguments.no_ocr:
        entries = [entry for entry in entries if not entry["expect"].get("ocr")]
    results = [check(entry, folder, ocr=not arguments.no_ocr) for entry in entries]

    by_format: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_format[result.format].append(result)
    print(f"{'format':8} {'passed':>8} {'files':>6} {'seconds':>8}")
    for name, of_format in sorted(by_format.items()):
        passed = sum(not result.problems for result in of_format)
        print(f"{name:8} {passed:8} {len(of_format):6} {sum(result.seconds for result in of_format):8.2f}")
    for result in results:
        for problem in result.problems:
            print(f"{result.path}: {problem[:200]}")
    good = True
    for group, (passed, count, goal) in reached(results).items():
        print(f"{group}: {passed} of {count} files (goal {goal:.0%})")
        good &= passed >= goal * count
    return 0 if good and not any("CRASH" in problem for result in results for problem in result.problems) else 1


if __name__ == "__main__":
    sys.exit(main())
