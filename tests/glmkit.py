"""The reference vectors of the ChatGLM family, where they are: KBQA_TESTDATA/golden."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

torch.set_num_threads(1)  # several wait for each other far longer than models as small as these compute

GOLDEN = Path(os.environ.get("KBQA_TESTDATA", "")) / "golden" if os.environ.get("KBQA_TESTDATA") else None


@dataclass(frozen=True)
class Case:
    """One recorded model: `family` is the reference's name (v1, v2, v3, glm4), `kind` base, int8, ptuning, ..."""

    family: str
    kind: str

    def __str__(self) -> str:
        return f"{self.family}-{self.kind}"

    @property
    def folder(self) -> Path:
        assert GOLDEN is not None
        return GOLDEN / self.family / self.kind

    @property
    def base(self) -> Path:
        """The model itself: a P-Tuning checkpoint holds only its prefix."""
        return self.folder.parent / "base" if self.tuned else self.folder

    @property
    def tuned(self) -> bool:
        return "ptuning" in self.kind

    @property
    def _stem(self) -> Path:
        return self.folder.parent / ("golden" if self.kind == "base" else f"{self.kind}.golden")

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(f"{self._stem}.safetensors")

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads(Path(f"{self._stem}.json").read_text(encoding="utf-8"))

    @property
    def tolerance(self) -> float:
        """Absolute: what the reference's own description suggests."""
        return 5e-4 if self.family == "v1" else 1e-4

    def real_tokens(self, name: str, pad: int) -> torch.Tensor:
        """(B, T) bool: which ids of a left-padded batch are no padding."""
        mask = self.tensors.get(f"{name}.attention_mask")
        if mask is not None and mask.ndim == 2:
            return mask.bool()
        return self.tensors[f"{name}.input_ids"] != pad


def cases(*wanted: str) -> Iterator[Case]:
    """All recorded models, or those of the kinds `wanted`; none where the reference is absent."""
    if GOLDEN is None or not GOLDEN.is_dir():
        return
    for config in sorted(GOLDEN.glob("*/*/config.json")):
        case = Case(config.parent.parent.name, config.parent.name)
        if not wanted or case.kind in wanted:
            yield case
