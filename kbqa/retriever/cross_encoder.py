"""A local cross-encoder as a reranker. Nothing is ever downloaded and no remote code is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from kbqa.embedders.local import Dtype, find_model, loading, prepare_torch, stay_offline
from kbqa.errors import ConfigError, KbqaError

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

__all__ = ["CrossEncoderReranker"]

SETTING = "retrieval.reranker"  # of config.yaml


class CrossEncoderReranker:
    """`model` is a folder, or a name that lies in the local Hugging Face cache.

    Its one logit goes through a sigmoid, whatever the model's files declare: they differ, and the order is the same.
    A pair that is too long for the model is cut. Calls from several threads wait for each other: the tokenizer may
    not be shared. ConfigError when the folder, the device or the libraries are not there, or when the folder holds a
    model of another kind.
    """

    def __init__(
        self, model: str, *, device: str | None = None, dtype: Dtype = "float32", batch_size: int = 32
    ) -> None:
        stay_offline()
        folder = find_model(model, SETTING)
        self._model = _open(folder, device, dtype)
        self._dtype = dtype
        self._batch_size = batch_size
        self._lock = Lock()
        self.name = f"cross-encoder:{folder.name if Path(model).is_dir() else model}"

    def score(self, question: str, passages: Sequence[str]) -> list[float]:
        """For each passage how well it answers, in [0, 1]; KbqaError when the model fails, for lack of memory say."""
        if not passages:
            return []
        pairs = [(question, passage) for passage in passages]
        try:
            with self._lock:
                scores = self._model.predict(pairs, batch_size=self._batch_size, show_progress_bar=False)
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
            raise KbqaError(f"{SETTING} ({self.name}) failed: {reason}; a smaller batch_size may help") from error
        if not np.isfinite(scores).all():
            raise KbqaError(
                f"{SETTING} ({self.name}) gives scores that are no numbers with dtype {self._dtype}; use float32"
            )
        return [float(score) for score in scores]


def _open(folder: Path, device: str | None, dtype: str) -> CrossEncoder:
    prepare_torch(device, SETTING)
    import torch
    from sentence_transformers import CrossEncoder

    _check_kind(folder)
    with loading(folder, SETTING):
        model: CrossEncoder = CrossEncoder(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            activation_fn=torch.nn.Sigmoid(),
        )
    if model.num_labels != 1:
        raise ConfigError(f"{SETTING}.model {folder} tells {model.num_labels} classes apart; a reranker has one score")
    model.to(getattr(torch, dtype)).eval()
    return model


def _check_kind(folder: Path) -> None:
    """Raises ConfigError for any other model: the library would give it a head of random weights and say nothing."""
    declared = _json(folder / "config_sentence_transformers.json").get("model_type")
    (architecture, *_) = _json(folder / "config.json").get("architectures") or [""]
    if declared == "CrossEncoder" or (declared is None and str(architecture).endswith("ForSequenceClassification")):
        return
    raise ConfigError(
        f"{SETTING}.model {folder} is no cross-encoder but {_article(declared or architecture or 'something else')}; "
        "name a folder like bge-reranker-base"
    )


def _article(kind: str) -> str:
    return kind if " " in kind else f"a {kind}"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON; put the model's files there again") from error
    return content if isinstance(content, dict) else {}
