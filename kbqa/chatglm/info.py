"""What a model is and what it takes, from its config.json and the sizes of its files. Loads no weights."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kbqa.chatglm.architecture import Architecture, Family, read_architecture
from kbqa.chatglm.files import cut_off
from kbqa.errors import ModelError

__all__ = ["Machine", "ModelInfo", "Need", "this_machine", "what_is"]

AROUND = 700 * 2**20  # bytes beside weights and cache: torch itself, what one step computes
SHORT = 2048  # tokens of a context that is enough for a question with its passages
Bits = Literal[4, 8, 16]


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that the model takes with its weights at `bits`. Keys and values are kept in 16 bits."""

    bits: Bits
    weights: int
    cache: int  # of one conversation as long as the whole context
    short_cache: int  # of one of SHORT tokens

    @property
    def total(self) -> int:
        return self.weights + self.cache + AROUND

    @property
    def least(self) -> int:
        return self.weights + self.short_cache + AROUND


@dataclass(frozen=True, slots=True)
class ModelInfo:
    folder: Path
    architecture: Architecture
    files: tuple[tuple[str, int], ...]  # of weights: name, bytes
    trouble: str  # why the weights cannot be loaded; empty when they are all there
    needs: tuple[Need, ...]  # only those that the stored weights allow


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes of memory: 0 where it cannot be told. `gpus` are (name, bytes), as far as torch sees them."""

    memory: int
    gpus: tuple[tuple[str, int], ...]


def what_is(folder: Path, family: Family | None = None) -> ModelInfo:
    a = read_architecture(folder, family)
    files: tuple[tuple[str, int], ...] = ()
    trouble = ""
    try:
        from kbqa.chatglm.checkpoint import Checkpoint

        paths = Checkpoint(folder).files
        files = tuple((path.name, path.stat().st_size) for path in paths)
        damaged = ((path, wrong) for path in paths if (wrong := cut_off(path)))
        trouble = next((f"{path} is damaged or cut off: {wrong}; download it again" for path, wrong in damaged), "")
    except ModelError as error:
        trouble = str(error)
    except ImportError:
        trouble = "torch is not installed, so its files were not looked at: pip install 'kbqa[glm]'"
    choices: tuple[Bits, ...] = (16, 8, 4) if a.bits is None else (a.bits,)
    return ModelInfo(folder, a, files, trouble, tuple(_need(a, bits) for bits in choices))


def _need(a: Architecture, bits: Bits) -> Need:
    rows = a.layers * ((a.heads + 2 * a.groups) * a.head_dim + a.hidden + a.inner * (1 if a.is_v1 else 2) + a.hidden)
    qkv_and_out = a.hidden * (2 * a.heads + 2 * a.groups) * a.head_dim
    linears = a.layers * (qkv_and_out + a.hidden * a.inner * (2 if a.is_v1 else 3))
    outside = a.parameters - linears
    weights = 2 * outside + linears * bits // 8 + (2 * rows if bits < 16 else 0)
    if a.quantized_embeddings:
        weights -= a.vocabulary * a.hidden * (16 - bits) // 8
    token = 2 * a.layers * a.groups * a.head_dim * 2  # bytes
    return Need(bits, weights, a.context * token, min(a.context, SHORT) * token)


def this_machine() -> Machine:
    return Machine(_memory(), tuple(_gpus()))


def _memory() -> int:
    """Of the machine, or of the container where it has less."""
    found = [_cgroup_limit()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    elif os.name == "nt":
        kibibytes = ctypes.c_ulonglong()
        windll: Any = ctypes.windll  # type: ignore[attr-defined,unused-ignore]
        windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes))
        found.append(kibibytes.value * 1024)
    return min(filter(None, found), default=0)


def _cgroup_limit() -> int:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # "max": none
            continue
    return 0


def _gpus() -> Iterator[tuple[str, int]]:
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            yield about.name, about.total_memory
