"""Tells whether one image is another one changed: resized, recompressed, cropped, mirrored or turned.

OpenCV finds SIFT keypoints (Lowe 2004) in both images. Those that match give the transform from one image to the
other. Then the images themselves are compared under this transform, block by block. Needs the extra `duplicates`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgclassify.errors import UnavailableError

if TYPE_CHECKING:
    from PIL import Image

Complexes = NDArray[np.complex128]

MIN_AGREEMENT = 0.7
"""Two images are the same image if this share of their overlap looks alike. Different photographs from the same
template, such as two receipts, reach about 0.5, and an image with half of it replaced 0.69."""
_FEATURE_SIDE = 256
"""Keypoints are found in a grey copy with about this number of pixels squared."""
_MAX_KEYPOINTS = 120
_THUMBNAIL_SIDE = 96
"""The compared thumbnails have about this number of pixels squared."""
_BLOCK = 8
"""Side in pixels of the blocks of a thumbnail that are compared."""
_MATCH_COSINE = 0.9
"""Least cosine of two descriptors that match."""
_MIN_INLIERS = 4
"""Least number of matches that agree on one transform."""
_MAX_SCALE = 3.0
"""The largest ratio of sizes, after both images are brought to the same area."""
_MAX_SKEW = 0.3
_SKEW_PENALTY = 1.0
"""Keeps few matches from being explained by squeezing the image."""
_TOLERANCES = (0.06, 0.06, 0.04, 0.03, 0.02)
"""How far a matched point may be from where the transform puts it, in each round of the fit."""
_MIN_OVERLAP = 0.2
"""Least share of the smaller image that the other one covers. Below it, two images may share only a caption."""
_MIN_CORRELATION = 0.5
"""Least normalised cross-correlation of two blocks that look alike."""
_MIN_VARIANCE = 40.0
"""Blocks with less variance of their grey values, 0..255, have no texture and are not compared."""


class Fingerprint(NamedTuple):
    """What is kept of an image to align it with others: about 25 KB.

    A point (x, y) is the complex number x + iy. Its unit is the square root of the image's area.
    """

    points: Complexes
    """(K,): where the keypoints are."""
    frames: Complexes
    """(K,): the size of each keypoint times the unit vector of its direction."""
    descriptors: NDArray[np.uint8]
    """(K, 128) RootSIFT (Arandjelović and Zisserman 2012), each row with a length of about 512."""
    thumbnail: NDArray[np.uint8]
    """(height, width) grey."""


class Alignment(NamedTuple):
    """How well one image maps onto another."""

    agreement: float = 0.0
    """The share of the overlap that looks alike, 0..1."""
    mirrored: bool = False


def require_opencv() -> None:
    """
    Raises:
        UnavailableError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UnavailableError(
            "finding changed images needs OpenCV, which is not installed",
            hint="pip install opencv-python-headless, or use --stage pixels",
        ) from error
    del cv2


def compute_fingerprint(image: Image.Image) -> Fingerprint:
    """Computes the fingerprint of an upright RGB image."""
    import cv2

    cv2.setNumThreads(1)  # the caller has threads of its own
    grey = image.convert("L")
    small = _resize_to_area(grey, _FEATURE_SIDE)
    unit = small.size**0.5
    keypoints, descriptors = cv2.SIFT_create(_MAX_KEYPOINTS).detectAndCompute(small, None)  # type: ignore[attr-defined]
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    points = np.array([complex(*each.pt) + 0.5 + 0.5j for each in keypoints], complex)
    frames = np.array([each.size * np.exp(1j * np.deg2rad(each.angle)) for each in keypoints], complex)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    return Fingerprint(
        points / unit,
        frames / unit,
        np.rint(512 * root).clip(0, 255).astype(np.uint8),
        _resize_to_area(grey, _THUMBNAIL_SIDE),
    )


def align(first: Fingerprint, second: Fingerprint) -> Alignment:
    """Compares two images under the transform from the first to the second that their keypoints give."""
    return max(_align(first, second, mirrored=False), _align(first, second, mirrored=True))


def _align(first: Fingerprint, second: Fingerprint, *, mirrored: bool) -> Alignment:
    one, two = _match_keypoints(first, second, mirrored=mirrored)
    points, frames = first.points[one], first.frames[one]
    if mirrored:
        points, frames = points.conj(), frames.conj()
    transform = _fit_transform(points, second.points[two], second.frames[two] / frames)
    if transform is None:
        return Alignment()
    return Alignment(_compare_thumbnails(first.thumbnail, second.thumbnail, transform, mirrored=mirrored), mirrored)


@cache
def _mirrored_positions() -> NDArray[np.intp]:
    """Returns the positions of a descriptor's values in the descriptor of the mirrored image.

    A descriptor has 4 × 4 cells of 8 directions each. Mirrored, its rows and its directions are reversed.
    """
    return np.arange(128).reshape(4, 4, 8)[::-1, :, -np.arange(8) % 8].ravel()


def _match_keypoints(
    first: Fingerprint, second: Fingerprint, *, mirrored: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the indices of keypoints that are each other's best match."""
    if not len(first.points) or not len(second.points):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    descriptors = first.descriptors[:, _mirrored_positions()] if mirrored else first.descriptors
    cosines = descriptors.astype(np.float32) @ second.descriptors.T.astype(np.float32) / 512**2
    best = cosines.argmax(axis=1)
    mutual = cosines.argmax(axis=0)[best] == np.arange(len(best))
    one = np.flatnonzero(mutual & (cosines.max(axis=1) > _MATCH_COSINE))
    return one, best[one]


def _fit_transform(
    points: Complexes, targets: Complexes, turns: Complexes
) -> tuple[complex, complex, complex] | None:
    """Fits `target = turn * point + skew * conj(point) + shift`, an affine transform, to most of the matches.

    Each match proposes a transform without skew: the ratio of the two keypoints' frames is its turn. The proposal
    that most others fit is the first transform. It is then refined by least squares, with less and less tolerance.

    Args:
        turns: the turn that each match proposes.

    Returns:
        (turn, skew, shift), or None if fewer than _MIN_INLIERS matches agree, or if it is not plausible.
    """
    plausible = np.abs(np.log(np.abs(turns))) < np.log(_MAX_SCALE)
    points, targets, turns = points[plausible], targets[plausible], turns[plausible]
    if len(points) < _MIN_INLIERS:
        return None
    distances = np.abs(turns[:, None] * (points - points[:, None]) + targets[:, None] - targets)
    votes = distances < _TOLERANCES[0] * np.maximum(1, np.abs(turns))[:, None]
    votes &= np.abs(turns - turns[:, None]) < 0.5 * np.abs(turns)[:, None]
    inside = votes[votes.sum(axis=1).argmax()]
    terms = np.stack([points, points.conj(), np.ones_like(points)], axis=1)
    transform = None
    for tolerance in _TOLERANCES[1:]:
        if _count_inliers(points[inside], targets[inside]) < _MIN_INLIERS:
            return None
        rows = np.concatenate([terms[inside], [[0, _SKEW_PENALTY, 0]]])
        turn, skew, shift = transform = np.linalg.lstsq(rows, np.append(targets[inside], 0), rcond=None)[0]
        if not (abs(skew) < _MAX_SKEW * abs(turn) and 1 / _MAX_SCALE < abs(turn) < _MAX_SCALE):
            return None
        inside = np.abs(terms @ transform - targets) < tolerance * max(1, abs(turn))
        inside &= np.abs(turns - turn) < 0.5 * abs(turn)
    return (turn, skew, shift) if _count_inliers(points[inside], targets[inside]) >= _MIN_INLIERS else None


def _count_inliers(points: Complexes, targets: Complexes) -> int:
    # A keypoint with two directions counts once.
    return min(len(np.unique(points)), len(np.unique(targets)))


def _compare_thumbnails(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    transform: tuple[complex, complex, complex],
    *,
    mirrored: bool,
) -> float:
    """Returns the share of the second thumbnail's blocks that look like the first one under the transform."""
    from PIL import Image

    turn, skew, shift = transform
    linear = np.array([[(turn + skew).real, (skew - turn).imag], [(turn + skew).imag, (turn - skew).real]])
    if mirrored:
        linear[:, 1] *= -1
    # Pillow needs the point of the first image for each pixel of the second.
    inverse = np.linalg.inv(linear) * np.sqrt(first.size)
    offset = -inverse @ [shift.real, shift.imag]
    matrix = np.column_stack([inverse / np.sqrt(second.size), offset]).ravel().tolist()
    image = Image.fromarray(np.dstack([first, np.full_like(first, 255)]))  # the second channel: where it is
    height, width = second.shape
    warped = np.asarray(
        image.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR), np.float32
    )
    inside = warped[..., 1] > 250
    # Both images have an area of 1, so the first has the transform's determinant in the second.
    if inside.mean() < _MIN_OVERLAP * min(1.0, abs(np.linalg.det(linear))):
        return 0.0
    return _share_of_similar_blocks(warped[..., 0], second.astype(np.float32), inside)


def _share_of_similar_blocks(
    first: NDArray[np.float32], second: NDArray[np.float32], inside: NDArray[np.bool_]
) -> float:
    height, width = (size // _BLOCK for size in second.shape)

    def total(values: NDArray[Any]) -> NDArray[Any]:
        blocks = (values * inside)[: height * _BLOCK, : width * _BLOCK]
        sums: NDArray[Any] = blocks.reshape(height, _BLOCK, width, _BLOCK).sum(axis=(1, 3))
        return sums

    count = total(np.ones_like(first))
    size = np.maximum(count, 1)
    mean_1, mean_2 = total(first) / size, total(second) / size
    variance_1 = total(first * first) / size - mean_1**2
    variance_2 = total(second * second) / size - mean_2**2
    covariance = total(first * second) / size - mean_1 * mean_2
    compared = (count > _BLOCK**2 / 2) & (np.maximum(variance_1, variance_2) > _MIN_VARIANCE)
    similar = covariance > _MIN_CORRELATION * np.sqrt(np.maximum(variance_1, 1) * np.maximum(variance_2, 1))
    return float(similar[compared].mean()) if compared.any() else 0.0


def _resize_to_area(grey: Image.Image, side: int) -> NDArray[np.uint8]:
    """Resizes to about side² pixels. A very long image loses its proportions."""
    from PIL import Image

    scale = side / (grey.width * grey.height) ** 0.5
    width, height = (int(np.clip(round(length * scale), side // 4, side * 4)) for length in grey.size)
    return np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))
