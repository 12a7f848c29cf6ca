"""The built-in embedder: one learned vector for each term, added up and brought to unit length. numpy only.

Terms are the analyzer's words and bigrams. A term that occurs `c` times in a text counts `c ** power`. A term outside
the vocabulary has the sum of two rows that its checksum picks from a table of buckets: such terms still meet
themselves, and two of them hardly ever share both rows. docs/static-embedder.md tells how the rows were trained.

Knows nothing about chunks, indexes or scores.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kbqa.analyzer import VERSION as ANALYZER_VERSION
from kbqa.analyzer import analyze
from kbqa.embedders.vectors import unit_rows
from kbqa.embedders.weight import WEIGHT_FILE
from kbqa.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kbqa.types import Vectors

    Codes = NDArray[np.int64]

__all__ = ["StaticEmbedder", "StaticModel", "Vocabulary", "pack", "save_model"]

SHIPPED = files("kbqa").joinpath("data", "static", "model.npz")
FORMAT = 1
BLOCK_TERMS = 8_192  # sorted in one go
ZERO = 8  # the stored value that stands for 0
UNKNOWN = 1 << 40  # the code of a term that is not in the vocabulary is this plus the term's checksum


class Vocabulary(dict[str, int]):
    """Term -> code: the term's row, or UNKNOWN plus its checksum. Any term may be asked for."""

    def __init__(self, terms: Sequence[str], buckets: int) -> None:
        super().__init__(zip(terms, range(len(terms)), strict=True))
        self.buckets = buckets

    def __missing__(self, term: str) -> int:
        return UNKNOWN | zlib.crc32(term.encode("utf-8", "surrogatepass"))

    def codes(self, terms: Sequence[str]) -> Codes:
        """The code of each term. The six in seven that have a row are looked up at C speed."""
        codes = np.fromiter(map(self.get, terms, repeat(UNKNOWN)), dtype=np.int64, count=len(terms))
        unknown = np.flatnonzero(codes == UNKNOWN)
        codes[unknown] = [self.__missing__(terms[at]) for at in unknown.tolist()]
        return codes

    def rows(self, codes: Codes) -> tuple[Codes, Codes]:
        """The rows that `codes` stand for (two for an unknown term), and the index of each one's code."""
        unknown = np.flatnonzero(codes >= UNKNOWN)
        checksum = codes[unknown] - UNKNOWN
        known = len(self)
        rows = np.concatenate([codes, known + checksum % self.buckets])
        rows[unknown] = known + (checksum >> 16) % self.buckets
        return rows, np.concatenate([np.arange(len(codes)), unknown])


@dataclass(frozen=True)
class StaticModel:
    """The model file in memory, as small as it is on disk.

    `packed` is (rows, dim / 2) uint8: component i in the low half of byte i, component i + dim / 2 in its high half,
    each 0..15 for -8..7 times the row's scale. The vocabulary's rows come first, then those of the buckets.
    """

    vocabulary: Vocabulary
    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    power: float
    digest: str

    @property
    def dim(self) -> int:
        return 2 * int(self.packed.shape[1])

    def weighted_sums(self, texts: Codes, rows: Codes, weights: NDArray[np.float32], count: int) -> Vectors:
        """(count, dim): for each of `count` texts the sum of its rows, each times its weight. `texts` ascends.

        einsum rather than `@`: for products this small BLAS wakes all its threads and they wait for each other. On
        two busy cores that made 0.4 MB of text a second out of 5.9.
        """
        half = self.packed.shape[1]
        bounds = np.searchsorted(texts, np.arange(count + 1)).tolist()
        weights = weights * self.scales.take(rows)
        packed = self.packed.take(rows, axis=0)
        values = np.empty((len(rows), self.dim), dtype=np.uint8)
        np.bitwise_and(packed, 15, out=values[:, :half])
        np.right_shift(packed, 4, out=values[:, half:])
        sums = np.zeros((count, self.dim), dtype=np.float32)
        for total, start, end in zip(sums, bounds, bounds[1:], strict=False):
            if start < end:
                weight = weights[start:end]
                np.einsum("n,nd->d", weight, values[start:end].astype(np.float32), out=total)
                total -= ZERO * weight.sum()
        return sums


def pack(matrix: Vectors) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(rows, dim) to StaticModel's `packed` and `scales`: the scale of each row is the one with the least error."""
    peak = np.abs(matrix).max(axis=1)
    best = np.full(len(matrix), np.inf)
    scales = np.ones(len(matrix), dtype=np.float32)
    for share in np.linspace(0.4, 1.0, 13):  # cutting off the few largest components spares all the others error
        scale = np.where(peak > 0, peak * share / 7, 1).astype(np.float32)
        error = np.square(_quantised(matrix, scale) * scale[:, None] - matrix).sum(axis=1)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
    values = (_quantised(matrix, scales) + ZERO).astype(np.uint8)
    half = matrix.shape[1] // 2
    packed: NDArray[np.uint8] = values[:, :half] | values[:, half:] << np.uint8(4)
    return packed, scales


def _quantised(matrix: Vectors, scales: NDArray[np.float32]) -> Vectors:
    quantised: Vectors = np.clip(np.rint(matrix / scales[:, None]), -8, 7)
    return quantised


def save_model(path: Path, terms: Sequence[str], matrix: Vectors, power: float) -> None:
    """Write a model file. `matrix` holds one row a term, then those of the buckets."""
    packed, scales = pack(matrix)
    np.savez(
        path,
        format=np.array(FORMAT),
        analyzer=np.frombuffer(ANALYZER_VERSION.encode(), dtype=np.uint8),
        vocabulary=np.frombuffer("\n".join(terms).encode(), dtype=np.uint8),
        packed=packed,
        scales=scales,
        power=np.array(power),
    )


@lru_cache(maxsize=2)
def _load(path: str) -> StaticModel:
    where = Path(path) if path else SHIPPED
    try:
        content = where.read_bytes()
    except OSError as error:
        raise ConfigError(f"the static embedder's model {where} cannot be read: {error.strerror}") from error
    try:
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            written, analyzer = int(arrays["format"]), arrays["analyzer"].tobytes().decode()
            terms = arrays["vocabulary"].tobytes().decode().split("\n")
            packed, scales, power = arrays["packed"], arrays["scales"], float(arrays["power"])
    except (ValueError, KeyError, EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{where} is not a model of the static embedder: {error}") from error
    if (written, analyzer) != (FORMAT, ANALYZER_VERSION):
        raise ConfigError(
            f"{where} has format {written} for analyzer {analyzer}, this kbqa reads format {FORMAT} for analyzer "
            f"{ANALYZER_VERSION}; train it anew with scripts/train_static_embedder.py"
        )
    vocabulary = Vocabulary(terms, buckets=len(packed) - len(terms))
    return StaticModel(vocabulary, packed, scales, power, sha256(content).hexdigest())


class StaticEmbedder:
    """The default embedder. Safe to use from many threads: nothing changes after loading."""

    name = "static"

    def __init__(self, path: Path | str | None = None) -> None:
        """Loads the model that comes with kbqa, or the one at `path`. ConfigError when it cannot be read."""
        self.path = "" if path is None else str(path)
        self._model = _load(self.path)
        self.weight_file: Path | None = Path(self.path or str(SHIPPED)).with_name(WEIGHT_FILE)
        self.dim = self._model.dim
        self.fingerprint = f"static-{self._model.digest[:16]}-analyzer{ANALYZER_VERSION}"

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """(n, dim); a text without any term gives a zero row."""
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for start, block in _blocks(texts):
            vectors[start : start + len(block)] = self._sums(block)
        return unit_rows(vectors)

    def embed_query(self, text: str) -> Vectors:
        """(dim,)"""
        vector: Vectors = unit_rows(self._sums([_terms(text)]))[0]
        return vector

    def _sums(self, block: Sequence[Sequence[str]]) -> Vectors:
        """(len(block), dim): for each text the sum over its terms of count ** power times the term's row."""
        model = self._model
        codes = model.vocabulary.codes([*chain.from_iterable(block)])
        rows, origin = model.vocabulary.rows(codes)
        text_of_row = np.repeat(np.arange(len(block)), [len(terms) for terms in block])[origin]
        keys, counts = np.unique(text_of_row * len(model.packed) + rows, return_counts=True)
        weights = counts.astype(np.float32) ** model.power
        texts, rows = np.divmod(keys, len(model.packed))
        return model.weighted_sums(texts, rows, weights, len(block))


def _terms(text: str) -> list[str]:
    """As often as they occur."""
    terms = analyze(text)
    return [*terms.words, *terms.bigrams]


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, list[list[str]]]]:
    """The terms of runs of texts with at most BLOCK_TERMS terms (a longer text is alone), and where each begins."""
    start, held = 0, 0
    block: list[list[str]] = []
    for at, text in enumerate(texts):
        terms = _terms(text)
        if block and held + len(terms) > BLOCK_TERMS:
            yield start, block
            start, held, block = at, 0, []
        block.append(terms)
        held += len(terms)
    if block:
        yield start, block
