"""Ask a folder of documents a list of questions through the command line, and count what comes right.

    python scripts/check_answers.py FILES QA.jsonl

A line of QA.jsonl is {"question", "answers": [alternatives], "answerable", "file"}. An answer is right when one
alternative stands in it (white space and full-width forms aside) and the first citation is from `file`. A question
that is not answerable must be refused.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

KB = "checked"


def run(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "kbqa", "--home", str(home), *arguments, "--kb", KB, "--json"]
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def plain(text: str) -> str:
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text)).lower()


def verdict(asked: dict[str, Any], answer: dict[str, Any]) -> str:
    if not asked["answerable"]:
        return "answered although it should not" if answer["grounded"] else "refused rightly"
    if not answer["grounded"]:
        return "refused wrongly"
    if not any(plain(wanted) in plain(answer["answer"]) for wanted in asked["answers"]):
        return "wrong answer"
    cited = {citation["source"] for citation in answer["citations"][:1]}
    return "right" if cited == {asked["file"]} else "wrong file cited"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path)
    parser.add_argument("questions", type=Path)
    options = parser.parse_args()
    questions = [json.loads(line) for line in options.questions.read_text(encoding="utf-8").splitlines() if line]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="kbqa-check-") as folder:
        home = Path(folder)
        (home / "knowledge").mkdir()
        (home / "knowledge" / KB).symlink_to(options.files.resolve(), target_is_directory=True)
        run(home, "ingest")
        for asked in questions:
            answer = json.loads(run(home, "ask", asked["question"]))
            outcome = verdict(asked, answer)
            counts[outcome] += 1
            if outcome not in ("right", "refused rightly"):
                print(f"{outcome} ({answer['confidence']:.2f}): {asked['question']} -> {answer['answer']!r}")
    for outcome, count in sorted(counts.items()):
        print(f"{count:5}  {outcome}")
    answerable = sum(asked["answerable"] for asked in questions)
    print(f"{counts['right']} of {answerable} right with the right file cited, ", end="")
    print(f"{counts['refused rightly']} of {len(questions) - answerable} unanswerable refused")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
