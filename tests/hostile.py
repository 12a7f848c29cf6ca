"""Readers that misbehave, for the sandbox's tests: workers import them by name ("hostile:spin")."""

import os
import re
import signal
import time
from pathlib import Path

from kbqa.errors import DocumentError
from kbqa.readers import ReadOptions
from kbqa.readers.progress import advance
from kbqa.types import Block, Document


def obey(path: Path, source: str, options: ReadOptions) -> Document:
    """Does what the file says (`sleep 5`, `spin`, `die 11`, ...); without an order it gives the file's text."""
    text = path.read_text(encoding="utf-8")
    word, *numbers = text.split()
    match word:
        case "sleep":
            time.sleep(float(numbers[0]))
        case "await":  # until there is a file of that name
            while not Path(numbers[0]).exists():
                time.sleep(0.02)
        case "spin":
            re.match(r"(a|aa)+$", "a" * 60 + "b")  # years, without ever giving Python a chance to look up
        case "grow":
            hoard = []
            while True:
                hoard.append(bytearray(16 << 20))
        case "die":
            os.kill(os.getpid(), int(numbers[0]))
            signal.pause()
        case "exit":
            os._exit(int(numbers[0]))
        case "raise":
            raise ZeroDivisionError("durch null")
        case "refuse":
            raise DocumentError(f"{source}: is refused", kind="unsupported")
        case "print":
            print("x" * 100_000)
        case "pages":
            for page in range(1, int(numbers[0]) + 1):
                advance(page, int(numbers[0]))
                time.sleep(float(numbers[1]))
        case "pid":
            text = str(os.getpid())
    return Document(source, source, (Block("text", text, page=1),), digest="0" * 64, reader="obey", pages=1)


def lie(path: Path, source: str, options: ReadOptions) -> Document:
    """What a parser under foreign control might send: fields that are not what they should be."""
    return Document(source, source, (Block("script", "x"),), digest="0")  # type: ignore[arg-type]
