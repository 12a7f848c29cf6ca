"""What every embedder does with the numbers it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from kbqa.types import Vectors

__all__ = ["unit_rows"]


def unit_rows(values: ArrayLike) -> Vectors:
    """(n, dim) float32 rows of length 1; a row of zeros, or one that is not finite, becomes a zero row."""
    rows = np.array(values, dtype=np.float32)
    rows[~np.isfinite(rows).all(axis=1)] = 0.0
    # Scaled by the largest component first: the square of a large float32 is infinite, that of a small one 0.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    rows /= np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1)
    return rows
