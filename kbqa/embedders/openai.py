"""Any server with an OpenAI-compatible `POST /embeddings`: vLLM, Xinference, Ollama, TEI, the cloud.

One request a batch, tried again when the server is busy or away.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kbqa.embedders.vectors import unit_rows
from kbqa.endpoint import Endpoint, NoReply
from kbqa.errors import ConfigError, KbqaError

if TYPE_CHECKING:
    from kbqa.types import Vectors

__all__ = ["OpenAIEmbedder"]

BUSY = {408, 409, 429, 500, 502, 503, 504}
LONGEST_PAUSE = 30.0


class OpenAIEmbedder:
    """`base_url` ends where `/embeddings` begins, e.g. http://gpu-box:8000/v1.

    The key is `api_key`, else what the environment variable `api_key_env` holds; without one, none is sent. `dim` is
    asked of the server unless given. A request waits `timeout` seconds and is tried `attempts` times, with a pause
    of `backoff` seconds that doubles each time (or what the server's Retry-After asks for, up to 30 s).
    ConfigError when the server says that address, key or model are wrong, KbqaError when it cannot be reached.
    """

    weight_file: Path | None = None  # its model lies elsewhere

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        dim: int | None = None,
        batch_size: int = 32,
        timeout: float = 60.0,
        attempts: int = 4,
        backoff: float = 0.5,
    ) -> None:
        key = api_key or os.environ.get(api_key_env)
        self._endpoint = Endpoint("embedder", base_url, "/embeddings", key=key, timeout=timeout)
        self._url = self._endpoint.url
        self._model = model
        self._batch_size = batch_size
        self._attempts = attempts
        self._backoff = backoff
        self.name = f"openai:{model}"
        self.dim = dim or self._embed(["维"]).shape[1]
        # What is behind a name on a server cannot be seen from here: the name and the dimensions must do.
        self.fingerprint = f"openai-{model}-{self.dim}"

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """(n, dim)"""
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), self._batch_size):
            batch = list(texts[start : start + self._batch_size])
            rows = self._embed(batch)
            if rows.shape[1] != self.dim:
                raise ConfigError(f"{self._url} gave vectors of {rows.shape[1]} dimensions instead of {self.dim}")
            vectors[start : start + len(batch)] = rows
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """(dim,)"""
        vector: Vectors = self.embed_passages([text])[0]
        return vector

    def _embed(self, texts: list[str]) -> Vectors:
        # Most servers refuse an empty input; a blank has as little to say.
        content = [text or " " for text in texts]
        answer = self._post({"model": self._model, "input": content, "encoding_format": "float"})
        try:
            items = sorted(answer["data"], key=lambda item: item["index"])
            rows = [_vector(item["embedding"]) for item in items]
            numbers = [item["index"] for item in items]
            if numbers != list(range(len(texts))):
                raise KbqaError(f"{self._url} gave {len(items)} vectors for {len(texts)} texts, or not one for each")
            return unit_rows(np.stack(rows))
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise KbqaError(f"{self._url} answered, but not as an embeddings endpoint does: {error!r}") from error

    def _post(self, body: dict[str, Any]) -> Any:
        for attempt in range(self._attempts):
            pause = self._backoff * 2**attempt
            try:
                with closing(self._endpoint.post(body)) as reply:
                    if reply.status == 200:
                        return json.loads(reply.read())
                    failed = f"{reply.status} {reply.complaint()}"
                    if reply.status not in BUSY:
                        raise ConfigError(f"{self._url} refused model {self._model}: {failed}")
                    pause = _retry_after(reply.header("Retry-After"), pause)
            except NoReply as error:
                failed = str(error)
            except ValueError as error:  # not JSON, or not UTF-8
                raise KbqaError(f"{self._url} answered, but not with JSON; is base_url right?") from error
            if attempt + 1 < self._attempts:
                time.sleep(min(pause, LONGEST_PAUSE))
        raise KbqaError(f"{self._url} cannot be used after {self._attempts} attempts: {failed}")


def _vector(embedding: str | list[float]) -> Vectors:
    """A list of numbers, or base64 of little-endian float32."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return np.array(embedding, dtype=np.float32)


def _retry_after(header: str | None, otherwise: float) -> float:
    """Seconds; the other form of the header, a date, is not worth reading."""
    return float(header) if header and header.isdecimal() else otherwise
