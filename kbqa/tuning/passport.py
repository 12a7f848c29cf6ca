"""What a checkpoint says about itself, so that it is served with the model, and the prompts, it was made for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kbqa import __version__
from kbqa.chatglm.architecture import Architecture
from kbqa.chatglm.messages import WITH_ROLES
from kbqa.chatglm.passport import Passport, fingerprint
from kbqa.tuning.data import Row
from kbqa.tuning.settings import Settings

__all__ = ["issue"]

LIBRARIES = ("torch", "transformers", "accelerate", "peft")


def issue(settings: Settings, base: Path, a: Architecture, dtype: str, rows: Sequence[Row], template: str) -> Passport:
    """That of a run; what changes from checkpoint to checkpoint is added to it. `template` is config.yaml's."""
    prefix = settings.method == "p-tuning"
    return Passport(
        method=settings.method,
        base=base.name,
        fingerprint=fingerprint(base),
        family=a.family,
        train_format=settings.train_format if a.family in WITH_ROLES else "",
        template=template if _has_passages(rows, template) else "",
        pre_seq_len=settings.pre_seq_len if prefix else None,
        prefix_projection=settings.prefix_projection if prefix else None,
        lora_rank=None if prefix else settings.lora_rank,
        quantization_bit=a.bits or settings.quantization_bit or None,
        dtype=dtype,
        rows=len(rows),
        data=_digest(rows),
        versions={"kbqa": __version__} | {name: found for name in LIBRARIES if (found := _version(name))},
    )


def _has_passages(rows: Sequence[Row], template: str) -> bool:
    """Whether some prompts were filled from the template with passages."""
    head, _, rest = template.partition("{context}")
    middle = rest.partition("{question}")[0]
    return any(row.prompt.startswith(head) and middle in row.prompt for row in rows)


def _digest(rows: Sequence[Row]) -> str:
    digest = sha256()
    for row in rows:
        digest.update(json.dumps(asdict(row), ensure_ascii=False).encode(errors="replace") + b"\n")
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
