"""Searches vectors by their cosine: exactly with numpy, or with usearch where there are very many."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXACT_LIMIT = 200_000
"""With more vectors, usearch is used if it is installed. It finds nearly all of the nearest."""
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
        The indices and the cosines, both (Q, count), the largest cosine first. Of equal cosines, the lower index
        comes first.
    """
    if len(vectors) > EXACT_LIMIT:
        if find_spec("usearch"):
            return _find_with_usearch(vectors, queries, count)
        logger.warning(
            "searching %d vectors with numpy, which takes long: pip install 'imgclassify[search]'", len(vectors)
        )
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
        # All vectors that are as near as the one at `count`, and then those with the lowest indices.
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
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(vectors)), vectors)
    matches = index.search(queries, count)
    shape = (len(queries), count)
    return np.asarray(matches.keys, np.int64).reshape(shape), 1 - np.asarray(matches.distances).reshape(shape)
