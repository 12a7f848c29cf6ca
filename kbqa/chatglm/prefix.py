"""P-Tuning v2 prefixes as the original trainers save them: learned keys and values in front of everything.

A folder holds `pytorch_model.bin` with `transformer.prefix_encoder.embedding.weight`, and with a projection the two
linear layers of `trans` between which tanh stands. Other tensors in the file are ignored, as the originals do.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kbqa.chatglm.architecture import Architecture
from kbqa.chatglm.checkpoint import Checkpoint
from kbqa.errors import ModelError

__all__ = ["Before", "as_keys", "load_prefix"]

MARK = "prefix_encoder."


class Before:
    """A prefix in front of each row, nothing is kept: for whole sequences. `prefix` is (layers, 2, G, tokens, D)."""

    def __init__(self, prefix: Tensor) -> None:
        self.prefix = prefix

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        first = self.prefix[layer].to(keys.dtype)
        rows = len(keys)
        return (
            torch.cat([first[0].expand(rows, -1, -1, -1), keys], dim=2),
            torch.cat([first[1].expand(rows, -1, -1, -1), values], dim=2),
        )


def load_prefix(folder: Path, a: Architecture) -> Tensor:
    """(layers, 2, G, tokens, D) float32. ModelError when there is none, or one of a model of another shape."""
    tensors = {
        name.split(MARK, 1)[1]: tensor.float() for name, tensor in Checkpoint(folder) if f".{MARK}" in f".{name}"
    }
    embedding = tensors.get("embedding.weight")
    if embedding is None:
        raise ModelError(f"{folder} holds no P-Tuning prefix (transformer.prefix_encoder.embedding.weight)")
    rows = embedding
    if "trans.0.weight" in tensors:
        try:
            w0, b0, w2, b2 = (tensors[f"trans.{it}"] for it in ("0.weight", "0.bias", "2.weight", "2.bias"))
            rows = torch.tanh(embedding @ w0.T + b0) @ w2.T + b2
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"the projection of the prefix in {folder} is incomplete: {error}") from error
    wanted = 2 * a.layers * a.groups * a.head_dim
    if rows.ndim != 2 or rows.shape[1] != wanted:
        raise ModelError(
            f"the prefix in {folder} is {tuple(rows.shape)}; this model ({a.family}, {a.layers} layers) takes rows of "
            f"{wanted}: it was trained for another model"
        )
    return as_keys(rows, a)


def as_keys(rows: Tensor, a: Architecture) -> Tensor:
    """(tokens, 2 * layers * G * D), what a prefix encoder gives, to (layers, 2, G, tokens, D)."""
    return rows.unflatten(1, (a.layers, 2, a.groups, a.head_dim)).permute(1, 2, 3, 0, 4)
