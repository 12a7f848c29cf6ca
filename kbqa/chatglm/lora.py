"""LoRA adapters in the layout of peft: a small product added to what some linear layers give.

A folder holds `adapter_config.json` and `adapter_model.safetensors` (or .bin), with the names of the published model,
or of its conversion for transformers; ours are saved so, and those of other trainers can be loaded.

Any number of them can be loaded beside a model. Which one counts is said for each step (`applied`), in the thread that
makes it, so that sequences with different ones, and with none, can take turns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from kbqa.chatglm.architecture import Architecture, read_json
from kbqa.chatglm.checkpoint import HF_QKV, by_head, by_kind, place_of, published_names, tensors_of
from kbqa.chatglm.decoder import Decoder
from kbqa.errors import ModelError

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "Lora",
    "adapt",
    "applied",
    "is_lora",
    "load_lora",
    "lora_pairs",
    "lora_tensors",
]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
# What would change the sum, and is not done here; each with the value that asks for nothing.
_UNKNOWN: Mapping[str, Any] = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "lora_bias": False,
}


@dataclass(frozen=True, slots=True)
class Lora:
    """For each of our modules (rank, in) and (out, rank), the scale already in the latter. Float32."""

    parts: Mapping[str, tuple[Tensor, Tensor]]

    def to(self, device: torch.device | str) -> Lora:
        return Lora({name: (down.to(device), up.to(device)) for name, (down, up) in self.parts.items()})


_applied: ContextVar[Lora | None] = ContextVar("lora", default=None)


@contextmanager
def applied(lora: Lora | None) -> Iterator[None]:
    """What a decoder that was made ready by `adapt` computes in here, it computes with this adapter."""
    token = _applied.set(lora)
    try:
        yield
    finally:
        _applied.reset(token)


def adapt(decoder: Decoder) -> None:
    """Makes the decoder's blocks heed `applied`. To be called once, before the first adapter is used."""
    for name, module in decoder.blocks.named_modules(prefix="blocks"):
        if name.rpartition(".")[2] in ("qkv", "out", "up", "down"):
            module.register_forward_hook(partial(_add, name))


def _add(name: str, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
    lora = _applied.get()
    if lora is None or name not in lora.parts:
        return None
    down, up = lora.parts[name]
    return out + F.linear(F.linear(given[0].float(), down), up).to(out.dtype)


def is_lora(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def load_lora(folder: Path, a: Architecture) -> Lora:
    """ModelError when the adapter is of another model, or of a kind that is not known."""
    scale = _scale(folder, read_json(folder / ADAPTER_CONFIG))
    return Lora({name: (down, up * scale) for name, (down, up) in lora_pairs(folder, a).items()})


def lora_pairs(folder: Path, a: Architecture) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of our modules as an adapter's file has them, without the scale. Float32."""
    found: dict[tuple[str, int | None], dict[str, Tensor]] = {}
    for name, tensor in tensors_of(_weights(folder)):
        if (match := _TENSOR.fullmatch(name)) is None:
            raise ModelError(f"{folder} holds a tensor {name}, which is none of a LoRA adapter")
        try:
            place = place_of(f"{match[1]}.weight")
        except KeyError:
            place = None
        if place is None or not place.name.startswith("blocks."):
            raise ModelError(f"{folder} changes {match[1]}, which no linear layer of a model of {a.family} is called")
        ours = place.name.removesuffix(".weight")
        found.setdefault((ours, place.part), {})[match[2]] = tensor.float()
    if not found:
        raise ModelError(f"{folder} holds no LoRA adapter: its file of weights is empty")
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for (name, part), halves in found.items():
        if halves.keys() != {"A", "B"}:
            raise ModelError(f"{folder} lacks one half of the adapter of {name}")
        down, up = halves["A"], halves["B"]
        if part is not None:
            down, up = _among_others(a, part, down, up, pairs.get(name))
        elif a.is_v1 and name.endswith(".qkv") and up.shape[0] == _shape(a, name)[0]:
            up = by_kind(up, a)
        pairs[name] = down, up
    for name, (down, up) in pairs.items():
        wanted = _shape(a, name)
        if (up.shape[0], down.shape[1]) != wanted or up.shape[1] != down.shape[0]:
            raise ModelError(
                f"the adapter in {folder} makes {name} {(up.shape[0], down.shape[1])}; this model ({a.family}, "
                f"{a.layers} layers) has {wanted}: it was trained for another model"
            )
    return pairs


def _weights(folder: Path) -> Path:
    for name in (ADAPTER_WEIGHTS, "adapter_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder} has no {ADAPTER_WEIGHTS}: it is no LoRA adapter, or its download is incomplete")


def _scale(folder: Path, config: Mapping[str, Any]) -> float:
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder} holds an adapter of the kind {config.get('peft_type')!r}; only LORA is supported")
    for name, value in _UNKNOWN.items():
        if config.get(name) not in (value, None):
            raise ModelError(f"{folder / ADAPTER_CONFIG}: {name} is {config[name]!r}; only {value!r} is supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise ModelError(f"{folder / ADAPTER_CONFIG} does not say r and lora_alpha")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _among_others(
    a: Architecture, part: int, down: Tensor, up: Tensor, before: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The adapter of one of q, k and v, as one of all three, beside those that were there `before`."""
    sizes = [a.heads * a.head_dim, a.groups * a.head_dim, a.groups * a.head_dim]
    if up.shape[0] != sizes[part]:
        raise ModelError(f"an adapter of {HF_QKV[part]} has {up.shape[0]} rows; this model has {sizes[part]}")
    wide = up.new_zeros(sum(sizes), up.shape[1])
    wide[sum(sizes[:part]) : sum(sizes[: part + 1])] = up
    if before is None:
        return down, wide
    return torch.cat([before[0], down]), torch.cat([before[1], wide], dim=1)


def _shape(a: Architecture, name: str) -> tuple[int, int]:
    """(out, in) of a linear layer; (0, 0) where the model has no such block."""
    _, block, kind = name.split(".", 2)
    if int(block) >= a.layers:
        return 0, 0
    inside = a.heads * a.head_dim
    return {
        "attention.qkv": ((a.heads + 2 * a.groups) * a.head_dim, a.hidden),
        "attention.out": (a.hidden, inside),
        "up": (a.inner if a.is_v1 else 2 * a.inner, a.hidden),
        "down": (a.hidden, a.inner),
    }[kind]


def lora_tensors(a: Architecture, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The file of an adapter, under the published names; `pairs` are A and B of our modules, without the scale."""
    names = published_names(a)
    tensors = {}
    for name, (down, up) in pairs.items():
        if a.is_v1 and name.endswith(".qkv"):
            up = by_head(up, a)
        tensors[f"base_model.model.{names[name]}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{names[name]}.lora_B.weight"] = up.contiguous()
    return tensors
