"""Groups images that show the same: copies of a file, and images that are near duplicates of each other.

Near duplicates are the same image encoded again, resized, squeezed, mirrored, brighter, grey or cropped a little, and
successive images of a series. `similarity/duplicates.py` compares images in more detail, but needs OpenCV, and about
a millisecond for each pair. This module compares 50,000 images with each other in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgclassify.similarity.neighbours import unit_vectors
from imgclassify.similarity.union_find import UnionFind

if TYPE_CHECKING:
    from PIL import Image

    from imgclassify.training.reading import ReadImage

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

FINGERPRINT_VERSION = 1
_SIDE = 32
"""Side in pixels of the grey thumbnail of which a fingerprint is computed."""
_TERMS = 12
"""A fingerprint has the cosine transform of the thumbnail up to this frequency, in both directions."""
_MIN_CONTRAST = 2.0
"""Least standard deviation of a thumbnail, 0..255. Below it, what is left is noise."""

_DISTANCES = (0.12, 0.04, 0.0133)
"""How far the fingerprints of near duplicates are apart at the most, as 1 − cosine: the first for nearly all images,
and the others for those that are crowded at the distance before."""
_CROWD_DISTANCE = 3
_CROWD_RATIO = 4
_CROWD_LEAST = 5
"""An image is crowded at a distance if it has more than _CROWD_RATIO times as many neighbours, and _CROWD_LEAST more,
within _CROWD_DISTANCE times that distance. Near duplicates are much nearer than all other images. Drawings, digits
and pages of text have neighbours at any distance, and would become one group."""

_CROP_DISTANCE = 0.5
"""How far the fingerprints of an image and a crop of it are apart at the most. Then the features must be similar."""
_MOST_CROPS = 64
"""An image with more neighbours than that within _CROP_DISTANCE is not compared by features."""
_USUAL_SHARE = 0.01
"""This share of pairs have features that are similar without being duplicates."""
_FEATURE_DISTANCE = 0.5
"""How far the features of an image and a crop of it are apart at the most, as a part of the distance that the
_USUAL_SHARE of pairs have. A distance itself would depend on the network."""
_SAMPLE = 1000
"""Images of which that share is computed."""

_ROWS, _COLUMNS = 128, 2048
"""Images that are compared with each other at the same time. Their similarities fit the cache of a processor."""
_MOST_PAIRS = 100
"""Pairs of an image with later ones that are kept. A thousand near duplicates are joined by far fewer."""


def compute_fingerprint(image: Image.Image) -> bytes:
    """Computes what is kept of an upright RGB image to find its near duplicates: 144 bytes, in about 0.2 ms.

    It is the discrete cosine transform of a grey thumbnail, as in pHash (Zauner 2010), but with the magnitudes of
    its terms. Each is multiplied by its frequency, because low ones are large in every image. A flat image has
    zeros, which are similar to nothing.
    """
    from PIL import Image

    small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("L")
    grey = np.asarray(small, np.float32)
    if grey.std() < _MIN_CONTRAST:
        return bytes(_TERMS**2)
    cosines = _cosines()
    terms = _frequencies() * (cosines @ grey @ cosines.T)
    return np.rint(terms * (127 / np.abs(terms).max())).astype(np.int8).tobytes()


def group_images(images: Sequence[ReadImage]) -> list[int]:
    """Returns the number of the group of each image.

    Images are in the same group if they are the same file, if they are near duplicates by their fingerprints, or if
    one is a crop of the other one by its features too. Groups are counted from 0, in the order of their first
    images. A broken image, and one that is like no other, has a group of its own.
    """
    groups = UnionFind(len(images))
    first: dict[bytes, int] = {}
    for index, image in enumerate(images):
        if image.error is None and image.sha256 is not None:
            groups.join(first.setdefault(image.sha256, index), index)
    # A copy of a file would only be found again.
    compared = [index for index in first.values() if any(images[index].fingerprint or b"")]
    for one, other in _find_pairs([images[index] for index in compared]):
        groups.join(compared[one], compared[other])
    numbers = [0] * len(images)
    for number, members in enumerate(groups.sets()):
        for member in members:
            numbers[member] = number
    return numbers


@cache
def _cosines() -> Floats:
    """Returns the first rows of the matrix of the orthonormal cosine transform (DCT-II), (_TERMS, _SIDE)."""
    rows = np.cos(np.pi / _SIDE * (np.arange(_SIDE) + 0.5) * np.arange(_TERMS)[:, None])
    rows[0] /= np.sqrt(2)
    return (rows * np.sqrt(2 / _SIDE)).astype(np.float32)


@cache
def _frequencies() -> Floats:
    frequencies = np.arange(_TERMS, dtype=np.float32)
    return np.hypot(frequencies[:, None], frequencies)


def _find_pairs(images: Sequence[ReadImage]) -> Iterator[tuple[int, int]]:
    """Yields pairs of near duplicates, by their positions. There are enough of them to join each group."""
    if len(images) < 2:
        return
    features = _stack_features(images)
    similarities = _Similarities(images)
    floor = 1 - max(_CROWD_DISTANCE * _DISTANCES[0], 0 if features is None else _CROP_DISTANCE)
    least = np.empty(len(images), np.float32)
    alike: list[Indices] = []
    crops: list[Indices] = []
    for rows, near in similarities.neighbourhoods(floor):
        least[rows] = _least_similarities(near, rows)
        alike.append(_later_pairs(near.where(near.values >= least[near.rows])))
        if features is not None:
            near = near.where(near.values >= 1 - _CROP_DISTANCE)
            crops.append(_later_pairs(near.where(near.count(rows)[near.rows - rows.start] <= _MOST_CROPS)))
    pairs = np.concatenate(alike)
    # A pair is as similar as the more crowded of its images demands.
    yield from pairs[similarities.of(pairs) >= least[pairs].max(axis=1)].tolist()
    if features is not None:
        pairs = np.concatenate(crops)
        yield from pairs[_cosines_of(features, pairs) >= _least_cosine(features)].tolist()


def _stack_features(images: Sequence[ReadImage]) -> Floats | None:
    """Returns the features of the images as unit vectors, (N, D), without those of views. None if one has none."""
    found = [image.features[0] for image in images if image.features is not None]
    return unit_vectors(np.stack(found)) if len(found) == len(images) else None


class _Neighbours(NamedTuple):
    """Pairs of images with their similarities, in the order of the rows."""

    rows: Indices
    columns: Indices
    values: Floats

    def where(self, wanted: NDArray[Any]) -> _Neighbours:
        return _Neighbours(self.rows[wanted], self.columns[wanted], self.values[wanted])

    def count(self, rows: slice) -> Indices:
        """Returns how many neighbours each of these rows has."""
        return np.bincount(self.rows - rows.start, minlength=rows.stop - rows.start)


class _Similarities:
    """The cosines of the fingerprints of images, each with the other one or its mirror image, whichever is larger."""

    def __init__(self, images: Sequence[ReadImage]) -> None:
        terms = np.frombuffer(b"".join(image.fingerprint or b"" for image in images), np.int8)
        vectors = unit_vectors(terms.reshape(len(images), _TERMS**2)).reshape(len(images), _TERMS, _TERMS)
        # The mirror image has the same terms, except that those of odd horizontal frequency change their sign.
        self._even = vectors[:, :, ::2].reshape(len(images), -1)
        self._odd = vectors[:, :, 1::2].reshape(len(images), -1)

    def neighbourhoods(self, floor: float) -> Iterator[tuple[slice, _Neighbours]]:
        """Yields for some images after the other all images that have at least the similarity `floor` with them.

        Each image is its own neighbour.
        """
        count = len(self._even)
        for begin in range(0, count, _ROWS):
            rows = slice(begin, min(begin + _ROWS, count))
            parts = [self._compare(rows, start, floor) for start in range(0, count, _COLUMNS)]
            joined = _Neighbours(*map(np.concatenate, zip(*parts, strict=True)))
            yield rows, joined.where(np.argsort(joined.rows, kind="stable"))

    def of(self, pairs: Indices) -> Floats:
        return _cosines_of(self._even, pairs) + np.abs(_cosines_of(self._odd, pairs))

    def _compare(self, rows: slice, start: int, floor: float) -> _Neighbours:
        columns = slice(start, start + _COLUMNS)
        tile = self._odd[rows] @ self._odd[columns].T
        np.abs(tile, out=tile)
        tile += self._even[rows] @ self._even[columns].T
        found = np.flatnonzero(tile >= floor)
        row, column = np.divmod(found, tile.shape[1])
        return _Neighbours(row + rows.start, column + start, tile.ravel()[found])


def _least_similarities(near: _Neighbours, rows: slice) -> Floats:
    """Returns the least similarity of near duplicates of each of these rows."""
    least = np.full(rows.stop - rows.start, 1 - _DISTANCES[0], np.float32)
    crowded = np.ones(len(least), bool)
    for distance, next_distance in zip(_DISTANCES, _DISTANCES[1:], strict=False):
        few = near.where(near.values >= 1 - distance).count(rows)
        many = near.where(near.values >= 1 - _CROWD_DISTANCE * distance).count(rows)
        crowded &= many > _CROWD_RATIO * few + _CROWD_LEAST
        least[crowded] = 1 - next_distance
    return least


def _later_pairs(near: _Neighbours) -> Indices:
    """Returns (pairs, 2): row and column where the column is later, at most _MOST_PAIRS for each row."""
    near = near.where(near.columns > near.rows)
    place = np.arange(len(near.rows)) - np.searchsorted(near.rows, near.rows)  # within its row
    near = near.where(place < _MOST_PAIRS)
    return np.stack([near.rows, near.columns], axis=1)


def _cosines_of(vectors: Floats, pairs: Indices) -> Floats:
    cosines = np.empty(len(pairs), np.float32)
    for begin in range(0, len(pairs), 4096):
        one, other = pairs[begin : begin + 4096].T
        cosines[begin : begin + 4096] = np.einsum("ij,ij->i", vectors[one], vectors[other])
    return cosines


def _least_cosine(features: Floats) -> float:
    """Returns the least cosine of the features of an image and a crop of it."""
    some = features[:: -(-len(features) // _SAMPLE)]
    cosines = (some @ some.T)[np.triu_indices(len(some), 1)]
    # Of few images, those that are duplicates are a larger share of all pairs.
    share = min(max(_USUAL_SHARE, len(some) / len(cosines)), 0.5)
    usual = float(np.quantile(cosines, 1 - share))
    return 1 - _FEATURE_DISTANCE * (1 - usual)
