"""Groups images that are the same file, the same pixels, or the same image changed."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify import pipeline
from imgclassify.engines import FEATURES
from imgclassify.errors import ImageError, UsageError, make_printable
from imgclassify.images import MAX_PIXELS, decoding
from imgclassify.images.inputs import ImageInput
from imgclassify.results import ImageFailure
from imgclassify.runner import default_workers
from imgclassify.similarity.neighbours import find_similar_pairs, unit_vectors
from imgclassify.similarity.union_find import UnionFind
from imgclassify.sources.source import read_all

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from imgclassify.runner import ImageOutputs, ModelRunner
    from imgclassify.similarity.fingerprint_store import FingerprintStore
    from imgclassify.sources import Source

__all__ = ["STAGES", "DuplicateFinder", "DuplicateGroup", "GroupMember", "ImageFacts"]

STAGES = ("bytes", "pixels", "vector")
"""What makes two images duplicates: equal bytes of the files, equal pixels, or a network and an alignment that find
the same image in both. Each stage includes those before it."""
NEIGHBOURS = 20
"""An image is compared in detail with this many others, the nearest by the network's features."""
MIN_COSINE = 0.5
"""Two images whose features have a smaller cosine are not compared in detail."""
_LAPLACIAN = (0, -1, 0, -1, 4, -1, 0, -1, 0)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image, without its pixels."""

    source: str
    num_bytes: int | None = None
    """Size of the file. None if it could not be read."""
    sha256: bytes | None = None
    """Digest of the file. None if it could not be read."""
    width: int | None = None
    """Pixels, upright. None if the image was not decoded."""
    height: int | None = None
    pixels_sha256: bytes | None = None
    """Digest of the size and the upright RGB pixels. None if the image was not decoded."""
    sharpness: float | None = None
    """Variance of the grey image's Laplacian (Pech-Pacheco et al. 2000), cut off at ±128. Only comparable between
    images of the same size."""
    modified: float | None = None
    """When the file was last modified, in seconds since 1970. None if it is not a file of its own."""
    error: ImageFailure | None = None
    """Why the image could not be read or decoded. If it could be read, it can still be the same file as another."""


class GroupMember(NamedTuple):
    """An image of a group."""

    facts: ImageFacts
    relation: str
    """How it relates to the keeper: "keeper", "same file", "same pixels" or "changed"."""
    agreement: float | None
    """The share of the overlap with the keeper that looks alike, 0..1. None unless the relation is "changed"."""


class DuplicateGroup(NamedTuple):
    """Images that are duplicates of each other."""

    members: tuple[GroupMember, ...]
    """The keeper first, then the others in the order of their sources."""
    reason: str
    """Why the keeper is the one to keep: "largest", "sharpest", "oldest" or "first"."""


class DuplicateFinder:
    """Reads images, and then groups them. Only hashes, vectors and a temporary file are kept, no pixels."""

    def __init__(
        self,
        stage: str = "vector",
        *,
        runner: ModelRunner | None = None,
        threshold: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """
        Args:
            stage: one of STAGES.
            runner: created with the output "features". The stage "vector" needs it.
            threshold: for the stage "vector", the least share of two images that must look alike, 0..1. None is
                alignment.MIN_AGREEMENT.
            max_pixels: limit on width × height. A larger image is not decoded, and gets an error.

        Raises:
            UsageError: the stage is unknown, or the threshold is out of its range.
            UnavailableError: OpenCV is missing, which the stage "vector" needs.
        """
        if stage not in STAGES:
            raise UsageError(f"unknown stage {stage!r}", hint=f"use one of {', '.join(STAGES)}")
        if threshold is not None and not 0 < threshold <= 1:
            raise UsageError(f"the threshold is {threshold!r}", hint="give a number above 0 and up to 1")
        self.num_pairs = 0
        """How many pairs of images `find_groups` compares in detail."""
        self.num_compared = 0
        """How many it has compared so far. Another thread may read it."""
        self._stage = stage
        self._max_pixels = max_pixels
        self._threshold = threshold
        self._facts: list[ImageFacts] = []
        self._vectors: dict[int, NDArray[np.float32]] = {}
        """Of the first image with its pixels, by its index."""
        self._fingerprints: FingerprintStore | None = None
        self._runner = runner
        if stage == "vector":
            from imgclassify.similarity.alignment import require_opencv
            from imgclassify.similarity.fingerprint_store import FingerprintStore

            require_opencv()
            assert runner is not None
            self._fingerprints = FingerprintStore()

    def stream(
        self, sources: Iterable[Source], *, stop_event: Event | None = None
    ) -> Generator[ImageFacts, None, None]:
        """Reads sources.

        Args:
            stop_event: once it is set, no further source is taken.

        Yields:
            What is known of each image, in order.

        Raises:
            UnavailableError: the network cannot process the images.
        """
        seen: set[bytes] = set()
        for facts, vector, fingerprint in self._inspect_all(sources, stop_event):
            if vector is not None and facts.pixels_sha256 not in seen:
                assert self._fingerprints is not None
                assert facts.pixels_sha256 is not None
                seen.add(facts.pixels_sha256)
                self._vectors[len(self._facts)] = vector
                self._fingerprints.add(len(self._facts), fingerprint)
            self._facts.append(facts)
            yield facts

    def find_groups(self) -> list[DuplicateGroup]:
        """Returns the groups of two or more images among those read, in the order of their first images."""
        groups = UnionFind(len(self._facts))
        for key in ("sha256", "pixels_sha256"):
            first: dict[bytes, int] = {}
            for index, facts in enumerate(self._facts):
                if (digest := getattr(facts, key)) is not None:
                    groups.join(first.setdefault(digest, index), index)
        for one, other in self._find_changed_pairs():
            groups.join(one, other)
        return [self._describe_group(members) for members in groups.sets() if len(members) > 1]

    # Reading ------------------------------------------------------------------------------------------------

    def _inspect_all(
        self, sources: Iterable[Source], stop_event: Event | None
    ) -> Iterator[tuple[ImageFacts, NDArray[np.float32] | None, Any]]:
        """Yields (facts, features, fingerprint) for each source."""
        if self._stage != "vector":
            yield from self._inspect_files(sources, stop_event)
            return
        assert self._runner is not None
        pending: deque[_InspectedInput] = deque()

        def inputs() -> Iterator[_InspectedInput]:
            for source in sources:
                pending.append(_InspectedInput(source.name, source))
                yield pending[-1]

        for outputs in self._runner.run(inputs(), stop_event=stop_event):
            read = pending.popleft()
            yield _complete_facts(read.facts, outputs), (outputs.arrays or {}).get(FEATURES), read.fingerprint

    def _inspect_files(
        self, sources: Iterable[Source], stop_event: Event | None
    ) -> Iterator[tuple[ImageFacts, None, None]]:
        """Reads sources without a network."""

        def prepare(source: Source, _slot: int) -> pipeline.Completed[tuple[ImageFacts, None, None]]:
            return pipeline.Completed((self._inspect(source), None, None))

        def compute(_prepared: list[ImageFacts], _slots: list[int]) -> list[tuple[ImageFacts, None, None]]:
            return []  # every item is completed when it is prepared

        yield from pipeline.run_pipeline(
            sources, prepare, compute, batch_size=1, workers=default_workers(), stop_event=stop_event
        )

    def _inspect(self, source: Source) -> ImageFacts:
        """Reads a source, and decodes it unless the stage is "bytes"."""
        facts = ImageFacts(source.name)
        try:
            content, facts = _read_file(source)
            if self._stage == "bytes":
                return facts
            return _describe_pixels(decoding.decode_image(BytesIO(content), max_pixels=self._max_pixels), facts)
        except ImageError as error:
            return replace(facts, error=ImageFailure(error.type, make_printable(str(error))))

    # Grouping -----------------------------------------------------------------------------------------------

    def _find_changed_pairs(self) -> Iterator[tuple[int, int]]:
        """Yields the pairs of images with different pixels that show the same image."""
        if len(self._vectors) < 2:
            return
        import numpy as np

        from imgclassify.similarity.alignment import MIN_AGREEMENT

        least = MIN_AGREEMENT if self._threshold is None else self._threshold
        indices = np.array(list(self._vectors))
        vectors = unit_vectors(np.stack(list(self._vectors.values())))
        pairs = find_similar_pairs(vectors, neighbours=NEIGHBOURS, min_cosine=MIN_COSINE)
        self.num_pairs = len(pairs)
        for one, other in indices[pairs].tolist():
            self.num_compared += 1
            if self._agreement(one, other) >= least:
                yield one, other

    def _agreement(self, one: int, other: int) -> float:
        from imgclassify.similarity.alignment import align

        assert self._fingerprints is not None
        return align(self._fingerprints.read(one), self._fingerprints.read(other)).agreement

    def _describe_group(self, indices: list[int]) -> DuplicateGroup:
        keeper, reason = _choose_keeper([(index, self._facts[index]) for index in indices])
        others = [self._relate(index, keeper) for index in indices if index != keeper]
        return DuplicateGroup((GroupMember(self._facts[keeper], "keeper", None), *others), reason)

    def _relate(self, index: int, keeper: int) -> GroupMember:
        facts, kept = self._facts[index], self._facts[keeper]
        if facts.sha256 == kept.sha256:
            return GroupMember(facts, "same file", None)
        if facts.pixels_sha256 == kept.pixels_sha256:
            return GroupMember(facts, "same pixels", None)
        return GroupMember(facts, "changed", self._agreement(self._twin(index), self._twin(keeper)))

    def _twin(self, index: int) -> int:
        """Returns the first image with the same pixels, which has the vector and the fingerprint."""
        digest = self._facts[index].pixels_sha256
        return next(each for each in self._vectors if self._facts[each].pixels_sha256 == digest)


class _InspectedInput(ImageInput):
    """An image of which the facts and the fingerprint are kept when the runner decodes it."""

    facts: ImageFacts
    fingerprint: Any = None

    def load_image(self, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> Image.Image:
        """See ImageInput.load_image."""
        from imgclassify.similarity.alignment import compute_fingerprint

        assert self.source is not None
        self.facts = ImageFacts(self.name)
        content, self.facts = _read_file(self.source)
        image = decoding.decode_image(BytesIO(content), max_pixels=max_pixels, decode_damaged=decode_damaged)
        self.facts = _describe_pixels(image, self.facts)
        self.fingerprint = compute_fingerprint(image)
        return image


def _complete_facts(facts: ImageFacts, outputs: ImageOutputs) -> ImageFacts:
    return replace(facts, error=outputs.error)


def _read_file(source: Source) -> tuple[bytes, ImageFacts]:
    """
    Raises:
        ImageError: the source cannot be read.
    """
    with source.open() as stream:
        content = read_all(stream, source.name)
    return content, ImageFacts(
        source.name,
        num_bytes=len(content),
        sha256=hashlib.sha256(content).digest(),
        modified=None if source.path is None else os.stat(source.path).st_mtime,  # noqa: PTH116 - the path may be bytes
    )


def _describe_pixels(image: Image.Image, facts: ImageFacts) -> ImageFacts:
    from PIL import ImageFilter, ImageStat

    edges = image.convert("L").filter(ImageFilter.Kernel((3, 3), _LAPLACIAN, scale=1, offset=128))
    digest = hashlib.sha256(f"{image.width}×{image.height}".encode())
    digest.update(image.tobytes())
    return replace(
        facts,
        width=image.width,
        height=image.height,
        pixels_sha256=digest.digest(),
        sharpness=ImageStat.Stat(edges).var[0],
    )


def _area(facts: ImageFacts) -> float:
    return (facts.width or 0) * (facts.height or 0)


def _sharpness(facts: ImageFacts) -> float:
    return facts.sharpness or 0.0


def _age(facts: ImageFacts) -> float:
    return float("-inf") if facts.modified is None else -facts.modified


def _choose_keeper(members: list[tuple[int, ImageFacts]]) -> tuple[int, str]:
    """Returns the index of the image to keep, and why it is kept (DuplicateGroup.reason)."""
    for measure, reason in ((_area, "largest"), (_sharpness, "sharpest"), (_age, "oldest")):
        best = max(measure(facts) for _, facts in members)
        members = [(index, facts) for index, facts in members if measure(facts) == best]
        if len(members) == 1:
            return members[0][0], reason
    return members[0][0], "first"
