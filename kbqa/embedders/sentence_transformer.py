"""A local sentence-transformers model as an embedder. Nothing is ever downloaded and no remote code is run.

Texts are sorted by their number of tokens and batched by tokens, so that little of a batch is padding; equal texts
are embedded once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from kbqa.embedders.local import Dtype, find_model, loading, prepare_torch, stay_offline
from kbqa.embedders.vectors import unit_rows
from kbqa.embedders.weight import WEIGHT_FILE

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from kbqa.types import Vectors

__all__ = ["SentenceTransformerEmbedder", "instructions_for", "weights_digest"]

SETTING = "embedder"  # of config.yaml
BGE_ZH = "为这个句子生成表示以用于检索相关文章："  # as the model cards of BAAI/bge-*-zh and bge-*-zh-v1.5 have it
BGE_EN = "Represent this sentence for searching relevant passages: "
WHOLE = 1 << 20  # files up to this size are hashed whole
SAMPLES = 16  # of a larger file: so many pieces, evenly spread, head and tail among them
SAMPLE = 1 << 16
WEIGHTS = (".safetensors", ".bin", ".pt")
TEXTS = (".json", ".txt", ".model")


class SentenceTransformerEmbedder:
    """`model` is a folder, or a name that lies in the local Hugging Face cache.

    `query_instruction` and `passage_instruction` are put in front of the text. None means what the model itself
    declares, else what its family was trained with (`instructions_for`); "" means nothing. On a CPU, bfloat16 is
    about twice as fast as float32 where the processor has instructions for it. `max_length` is in tokens.
    Calls from several threads wait for each other: the tokenizer may not be shared.
    ConfigError when the folder, the device or the libraries are not there.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: Dtype = "float32",
        batch_size: int = 32,
        query_instruction: str | None = None,
        passage_instruction: str | None = None,
        max_length: int | None = None,
    ) -> None:
        stay_offline()
        folder = find_model(model, SETTING)
        self._model = _open(folder, device, dtype)
        if max_length is not None:
            self._model.max_seq_length = max_length
        query, passage = _instructions(self._model, folder, model)
        self._query = query if query_instruction is None else query_instruction
        self._passage = passage if passage_instruction is None else passage_instruction
        self._batch_size = batch_size
        self._lock = Lock()
        self.name = f"sentence-transformers:{folder.name if Path(model).is_dir() else model}"
        self.weight_file: Path | None = folder / WEIGHT_FILE
        self.dim = self._encode(["维"]).shape[1]
        settings = json.dumps([dtype, self._query, self._passage, self._model.max_seq_length], ensure_ascii=False)
        self.fingerprint = f"st-{sha256((weights_digest(folder) + settings).encode()).hexdigest()[:24]}"

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """(n, dim)"""
        place: dict[str, int] = {}
        for text in texts:
            place.setdefault(text, len(place))
        if not place:
            return np.zeros((0, self.dim), dtype=np.float32)
        distinct = [self._passage + text for text in place]
        vectors = np.empty((len(distinct), self.dim), dtype=np.float32)
        with self._lock:
            for batch in _batches(self._token_counts(distinct), self._batch_size):
                vectors[batch] = self._encode([distinct[at] for at in batch])
        return unit_rows(vectors[[place[text] for text in texts]])

    def embed_query(self, text: str) -> Vectors:
        """(dim,)"""
        with self._lock:
            vector: Vectors = unit_rows(self._encode([self._query + text]))[0]
        return vector

    def _encode(self, texts: list[str]) -> Vectors:
        rows = self._model.encode(texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False)
        values: Vectors = rows.float().cpu().numpy()
        return values

    def _token_counts(self, texts: list[str]) -> list[int]:
        """How long each text is for the model. Where it has no tokenizer of the usual kind, characters will do."""
        tokenizer: Any = self._model.tokenizer
        limit = self._model.max_seq_length
        if not callable(tokenizer):
            return [len(text) for text in texts]
        ids = tokenizer(texts, truncation=limit is not None, max_length=limit, add_special_tokens=True)["input_ids"]
        return [len(row) for row in ids]


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indexes of similar length together, the longest first, so that too little memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _open(folder: Path, device: str | None, dtype: str) -> SentenceTransformer:
    prepare_torch(device, SETTING)
    import torch
    from sentence_transformers import SentenceTransformer

    with loading(folder, SETTING):
        model = SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=False)
    return model.to(getattr(torch, dtype)).eval()


def _instructions(model: SentenceTransformer, folder: Path, name: str) -> tuple[str, str]:
    """What the model's own files declare for queries and passages, else what its family is known to want."""
    declared = {key: text for key, text in model.prompts.items() if text}
    if declared:
        return declared.get("query", ""), declared.get("passage", declared.get("document", ""))
    config = folder / "config.json"
    made_from = json.loads(config.read_text(encoding="utf-8")).get("_name_or_path", "") if config.is_file() else ""
    # Below the cache the folder is named after a commit: the name asked for comes first.
    return instructions_for(f"{Path(name).name} {made_from}")


def instructions_for(name: str) -> tuple[str, str]:
    """(query, passage) instructions of the BGE and E5 families by a model's name; others get none."""
    name = name.lower()
    if "bge-" in name and "m3" not in name and "reranker" not in name:
        return (BGE_ZH if "zh" in name else BGE_EN if "-en" in name else ""), ""
    if "e5-" in name and "instruct" not in name:
        return "query: ", "passage: "
    return "", ""


def weights_digest(folder: Path) -> str:
    """A digest of the model's files that costs milliseconds: large ones are sampled, and their size counts.

    Training on changes practically every weight, so that samples of each file tell; a file in which somebody edits
    single bytes by hand can slip through. Names, sizes and small files count whole; WEIGHT_FILE changes no vector.
    """
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix not in WEIGHTS + TEXTS or relative.parts[0] in ("onnx", "openvino", WEIGHT_FILE):
            continue
        if not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{relative.as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for sample in range(SAMPLES):
                file.seek((size - SAMPLE) * sample // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()
