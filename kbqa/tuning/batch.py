"""Examples to the tensors of a batch, and the loss that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kbqa.chatglm.architecture import Architecture
from kbqa.chatglm.decoder import Decoder, Keys
from kbqa.chatglm.places import context_length, positions, visible
from kbqa.tuning.preprocess import NOT_COUNTED, Example

__all__ = ["Batch", "collate", "loss_of"]

Batch = Mapping[str, Tensor]


def collate(examples: Sequence[Example], a: Architecture) -> dict[str, Tensor]:
    """Rows filled up on the right to the longest: what stands there is seen by nothing that counts."""
    tokens = max(len(it.ids) for it in examples)
    ids = torch.full((len(examples), tokens), a.pad)
    labels = torch.full_like(ids, NOT_COUNTED)
    placed = torch.zeros(len(examples), 2 if a.is_v1 else 1, tokens, dtype=torch.long)
    for row, it in enumerate(examples):
        count = len(it.ids)
        ids[row, :count], labels[row, :count] = torch.tensor(it.ids), torch.tensor(it.labels)
        placed[row, :, :count] = positions(a, it.ids)
    contexts = torch.tensor([context_length(a, it.ids) for it in examples])
    return {"input_ids": ids, "labels": labels, "positions": placed, "contexts": contexts}


def loss_of(
    decoder: Decoder,
    keys: Keys,
    before: int,
    input_ids: Tensor,
    labels: Tensor,
    positions: Tensor,
    contexts: Tensor,
) -> Tensor:
    """The mean surprise at a token that is to be learnt, behind a prefix of `before` tokens that `keys` brings."""
    rows, tokens = input_ids.shape
    starts = torch.full((rows,), before, device=input_ids.device)
    seen = visible(starts, tokens, before + tokens, before + contexts)
    logits = decoder(input_ids, positions, keys, seen)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=NOT_COUNTED)
