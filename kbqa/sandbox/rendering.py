"""A page of a PDF as a picture, made in a process of its own: a hostile file costs that process and nothing else."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from kbqa.errors import DocumentError
from kbqa.sandbox.limits import limit_cpu, limit_memory

__all__ = ["main", "render_page"]

SECONDS = 20.0
MEMORY_MB = 2048
LARGEST = 64 << 20  # bytes of a picture

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from kbqa.sandbox.rendering import main; main()"


def render_page(path: Path, number: int, passage: str, width: int, seconds: float = SECONDS) -> bytes:
    """Page `number`, counted from 1, as a PNG of `width` pixels, with `passage` marked on it where it is found.

    DocumentError: encrypted, corrupt, unreadable (no such page), timeout, crashed.
    """
    order = {"path": str(path.absolute()), "number": number, "passage": passage, "width": width, "seconds": seconds}
    told, code, late = _asked(json.dumps(order).encode(), seconds)
    if late:
        raise DocumentError(f"{path.name}: page {number} takes longer than {seconds:g} s to draw", "timeout")
    if code:
        raise DocumentError(f"{path.name}: page {number} cannot be drawn (exit code {code})", "crashed")
    kind, _, rest = told.partition(b"\n")
    if kind == b"png" and _is_png(rest):
        return rest
    if kind == b"error":
        with suppress(ValueError, TypeError, KeyError):
            message = json.loads(rest)
            raise DocumentError(f"{path.name}: {message['error']}", str(message["kind"]))
    raise DocumentError(f"{path.name}: page {number} became something else than a picture", "crashed")


def _asked(order: bytes, seconds: float) -> tuple[bytes, int | None, bool]:
    """What the process says, its exit code, and whether it took too long."""
    command = [sys.executable, "-P", "-c", _PROGRAM, *map(str, sys.path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment) as process:
        assert process.stdin
        assert process.stdout
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(seconds, give_up)
        clock.start()
        try:
            with suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(order)
            told = process.stdout.read(LARGEST + 1)
            code = process.wait() if len(told) <= LARGEST else None  # one that says too much is not waited for
        finally:
            clock.cancel()
            process.kill()
    return told, code, late.is_set()


def _is_png(data: bytes) -> bool:
    return len(data) <= LARGEST and data.startswith(_SIGNATURE) and struct.unpack(">I", data[8:12])[0] == 13


def main() -> None:
    """Inside the process: an order on standard input, the picture or an error on standard output."""
    from kbqa.readers.pageimage import page_png

    order = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # what a library prints is no part of the picture
    limit_memory(MEMORY_MB)
    limit_cpu(order["seconds"])
    try:
        answer = b"png\n" + page_png(Path(order["path"]), order["number"], order["passage"], order["width"])
    except DocumentError as error:
        answer = b"error\n" + json.dumps({"error": str(error), "kind": error.kind}).encode()
    except MemoryError:
        told = {"error": f"page {order['number']} needs more memory than is allowed", "kind": "memory"}
        answer = b"error\n" + json.dumps(told).encode()
    with os.fdopen(out, "wb") as stream:
        stream.write(answer)
