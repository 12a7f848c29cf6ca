"""Sequences in the slots of one cache: read a prompt, then write token by token, one sequence or many at once.

Knows nothing about text, threads or who waits for what.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kbqa.chatglm.cache import Cache, Rows
from kbqa.chatglm.decoder import Decoder
from kbqa.chatglm.graphs import Steps
from kbqa.chatglm.lora import Lora, applied
from kbqa.chatglm.places import context_length, following, positions, visible
from kbqa.errors import ModelError

__all__ = ["CHUNK", "Runner", "Sequence"]

CHUNK = 512  # tokens of a prompt that are read in one go


@dataclass(slots=True)
class Sequence:
    """What goes on in one slot. `filled` counts the columns of the cache that are taken, the prefix's included."""

    slot: int
    ids: list[int]  # the prompt
    placed: Tensor  # (P, T): its positions
    context: int  # first columns that all of it sees: the prefix, and in ChatGLM-6B the context
    filled: int = 0
    prefix: int = 0
    lora: Lora | None = None
    written: list[int] = field(default_factory=list)

    @property
    def unread(self) -> int:
        """Tokens of the prompt that have not been read yet."""
        return max(self.prefix + len(self.ids) - self.filled, 0)

    @property
    def touched(self) -> int:
        """First columns of the cache in which anything of it can stand, also when a step broke off."""
        return self.prefix + len(self.ids) + len(self.written) + 1


class Runner:
    """A decoder and a cache with `slots` places. One call at a time.

    With `graphs`, a CUDA GPU replays steps of writing instead of having each kernel of them started.
    """

    def __init__(self, decoder: Decoder, slots: int, capacity: int, graphs: bool = False) -> None:
        self.decoder = decoder
        self.device = decoder.device
        self.cache = Cache(decoder.architecture, slots, capacity, decoder.dtype, self.device)
        self._steps = Steps(decoder, self.cache) if graphs else None

    def begin(
        self, slot: int, ids: Many[int], prefix: Tensor | None = None, lora: Lora | None = None, known: int = 0
    ) -> Sequence:
        """Takes the slot for a prompt, behind a P-Tuning prefix (layers, 2, G, tokens, D). Nothing is read yet.

        What is read and written there is computed with `lora`, for which the decoder must have been made ready. The
        `known` first tokens, not all, were read before, with both: they and the prefix stand in the slot.

        ModelError when the prompt is empty, holds ids that the model does not have, or does not fit.
        """
        a = self.decoder.architecture
        ids = check_ids(ids, a.vocabulary)
        length = 0 if prefix is None else prefix.shape[3]
        if length + len(ids) > self.cache.capacity:
            raise ModelError(f"the prompt has {len(ids)} tokens; {self.cache.capacity - length} are left for it")
        placed = positions(a, ids)
        if prefix is not None and not known:
            self.cache.seed(slot, prefix)
        context = length + context_length(a, ids)
        return Sequence(slot, ids, placed, context, filled=length + known, prefix=length, lora=lora)

    @torch.inference_mode()
    def read(self, sequence: Sequence, most: int = CHUNK, check: Callable[[], None] | None = None) -> Tensor | None:
        """Reads up to `most` tokens of the prompt; (vocabulary,) logits of what follows once it is read to the end.

        ChatGLM-6B's prompts are read whole: what stands first sees what comes later. What `check` raises, which is
        called in each layer, ends the reading there; the sequence is then as if these tokens had not been read.
        """
        whole = self.decoder.architecture.is_v1
        begin = sequence.filled - sequence.prefix
        end = len(sequence.ids) if whole else min(begin + most, len(sequence.ids))
        ids = torch.tensor([sequence.ids[begin:end]], device=self.device)
        placed = sequence.placed[None, :, begin:end].to(self.device)
        start = torch.tensor([sequence.filled], device=self.device)
        width = sequence.filled + end - begin
        seen = visible(start, end - begin, width, torch.tensor([sequence.context], device=self.device))
        rows = Rows(self.cache, sequence.slot, start, width, start=sequence.filled, check=check)
        last = torch.tensor([end - begin - 1], device=self.device)
        with applied(sequence.lora):
            logits = self.decoder(ids, placed, rows, seen, last=last)
        sequence.filled = width
        return logits[0, 0] if end == len(sequence.ids) else None

    @torch.inference_mode()
    def write(self, sequences: Many[Sequence], tokens: Many[int]) -> Tensor:
        """Gives each sequence its next token; (len(sequences), vocabulary) logits of what follows.

        All slots between the first and the last of them are computed, so keep them close together. A slot between that
        is not named gets a dummy in the last column of the cache, so its own sequence must not have come that far.
        Those with one adapter are computed together, one adapter after the other.
        """
        logits: dict[int, Tensor] = {}
        for adapter in dict.fromkeys(id(sequence.lora) for sequence in sequences):
            its = [at for at, sequence in enumerate(sequences) if id(sequence.lora) == adapter]
            written = self._written([sequences[at] for at in its], [tokens[at] for at in its])
            logits |= zip(its, written, strict=True)
        for sequence, token in zip(sequences, tokens, strict=True):  # not before all of it has gone well
            sequence.filled += 1
            sequence.written.append(token)
        return torch.stack([logits[at] for at in range(len(sequences))])

    def _written(self, sequences: Many[Sequence], tokens: Many[int]) -> Tensor:
        """The logits, for sequences with one adapter or none."""
        steps = None if sequences[0].lora else self._steps
        first = 0 if steps else min(sequence.slot for sequence in sequences)
        count = max(sequence.slot for sequence in sequences) - first + 1
        a = self.decoder.architecture
        ids, starts = [0] * count, [self.cache.capacity - 1] * count
        placed = torch.zeros(count, len(sequences[0].placed), 1, dtype=torch.long)
        for sequence, token in zip(sequences, tokens, strict=True):
            if sequence.filled >= self.cache.capacity:
                raise ModelError(f"the sequence is full: the cache holds {self.cache.capacity} tokens")
            row = sequence.slot - first
            ids[row], starts[row] = token, sequence.filled
            placed[row, :, 0] = following(a, sequence.placed, len(sequence.written))
        width = max(sequence.filled for sequence in sequences) + 1
        if steps:
            logits = steps(ids, starts, placed, width)
        else:
            at = torch.tensor(starts, device=self.device)
            seen = None
            if count > 1:
                seen = (torch.arange(width, device=self.device) <= at[:, None])[:, None, None]
            rows = Rows(self.cache, first, at, width, start=starts[0])
            given = torch.tensor(ids, device=self.device)[:, None]
            with applied(sequences[0].lora):
                logits = self.decoder(given, placed.to(self.device), rows, seen)[:, 0]
        return logits[torch.tensor([sequence.slot - first for sequence in sequences], device=self.device)]


def check_ids(ids: Many[int], vocabulary: int) -> list[int]:
    """ModelError for none at all, or one that the model has no row for."""
    checked = [int(it) for it in ids]
    if not checked:
        raise ModelError("the prompt is empty")
    if wrong := [it for it in checked if not 0 <= it < vocabulary]:
        raise ModelError(f"the model has no token {wrong[0]}; its ids go from 0 to {vocabulary - 1}")
    return checked
