"""Dense search: the chunks whose vectors have the largest cosine with a question's.

One contract (`VectorIndex`), two kinds. `ExactVectors` holds float32 in memory and compares with every one: the newest
chunks, which no file holds yet, and the oracle in the tests. `FaissVectors` is a sealed segment in one file: 8-bit
scalar quantization below `fast_scan` vectors, above it 4-bit product quantization (`PQ(d/4)x4fs`) whose best
candidates are scored again with 8 bits. Neither is ever changed; a chunk removed later is filtered out by the caller
(`search_live`), because FAISS cannot remove from an index that refines.

Files are read with `faiss.read_index`, never unpickled, and memory-mapped, so that several processes share them. FAISS
trusts what it reads: check the file's checksum before (`kbqa.store.files.check`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kbqa.store.errors import DamagedIndex, probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kbqa.types import Vectors

__all__ = ["ExactVectors", "FaissVectors", "Scored", "VectorIndex", "search_live"]

Scored = list[tuple[int, float]]  # chunk id and score, best first

_LEAST = 32  # hits asked of FAISS even when fewer are wanted: more candidates for the second look
_CANDIDATES = 8  # scored again with 8 bits, for each one wanted: recall@10 0.97 instead of 0.48 on 100k x 512


class VectorIndex(Protocol):
    """An unchanging set of vectors, each with the id of its chunk."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """Rising."""
        ...

    def __len__(self) -> int: ...

    def search(self, vector: Vectors, k: int) -> Scored:
        """The `k` with the largest inner product with `vector` (dim,); all when there are fewer."""
        ...


def search_live(search: Callable[[int], Scored], size: int, k: int, dead: Collection[int]) -> Scored:
    """The `k` best that are not `dead`; fewer only when the index, of `size` entries, holds fewer.

    `search` gives the best so many. It is asked for more and more until enough of them live.
    """
    asked = min(size, 2 * k if dead else k)
    while asked > 0:
        found = search(asked)
        live = [hit for hit in found if hit[0] not in dead] if dead else found
        if len(live) >= k or asked == size or len(found) < asked:
            return live[:k]
        asked = min(size, 4 * asked)
    return []


class ExactVectors:
    """Every vector compared, in float32. `grown` shares what is there and so costs only what is new."""

    def __init__(self, dim: int, blocks: Sequence[tuple[NDArray[np.int64], Vectors]] = ()) -> None:
        self.dim = dim
        self._blocks = tuple(blocks)

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.concatenate([ids for ids, _ in self._blocks] or [np.empty(0, dtype=np.int64)])

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self._blocks)

    def grown(self, ids: NDArray[np.int64], vectors: Vectors) -> ExactVectors:
        """Also holds `vectors` (n, dim), whose ids are higher than all before."""
        blocks = [*self._blocks, (ids, vectors)] if len(ids) else list(self._blocks)
        while len(blocks) > 1 and len(blocks[-2][0]) <= 2 * len(blocks[-1][0]):  # few blocks, each copied rarely
            (ids, vectors), (more_ids, more) = blocks[-2:]
            blocks[-2:] = [(np.concatenate([ids, more_ids]), np.concatenate([vectors, more]))]
        return ExactVectors(self.dim, blocks)

    def after(self, chunk_id: int) -> ExactVectors:
        """Only what has a higher id."""
        kept = [(ids, vectors, int(np.searchsorted(ids, chunk_id, side="right"))) for ids, vectors in self._blocks]
        return ExactVectors(self.dim, [(ids[at:], vectors[at:]) for ids, vectors, at in kept if at < len(ids)])

    def of(self, ids: Sequence[int]) -> dict[int, Vectors]:
        """The vectors (dim,) of those that are here."""
        wanted = np.array(ids, dtype=np.int64)
        found: dict[int, Vectors] = {}
        for block, vectors in self._blocks:
            if not len(block):
                continue
            at = np.minimum(np.searchsorted(block, wanted), len(block) - 1)
            here = block[at] == wanted
            found |= zip(wanted[here].tolist(), vectors[at[here]], strict=True)
        return found

    def search(self, vector: Vectors, k: int) -> Scored:
        if not self._blocks or k <= 0:
            return []
        # Not `vectors @ vector`: BLAS would use every core, and a server searches in many threads already. einsum keeps
        # to one, too, but takes more than twice as long.
        scores = np.concatenate([np.vecdot(vectors, vector) for _, vectors in self._blocks])
        k = min(k, len(scores))
        best = np.argpartition(-scores, k - 1)[:k]
        best = best[np.lexsort((best, -scores[best]))]  # equal scores: the older chunk first
        return list(zip(self.ids[best].tolist(), scores[best].tolist(), strict=True))


class FaissVectors:
    """A sealed segment. Scores are cosines but for the 8-bit rounding: 0.002 off at most, 0.0005 typically."""

    def __init__(self, index: Any, ids: NDArray[np.int64], width: int) -> None:
        self._index = index
        self._ids = ids
        self._width = width

    @classmethod
    def build(
        cls, dim: int, sample: Vectors, batches: Iterable[tuple[NDArray[np.int64], Vectors]], fast: bool
    ) -> FaissVectors:
        """From `batches` of rising ids and their vectors; `sample` (n, dim) trains the quantizers."""
        import faiss

        width = (
            -(-dim // 4) * 4
        )  # the product quantizer wants groups of four: padded with zeros, which change no product
        kind = f"PQ{width // 4}x4fs,Refine(SQ8)" if fast and len(sample) >= 1000 else "SQ8"
        _threads(os.cpu_count() or 1)
        inner = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
        inner.train(_padded(sample, width))
        index = faiss.IndexIDMap2(inner)
        for ids, vectors in batches:
            index.add_with_ids(_padded(vectors, width), ids)
        return cls._ready(index)

    @classmethod
    def read(cls, path: Path) -> FaissVectors:
        """DamagedIndex when FAISS does not take the file."""
        import faiss

        flags = 0 if os.name == "nt" else getattr(faiss, "IO_FLAG_MMAP_IFC", 0)  # older ones than 1.11 read it whole
        try:
            return cls._ready(faiss.read_index(str(path), flags))
        except RuntimeError as error:
            raise DamagedIndex(f"{path}: {error}") from error

    @classmethod
    def _ready(cls, index: Any) -> FaissVectors:
        import faiss

        inner = faiss.downcast_index(index.index)
        if isinstance(inner, faiss.IndexRefine):
            inner.k_factor = _CANDIDATES
        return cls(index, faiss.vector_to_array(index.id_map), index.d)

    def write(self, path: Path) -> None:
        """Raises OSError; the caller syncs and names the file."""
        import faiss

        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:  # FAISS throws away the errno; ask the system again for the reason
            probe(path)
            raise OSError(f"{path} cannot be written: {error}") from error

    @property
    def ids(self) -> NDArray[np.int64]:
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, vector: Vectors, k: int) -> Scored:
        k = min(k, len(self._ids))
        if k <= 0:
            return []
        _threads(1)  # a server searches in many threads already; the setting is one thread's own
        query = _padded(vector[None], self._width)
        scores, ids = self._index.search(query, min(max(k, _LEAST), len(self._ids)))  # (1, k) each; id -1 pads
        scores, ids = scores[0, :k], ids[0, :k]
        if (ids < 0).any():  # the coarse quantizer ran out of candidates: only when nearly everything is asked for
            ids = np.concatenate([ids[ids >= 0], np.setdiff1d(self._ids, ids)])[:k]
            scores = self._index.reconstruct_batch(ids) @ query[0]
            order = np.argsort(-scores, kind="stable")
            ids, scores = ids[order], scores[order]
        return list(zip(ids.tolist(), scores.tolist(), strict=True))


def _threads(count: int) -> None:
    import faiss

    faiss.omp_set_num_threads(count)


def _padded(vectors: Vectors, width: int) -> Vectors:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.shape[1] == width:
        return vectors
    return np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
