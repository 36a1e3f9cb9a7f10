"""Groups images that show the same: copies of a file, and images that are near duplicates of each other.

Near duplicates are the same image encoded again, resized, squeezed, mirrored, brighter, grey or cropped a little,
and successive images of a series. `similarity/duplicates.py` compares images in more detail, but needs OpenCV, and
about a millisecond for each pair. This module compares 50,000 images with each other in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
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
"""Is increased when a fingerprint of the same image changes. Kept fingerprints depend on it."""
_SIDE = 32
"""Side in pixels of the grey thumbnail of which a fingerprint is computed."""
_TERMS = 12
"""A fingerprint has the cosine transform of the thumbnail up to this frequency, in both directions."""
_MIN_CONTRAST = 2.0
"""Least standard deviation of a thumbnail, 0..255. Below it, what is left is noise."""

_DISTANCES = (0.12, 0.04, 0.04 / 3)
"""How far the fingerprints of near duplicates are apart at the most, as 1 − cosine: the first for nearly all
images, and the others for those that are crowded at the distance before. Each is a third of the one before."""
_CROWD_DISTANCE = 3
_CROWD_RATIO = 4
_CROWD_LEAST = 5
"""An image is crowded at a distance if it has more than _CROWD_RATIO times as many neighbours, and _CROWD_LEAST
more, within _CROWD_DISTANCE times that distance. Near duplicates are much nearer than all other images. Drawings,
digits and pages of text have neighbours at any distance, and would become one group."""

_CROP_DISTANCE = 0.5
"""How far the fingerprints of an image and a crop of it are apart at the most. Their features must be near too."""
_MOST_CROPS = 64
"""An image with more neighbours than that within _CROP_DISTANCE is not compared by features."""
_USUAL_SHARE = 0.01
"""This share of pairs have features that are similar without being duplicates."""
_FEATURE_DISTANCE = 0.5
"""How far the features of an image and a crop of it are apart at the most, as a part of the distance that the
_USUAL_SHARE of pairs have. A distance itself would depend on the network."""
_SAMPLE = 1000
"""Images of which that share is computed."""

_ROWS, _COLUMNS = 256, 4096
"""Images that are compared with each other at the same time. Larger tiles do not fit the cache of a processor."""
_CHUNK = 2048
"""Pairs of which the features are in memory a second time."""
_MOST_PAIRS = 32
"""Pairs of an image with later ones that are kept. A thousand near duplicates are joined by far fewer."""


def compute_fingerprint(image: Image.Image) -> bytes:
    """Computes what is kept of an upright RGB image to find its near duplicates: 144 bytes, in about 0.2 ms.

    It is the discrete cosine transform of a grey thumbnail, as in pHash (Zauner 2010), but with the magnitudes of
    its terms. Each is multiplied by its frequency, because low ones are large in every image. A flat image has
    zeros, which are similar to nothing.
    """
    from PIL import Image

    small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("L")
    grey: Floats = np.asarray(small, np.float32)
    cosines = _cosines()
    terms = _frequencies() * (cosines @ grey @ cosines.T)
    largest = float(np.abs(terms).max())
    if grey.std() < _MIN_CONTRAST or largest < 1:
        return bytes(_TERMS**2)
    content: bytes = np.rint(terms * (127 / largest)).astype(np.int8).tobytes()
    return content


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
    matrix: Floats = (rows * np.sqrt(2 / _SIDE)).astype(np.float32)
    return matrix


@cache
def _frequencies() -> Floats:
    frequencies = np.arange(_TERMS, dtype=np.float32)
    grid: Floats = np.hypot(frequencies[:, None], frequencies)
    return grid


def _find_pairs(images: Sequence[ReadImage]) -> Iterator[tuple[int, int]]:
    """Yields pairs of near duplicates, by their positions. There are enough of them to join each group."""
    if len(images) < 2:
        return
    features = _Features(images) if all(image.features is not None for image in images) else None
    fingerprints = _Fingerprints(images)
    least = np.empty(len(images), np.float32)
    alike: list[Indices] = []
    crops: list[Indices] = []
    for begin in range(0, len(images), _ROWS):
        rows = slice(begin, min(begin + _ROWS, len(images)))
        near = fingerprints.find_neighbours(rows, crops=features is not None)
        least[rows] = near.least
        alike.append(_later_pairs(near.pairs.where(near.pairs.values >= least[near.pairs.rows])))
        crops.append(_later_pairs(near.pairs.where(near.may_be_cropped[near.pairs.rows - begin])))
    pairs = np.concatenate(alike)
    # A pair is as similar as the more crowded of its images demands.
    yield from pairs[fingerprints.cosines(pairs) >= least[pairs].max(axis=1)].tolist()
    if features is not None:
        pairs = np.concatenate(crops)
        yield from pairs[features.cosines(pairs) >= features.least_cosine()].tolist()


class _Pairs(NamedTuple):
    """Pairs of images with their similarities."""

    rows: Indices
    columns: Indices
    values: Floats

    def where(self, wanted: NDArray[Any]) -> _Pairs:
        return _Pairs(self.rows[wanted], self.columns[wanted], self.values[wanted])

    def count_by_row(self, rows: slice) -> Indices:
        """Returns how many pairs each of these rows has."""
        return np.bincount(self.rows - rows.start, minlength=rows.stop - rows.start)


class _Neighbourhood(NamedTuple):
    """What is near some images."""

    pairs: _Pairs
    """Those whose fingerprints may be of near duplicates, and those of crops. In the order of their rows."""
    least: Floats
    """(rows,): the least similarity of near duplicates."""
    may_be_cropped: NDArray[np.bool_]
    """(rows,): whether the image is compared with its neighbours by features too."""


class _Fingerprints:
    """Compares fingerprints by their cosine, or that with the mirror image, whichever is larger."""

    def __init__(self, images: Sequence[ReadImage]) -> None:
        terms = np.frombuffer(b"".join(image.fingerprint or b"" for image in images), np.int8).astype(np.float32)
        vectors = unit_vectors(terms.reshape(len(images), _TERMS**2)).reshape(len(images), _TERMS, _TERMS)
        # The mirror image has the same terms, except that those of odd horizontal frequency change their sign.
        self._even = vectors[:, :, ::2].reshape(len(images), -1)
        self._odd = vectors[:, :, 1::2].reshape(len(images), -1)

    def find_neighbours(self, rows: slice, *, crops: bool) -> _Neighbourhood:
        """Compares some images with all.

        Args:
            crops: whether to find pairs of which one image may be a crop of the other one.
        """
        nearest, wide = 1 - _DISTANCES[0], 1 - _CROWD_DISTANCE * _DISTANCES[0]
        widest, most = (1 - _CROP_DISTANCE, _MOST_CROPS) if crops else (nearest, 0)
        num_wide, num_widest = np.zeros((2, rows.stop - rows.start), np.int64)
        found: list[_Pairs] = []
        for begin in range(0, len(self._even), _COLUMNS):
            tile = self._compare(rows, slice(begin, begin + _COLUMNS))
            num_wide += np.count_nonzero(tile >= wide, axis=1)
            num_widest += np.count_nonzero(tile >= widest, axis=1)
            # A page of text has all others within this distance.
            least = np.where(num_widest <= most, widest, nearest)
            row, column = np.divmod(np.flatnonzero(tile >= least[:, None]), tile.shape[1])
            found.append(_Pairs(row + rows.start, column + begin, tile[row, column]))
        pairs = _Pairs(*map(np.concatenate, zip(*found, strict=True)))
        pairs = pairs.where(np.argsort(pairs.rows, kind="stable"))
        return _Neighbourhood(pairs, _least_similarities(pairs, rows, num_wide), num_widest <= most)

    def cosines(self, pairs: Indices) -> Floats:
        """Returns the similarity of each of (pairs, 2)."""
        one, other = pairs.T
        even: Floats = np.einsum("ij,ij->i", self._even[one], self._even[other])
        odd: Floats = np.einsum("ij,ij->i", self._odd[one], self._odd[other])
        return even + np.abs(odd)

    def _compare(self, rows: slice, columns: slice) -> Floats:
        """Returns the similarities of these rows and columns. An image is its own neighbour."""
        tile: Floats = self._odd[rows] @ self._odd[columns].T
        np.abs(tile, out=tile)
        tile += self._even[rows] @ self._even[columns].T
        return tile


class _Features:
    """Compares the features of images, without those of their views, by their cosine."""

    def __init__(self, images: Sequence[ReadImage]) -> None:
        self._vectors = [image.features[0] for image in images if image.features is not None]

    def cosines(self, pairs: Indices) -> Floats:
        """Returns the cosine of each of (pairs, 2)."""
        cosines = np.empty(len(pairs), np.float32)
        for begin in range(0, len(pairs), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            one, other = (unit_vectors(np.stack([self._vectors[i] for i in side])) for side in pairs[chunk].T)
            cosines[chunk] = np.einsum("ij,ij->i", one, other)
        return cosines

    def least_cosine(self) -> float:
        """Returns the least cosine of an image and a crop of it."""
        some = unit_vectors(np.stack(self._vectors[:: -(-len(self._vectors) // _SAMPLE)]))
        cosines = (some @ some.T)[np.triu_indices(len(some), 1)]
        # Of few images, those that are duplicates are a larger share of all pairs.
        share = min(max(_USUAL_SHARE, len(some) / len(cosines)), 0.5)
        usual = float(np.quantile(cosines, 1 - share))
        return 1 - _FEATURE_DISTANCE * (1 - usual)


def _least_similarities(pairs: _Pairs, rows: slice, num_wide: Indices) -> Floats:
    """Returns the least similarity of near duplicates of each of these rows.

    Args:
        num_wide: how many neighbours a row has within the first crowd distance.
    """
    least = np.full(len(num_wide), 1 - _DISTANCES[0], np.float32)
    crowded = np.ones(len(num_wide), bool)
    for distance, next_distance in pairwise(_DISTANCES):
        near = pairs.where(pairs.values >= 1 - distance).count_by_row(rows)
        crowded &= num_wide > _CROWD_RATIO * near + _CROWD_LEAST
        least[crowded] = 1 - next_distance
        num_wide = near  # the next crowd distance is this distance
    return least


def _later_pairs(pairs: _Pairs) -> Indices:
    """Returns (pairs, 2): row and column where the column is later, at most _MOST_PAIRS for each row.

    Args:
        pairs: in the order of their rows.
    """
    pairs = pairs.where(pairs.columns > pairs.rows)
    place = np.arange(len(pairs.rows)) - np.searchsorted(pairs.rows, pairs.rows)  # within its row
    pairs = pairs.where(place < _MOST_PAIRS)
    return np.stack([pairs.rows, pairs.columns], axis=1)
