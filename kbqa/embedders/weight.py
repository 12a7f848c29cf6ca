"""What an embedder's cosines count beside BM25: a number of its own, learned on questions whose answers are known.

It lies in kbqa.json beside the embedder's model, where it has one: `{"dense_weight": 0.3, ...}`. The file is no part
of the embedder's fingerprint, because no vector depends on it. `kbqa eval fusion --save` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kbqa.errors import ConfigError
from kbqa.types import Embedder

__all__ = ["DEFAULT_WEIGHT", "WEIGHT_FILE", "own_weight", "save_weight"]

WEIGHT_FILE = "kbqa.json"
DEFAULT_WEIGHT = 0.2  # where nobody has learned one: little enough that a weak embedder does no harm


def own_weight(embedder: Embedder) -> float:
    """In [0, 1]; DEFAULT_WEIGHT where none is stored. ConfigError for a file that holds something else."""
    path = embedder.weight_file
    if path is None or not path.is_file():
        return DEFAULT_WEIGHT
    try:
        weight = json.loads(path.read_text(encoding="utf-8"))["dense_weight"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{path} does not hold {{"dense_weight": NUMBER}}; correct or delete it') from error
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ConfigError(f"dense_weight in {path} is {weight!r}; it must be a number between 0 and 1")
    return float(weight)


def save_weight(path: Path, weight: float, learned_on: Sequence[Any]) -> None:
    """`learned_on` tells a reader where the number comes from. What else the file holds stays."""
    try:
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        content = json.dumps({**held, "dense_weight": weight, "learned_on": learned_on}, ensure_ascii=False, indent=2)
        path.write_text(content + "\n", encoding="utf-8")
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a JSON object; delete it") from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}); set retrieval.dense_weight: {weight:g} in config.yaml"
        ) from error
