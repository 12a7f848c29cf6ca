"""P-Tuning v2: keys and values in front of everything are learnt, the model stays as it is.

The prefix is float32, whatever the model is in, and is saved with the names and in the layout of the original
trainers. While it is learnt some of it is left out at random, as there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from kbqa.chatglm.architecture import Architecture, read_json
from kbqa.chatglm.checkpoint import Checkpoint
from kbqa.chatglm.decoder import Decoder
from kbqa.chatglm.prefix import MARK, Before, as_keys
from kbqa.chatglm.writing import write_json
from kbqa.errors import TuningError
from kbqa.tuning.batch import loss_of

__all__ = ["DROPOUT", "PrefixEncoder", "PrefixTuning"]

DROPOUT = 0.1
NAME = f"transformer.{MARK}"


class PrefixEncoder(nn.Module):
    """`tokens` keys and values of all layers, each learnt by itself, or through two layers that all of them share."""

    def __init__(self, architecture: Architecture, tokens: int, projection: bool) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.tokens, self.projection = tokens, projection
        width = 2 * a.layers * a.groups * a.head_dim
        between = a.hidden if a.is_v1 else width  # of what the two layers are given
        self.embedding = nn.Embedding(tokens, between if projection else width)
        if projection:
            self.trans = nn.Sequential(nn.Linear(between, a.hidden), nn.Tanh(), nn.Linear(a.hidden, width))

    def forward(self) -> Tensor:
        """(layers, 2, G, tokens, D) float32."""
        rows = self.embedding.weight
        return as_keys(self.trans(rows) if self.projection else rows, self.architecture)


class PrefixTuning(nn.Module):
    """A frozen decoder and the prefix that is learnt in front of it."""

    is_parallelizable = model_parallel = True  # for the Trainer: one GPU, and no copies on others
    method = "p-tuning"

    def __init__(self, decoder: Decoder, tokens: int, projection: bool, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.decoder = decoder.requires_grad_(False)
        self.prefix = PrefixEncoder(decoder.architecture, tokens, projection).to(decoder.device)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, labels: Tensor, positions: Tensor, contexts: Tensor) -> dict[str, Tensor]:
        keys = Before(self.dropout(self.prefix().to(self.decoder.dtype)))
        loss = loss_of(self.decoder, keys, self.prefix.tokens, input_ids, labels, positions, contexts)
        return {"loss": loss}

    def tensors(self) -> dict[str, Tensor]:
        """What is learnt, under the names of the original."""
        return {NAME + name: tensor.detach().cpu().contiguous() for name, tensor in self.prefix.state_dict().items()}

    def save(self, folder: Path, base: Path) -> None:
        """`pytorch_model.bin` and `config.json`, as the original trainers leave them."""
        torch.save(self.tensors(), folder / "pytorch_model.bin")
        its = {"pre_seq_len": self.prefix.tokens, "prefix_projection": self.prefix.projection}
        write_json(folder / "config.json", read_json(base / "config.json") | its)

    def load(self, folder: Path) -> None:
        """Goes on from a checkpoint. TuningError when it is one of another shape."""
        found = {name.split(MARK, 1)[1]: tensor for name, tensor in Checkpoint(folder) if MARK in name}
        try:
            self.prefix.load_state_dict(found)
        except RuntimeError as error:
            raise TuningError(
                f"the prefix in {folder} is not of {self.prefix.tokens} tokens with prefix_projection "
                f"{str(self.prefix.projection).lower()}, of this model: {str(error).splitlines()[-1].strip()}"
            ) from error
