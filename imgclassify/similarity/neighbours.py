"""Searches vectors by their cosine: exactly with numpy, or with usearch where there are very many."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXACT_LIMIT = 200_000**2
"""With more comparisons of a query with a vector, usearch is used if it is installed. It finds nearly all of the
nearest. It builds an index first, so few queries are faster without it."""
_BLOCK = 1024
"""Queries that are compared with all vectors at the same time."""

logger = logging.getLogger("imgclassify")


def unit_vectors(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Returns the vectors, (N, D), in float32 with a Euclidean norm of 1. A vector of zeros stays as it is."""
    import numpy as np

    whole = np.asarray(vectors, np.float32)
    unit: NDArray[np.float32] = whole / np.maximum(
        np.linalg.norm(whole, axis=1, keepdims=True), np.finfo(np.float32).tiny
    )
    return unit


def find_nearest(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the vectors with the largest cosines to each query.

    Args:
        vectors: (N, D), from `unit_vectors`.
        queries: (Q, D), from `unit_vectors`.
        count: how many to find, at most N.

    Returns:
        The indices and the cosines, both (Q, count), the largest cosine first. Of the found ones with equal
        cosines, the lower index comes first. The same vectors give the same result each time.
    """
    if len(vectors) * len(queries) > EXACT_LIMIT:
        if find_spec("usearch"):
            return _find_with_usearch(vectors, queries, count)
        logger.warning("comparing %d vectors with numpy, which takes long: pip install usearch", len(vectors))
    return _find_exactly(vectors, queries, count)


def find_similar_pairs(vectors: NDArray[np.float32], *, neighbours: int, min_cosine: float) -> NDArray[np.int64]:
    """Finds the pairs of vectors of which at least one is among the other's nearest.

    Args:
        vectors: (N, D), from `unit_vectors`.
        neighbours: how many of the nearest of each vector to take.
        min_cosine: pairs with a smaller cosine are left out.

    Returns:
        (pairs, 2): indices i < j, ascending.
    """
    import numpy as np

    count = len(vectors)
    # A vector is its own nearest.
    indices, cosines = find_nearest(vectors, vectors, min(neighbours + 1, count))
    one = np.broadcast_to(np.arange(count)[:, None], indices.shape)
    wanted = (cosines >= min_cosine) & (indices != one)
    first, second = one[wanted], indices[wanted]
    keys = np.unique(np.minimum(first, second) * count + np.maximum(first, second))
    return np.stack(np.divmod(keys, max(count, 1)), axis=1)


def _find_exactly(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    import numpy as np

    indices = np.empty((len(queries), count), np.int64)
    cosines = np.empty((len(queries), count), np.float32)
    for begin in range(0, len(queries), _BLOCK):
        block = queries[begin : begin + _BLOCK] @ vectors.T
        part = slice(begin, begin + len(block))
        best = np.argpartition(-block, count - 1, axis=1)[:, :count] if count < len(vectors) else _all(block)
        best.sort(axis=1)
        order = np.argsort(-np.take_along_axis(block, best, 1), axis=1, kind="stable")
        indices[part] = np.take_along_axis(best, order, 1)
        cosines[part] = np.take_along_axis(block, indices[part], 1)
    return indices, cosines


def _all(block: NDArray[np.float32]) -> NDArray[np.int64]:
    import numpy as np

    return np.tile(np.arange(block.shape[1]), (len(block), 1))


def _find_with_usearch(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    import numpy as np
    import onnxruntime  # noqa: F401  imported after usearch 2.26, it crashes the process
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    # Several threads lose connections between the first vectors, and their index differs from run to run.
    index.add(np.arange(len(vectors)), vectors, threads=1)
    matches = index.search(queries, count)
    shape = (len(queries), count)
    indices = np.asarray(matches.keys, np.int64).reshape(shape)
    cosines = np.asarray(matches.distances, np.float32).reshape(shape)
    np.subtract(1, cosines, out=cosines, where=np.isfinite(cosines))
    short = np.asarray(matches.counts).reshape(-1) < count  # not all vectors could be reached
    if short.any():
        indices[short], cosines[short] = _find_exactly(vectors, queries[short], count)
    return indices, cosines
