"""Any LangChain `Embeddings` as an embedder.

Only the two methods embed_documents and embed_query are relied upon, so a class need not come from LangChain itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kbqa.embedders.vectors import unit_rows
from kbqa.errors import ConfigError, KbqaError
from kbqa.importing import make, one_line

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from kbqa.types import Vectors

__all__ = ["LangChainEmbedder"]

SECRETS = ("key", "token", "secret", "password")


class LangChainEmbedder:
    """`target` is the class by its import path, made with `options` as arguments, or an object that is ready to use.

    The fingerprint is made from the class, its options (keys and passwords left out) and the dimensions found by
    embedding one word; what changes behind them, a model on a server say, it cannot see.
    ConfigError when the class cannot be made, KbqaError when embedding fails.
    """

    weight_file: Path | None = None  # its model lies elsewhere

    def __init__(self, target: str | Embeddings, options: Mapping[str, Any] | None = None) -> None:
        options = dict(options or {})
        self._embeddings: Any = make("embedder", target, options) if isinstance(target, str) else target
        path = target if isinstance(target, str) else f"{type(target).__module__}.{type(target).__qualname__}"
        for method in ("embed_documents", "embed_query"):
            if not callable(getattr(self._embeddings, method, None)):
                raise ConfigError(f"{path} is no LangChain Embeddings: it has no method {method}")
        self.name = f"langchain:{path}"
        self.dim = len(self._call("embed_query", "维"))
        telling = {key: value for key, value in options.items() if not any(s in key.lower() for s in SECRETS)}
        given = json.dumps([path, telling, _model_name(self._embeddings), self.dim], sort_keys=True, default=repr)
        self.fingerprint = f"langchain-{sha256(given.encode()).hexdigest()[:24]}"

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """(n, dim)"""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return self._unit(self._call("embed_documents", list(texts)), len(texts))

    def embed_query(self, text: str) -> Vectors:
        """(dim,)"""
        vector: Vectors = self._unit([self._call("embed_query", text)], 1)[0]
        return vector

    def _call(self, method: str, argument: str | list[str]) -> Any:
        try:
            return getattr(self._embeddings, method)(argument)
        except Exception as error:  # each provider's library has exceptions of its own
            raise KbqaError(f"{self.name} failed in {method}: {one_line(error)}") from error

    def _unit(self, values: Any, count: int) -> Vectors:
        try:
            rows = np.array(values, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise KbqaError(f"{self.name} gave no rows of numbers of equal length: {one_line(error)}") from error
        if rows.shape != (count, self.dim):
            raise KbqaError(f"{self.name} gave an array {rows.shape} instead of {(count, self.dim)}")
        return unit_rows(rows)


def _model_name(embeddings: object) -> str:
    """Of an object that was handed over ready-made: most classes call it one of these."""
    names = (getattr(embeddings, attribute, None) for attribute in ("model_name", "model", "model_id"))
    return next((name for name in names if isinstance(name, str)), "")
