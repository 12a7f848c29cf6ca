"""How fast a model is here: reading a prompt, writing, and how near writing comes to what the memory allows.

To write one token, all weights are read once, however many sequences are written at a time. Bytes of weights times
steps a second can therefore not exceed the speed of the memory, which is measured in the same run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kbqa.chatglm.architecture import Architecture, DType, Family
from kbqa.chatglm.decoder import Decoder
from kbqa.chatglm.info import what_is
from kbqa.chatglm.model import load
from kbqa.chatglm.quantization import Bits
from kbqa.chatglm.runner import Runner
from kbqa.errors import ModelError
from kbqa.importing import is_out_of_memory

__all__ = ["Speed", "Writing", "measure"]

ROUNDS = 3  # the best one counts: other programs only ever make it slower
SCRATCH = 2**28  # bytes that are read to measure the memory, far more than caches hold


@dataclass(frozen=True, slots=True)
class Writing:
    """`floor` is the share of the memory's speed that writing `batch` sequences at once uses."""

    batch: int
    tokens_per_second: float
    floor: float


@dataclass(frozen=True, slots=True)
class Speed:
    load_seconds: float
    prompt: int  # tokens of the prompt that was read
    read_per_second: float  # tokens
    writing: tuple[Writing, ...]
    memory_speed: float  # bytes a second
    read_per_step: int  # bytes of weights
    peak: int  # bytes of memory, at most; of the GPU on CUDA; 0 where it cannot be told


def measure(
    folder: Path,
    dtype: DType,
    device: str,
    bits: Bits | None,
    batches: tuple[int, ...] = (1, 8),
    prompt: int = 256,
    steps: int = 16,
    family: Family | None = None,
) -> Speed:
    """Loads the model as a server would, and lets it read and write ids that mean nothing."""
    start = time.perf_counter()
    model = load(folder, dtype, device, bits, family=family)
    loaded = time.perf_counter() - start
    a, decoder = model.architecture, model.decoder
    prompt = min(prompt, a.context - 2 * steps - 2)
    if prompt < 1:
        raise ModelError(f"a context of {a.context} tokens is too short to be measured")
    ids = model.tokenizer.prompt([7] * prompt)
    size = _read_per_step(folder, a, dtype, bits, family)
    speed = SCRATCH / _best(torch.ones(SCRATCH // 4, device=device).sum, decoder)
    reading, writing = 0.0, []
    for batch in batches:
        try:
            runner = Runner(decoder, batch, len(ids) + (ROUNDS * steps) + 2)
            took = _best(lambda it=runner: _read(it, ids), decoder)  # type: ignore[misc]
            step = _step_seconds(runner, ids, batch, steps)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(f"the memory does not suffice for {batch} sequences at once; lower --batch") from error
        reading = max(reading, len(ids) / took)
        writing.append(Writing(batch, batch / step, size / step / speed))
    return Speed(loaded, len(ids), reading, tuple(writing), speed, size, _peak(device))


def _read_per_step(folder: Path, a: Architecture, dtype: DType, bits: Bits | None, family: Family | None) -> int:
    """All weights but the embedding, of which one row is read; ChatGLM-6B writes with it, and so reads it."""
    held = a.bits or bits or 16
    needs = {need.bits: need.weights for need in what_is(folder, family).needs}
    size = needs[held] - (0 if a.is_v1 else 2 * a.vocabulary * a.hidden)
    return 2 * size if dtype == "float32" and held == 16 else size


def _read(runner: Runner, ids: list[int]) -> None:
    sequence = runner.begin(0, ids)
    while runner.read(sequence) is None:
        pass


def _step_seconds(runner: Runner, ids: list[int], batch: int, steps: int) -> float:
    """Of one step that writes `batch` tokens. Only one prompt is read: the others stand where they would after it."""
    sequences = [runner.begin(slot, ids) for slot in range(batch)]
    while runner.read(sequences[0]) is None:
        pass
    for sequence in sequences[1:]:
        sequence.filled = sequences[0].filled
    runner.write(sequences, [7] * batch)

    def write() -> None:
        for _ in range(steps):
            runner.write(sequences, [7] * batch)

    return _best(write, runner.decoder) / steps


def _best(work: Callable[[], object], decoder: Decoder) -> float:
    """Seconds of the fastest of a few rounds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        if decoder.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return 0
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
