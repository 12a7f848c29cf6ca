"""Logits to the next token.

The order is the field's: repetition penalty, temperature, top_k, top_p, then a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kbqa.errors import GeneratorError, ModelError

__all__ = ["Chooser", "Rules", "Sampling"]

COLD = 1e-5  # a lower temperature is as good as 0, and logits divided by it could leave the range of float32
HEAD = 1024  # best tokens that hold the nucleus nearly always, so that the whole vocabulary need not be sorted


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 is greedy; top_k 0, top_p 1 and repetition_penalty 1 leave all as it is. ModelError otherwise."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        allowed = {
            "temperature": (0 <= self.temperature <= 100, "from 0 (greedy) to 100"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (isinstance(self.top_k, int) and self.top_k >= 0, "0 (off), or a whole number above 0"),
            "seed": (self.seed is None or isinstance(self.seed, int), "a whole number"),
            "repetition_penalty": (0 < self.repetition_penalty <= 10, "above 0 and at most 10; 1 is off"),
        }
        for name, (good, range_) in allowed.items():
            if not good:
                raise ModelError(f"{name} is {getattr(self, name)}; it must be {range_}")


class Rules(Protocol):
    """What may be said next; told of everything that is said."""

    def masked(self, logits: Tensor) -> Tensor: ...

    def accept(self, token: int) -> None: ...


class Chooser:
    """Chooses for one sequence. `seen` are the ids that the repetition penalty holds against their repetition."""

    def __init__(
        self,
        sampling: Sampling,
        seen: Sequence[int] = (),
        device: torch.device | str = "cpu",
        rules: Rules | None = None,
    ) -> None:
        self.sampling = sampling
        self._rules = rules
        self._seen = set(seen) if sampling.repetition_penalty != 1 else set()
        self._random = torch.Generator(device=device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % 2**63)

    def choose(self, logits: Tensor) -> int:
        """The id that follows, from (vocabulary,) logits. GeneratorError when they are not numbers."""
        sampling = self.sampling
        if not bool(torch.isfinite(logits).all()):
            raise GeneratorError(
                f"the model's {str(logits.dtype).removeprefix('torch.')} logits are not finite: its weights are "
                "damaged, or its numbers left the range of that type (try dtype bfloat16 or float32)"
            )
        logits = logits.float()
        if self._seen:
            ids = torch.tensor(sorted(self._seen), device=logits.device)
            held = logits[ids]
            penalty = sampling.repetition_penalty
            logits = logits.index_copy(0, ids, torch.where(held > 0, held / penalty, held * penalty))
        if self._rules:
            logits = self._rules.masked(logits)
        chosen = int(logits.argmax()) if sampling.temperature < COLD else self._draw(logits / sampling.temperature)
        if self._rules:
            self._rules.accept(chosen)
        if sampling.repetition_penalty != 1:
            self._seen.add(chosen)
        return chosen

    def _draw(self, logits: Tensor) -> int:
        """From the tokens that top_k and top_p leave; the most likely one always stays."""
        sampling = self.sampling
        probabilities = logits.softmax(-1)
        head = min(sampling.top_k or HEAD, len(probabilities))
        best, ids = probabilities.topk(head)
        if not sampling.top_k and sampling.top_p < 1 and float(best.sum()) < sampling.top_p:
            best, ids = probabilities.sort(descending=True)
        elif not sampling.top_k and sampling.top_p == 1:
            best, ids = probabilities, torch.arange(len(probabilities), device=logits.device)
        if sampling.top_p < 1:
            if sampling.top_k:
                best = best / best.sum()
            before = best.cumsum(-1) - best
            best = best.where(before < sampling.top_p, 0.0)
        return int(ids[torch.multinomial(best, 1, generator=self._random)])
