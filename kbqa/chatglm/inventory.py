"""Which tensors a model must have, and of what shape: for those who pass a checkpoint on without loading it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kbqa.chatglm.architecture import Architecture
from kbqa.chatglm.decoder import Decoder
from kbqa.errors import ModelError

__all__ = ["Inventory"]


class Inventory:
    """Ticks tensors off, by our names; ModelError for one that does not belong to the model."""

    def __init__(self, folder: Path, a: Architecture) -> None:
        self._folder = folder
        with torch.device("meta"):
            self._wanted = {name: tuple(tensor.shape) for name, tensor in Decoder(a).state_dict().items()}
        self._seen = {"head.weight"} if a.is_v1 else set()  # which is the embedding, and may be left out

    def check(self, name: str, tensor: Tensor) -> None:
        wanted = self._wanted.get(name)
        if wanted is None:
            raise ModelError(
                f"{self._folder} holds weights of {name}, which the model that its config.json describes lacks"
            )
        if tuple(tensor.shape) != wanted:
            raise ModelError(
                f"{name} in {self._folder} is {tuple(tensor.shape)}, but config.json makes it {wanted}: weights and "
                "config.json are not of the same model"
            )
        self._seen.add(name)

    def finish(self) -> None:
        """ModelError when anything has not been seen."""
        if missing := [name for name in self._wanted if name not in self._seen]:
            raise ModelError(
                f"{self._folder} lacks the weights of {missing[0]} and {len(missing) - 1} more tensors of the model"
            )
