"""The decoded images of a training, without those that cannot be decoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from imgclassify.errors import ImageError, NoImagesError
from imgclassify.sources.source import read_all
from imgclassify.training.augmentation import Augmentation
from imgclassify.training.image_store import (
    DecodeOptions,
    ImageStore,
    crop_decoder,
    image_decoder,
    open_store,
)
from imgclassify.training.progress import Progress, StoppedError
from imgclassify.training.work_folder import PARTS, PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.results import ImageFailure
    from imgclassify.training.dataset import LabelledSource
    from imgclassify.training.recipe import Recipe


class TrainingPart:
    """The images to learn from."""

    def __init__(
        self,
        store: ImageStore,
        images: Sequence[LabelledSource],
        augmentation: Augmentation,
        crop_shape: tuple[int, ...],
    ) -> None:
        """
        Args:
            crop_shape: (height, width, 3).
        """
        self.crop_shape = crop_shape
        self._store = store
        self._kept = _kept(store, images)
        self._augmentation = augmentation
        self.class_indices = _class_indices(images, self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def sample(self) -> NDArray[np.uint8]:
        """Returns the crops of two images, or of one twice: a batch that the network takes."""
        crops = np.empty((2, *self.crop_shape), np.uint8)
        for position, crop in zip((0, len(self) - 1), crops, strict=True):
            self.write_crop(0, position, crop)
        return crops

    def write_crop(self, epoch: int, position: int, out: NDArray[np.uint8]) -> None:
        """Writes the augmented crop of an image for an epoch. Any thread may call it."""
        self._augmentation(self._store.read(self._kept[position]), epoch, position, out)


class ValidationPart:
    """The images that tell how good the network is."""

    def __init__(self, store: ImageStore, images: Sequence[LabelledSource], crop_shape: tuple[int, ...]) -> None:
        self._store = store
        self.crop_shape = crop_shape
        self.kept = _kept(store, images)
        """The positions of the images that could be decoded."""
        self.class_indices = _class_indices(images, self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Returns the crops of some images, (N, H, W, 3): those of predict."""
        chosen = self.kept[start:stop]
        crops = np.empty((len(chosen), *self.crop_shape), np.uint8)
        for row, index in zip(crops, chosen, strict=True):
            row[...] = self._store.read(index)
        return crops


def _kept(store: ImageStore, images: Sequence[LabelledSource]) -> list[int]:
    return [index for index in range(len(images)) if index not in store.failures]


def _class_indices(images: Sequence[LabelledSource], kept: Sequence[int]) -> NDArray[np.int64]:
    return np.array([images[index].class_index for index in kept], np.int64)


class TrainingData:
    """Both parts, and what tells them from others."""

    def __init__(
        self, train: TrainingPart, val: ValidationPart, digest: str, failures: dict[str, ImageFailure]
    ) -> None:
        self.train = train
        self.val = val
        self.digest = digest
        """SHA-256 of the content of the images and of their classes, in their order, without those that failed."""
        self.failures = failures
        """Why images were left out, by the names of their sources."""


def open_data(
    train: Sequence[LabelledSource],
    val: Sequence[LabelledSource],
    recipe: Recipe,
    preprocess: PreprocessSpec,
    folder: Path,
    *,
    seed: int,
    options: DecodeOptions,
    digest: str | None,
    report: Callable[[Progress], None],
    stop_event: Event,
) -> TrainingData:
    """Decodes the images of a training into two files in `folder`, unless an earlier run has done so.

    Args:
        digest: changes with the content of any image and with its class. None reads the images once to compute it.

    Raises:
        StoppedError: `stop_event` was set before all images had been decoded.
        NoImagesError: no image to learn from can be decoded.
    """
    digest = digest or digest_images([*train, *val])
    whole = recipe.crop == "resized"
    crops = crop_decoder(preprocess, options)
    decode = image_decoder(preprocess.crop_size, recipe.crop_scale[0], options) if whole else crops
    done = count(1)
    total = len(train) + len(val)
    stores = []
    kind_of_train = f"whole {recipe.crop_scale[0]}" if whole else "crop"
    for name, images, decoder, kind in zip(
        PARTS, (train, val), (decode, crops), (kind_of_train, "crop"), strict=True
    ):
        store = open_store(
            folder / f"{name}{PIXELS}",
            [image.source for image in images],
            decoder,
            json.dumps([digest, len(images), kind, preprocess.to_dict(), options]),
            on_image=lambda: report(Progress("images", next(done), total)),
            stop_event=stop_event,
        )
        if store is None:
            raise StoppedError
        stores.append(store)
    if len(stores[0].failures) == len(train):
        raise NoImagesError("no image to learn from can be decoded", hint="the warnings say why")
    shape = (*preprocess.crop_size, 3)
    return TrainingData(
        TrainingPart(stores[0], train, Augmentation(recipe, preprocess, seed), shape),
        ValidationPart(stores[1], val, shape),
        hashlib.sha256(repr([digest, *(sorted(store.failures) for store in stores)]).encode()).hexdigest(),
        {
            images[index].source.name: failure
            for images, store in zip((train, val), stores, strict=True)
            for index, failure in store.failures.items()
        },
    )


def digest_images(images: Sequence[LabelledSource]) -> str:
    """Returns the SHA-256 of the content of images and of their classes, in their order."""
    digest = hashlib.sha256()
    for image in images:
        try:
            with image.source.open() as stream:
                content = hashlib.sha256(read_all(stream, image.source.name)).digest()
        except (ImageError, OSError) as error:
            content = type(error).__name__.encode()
        digest.update(b"%d %d " % (image.class_index, len(content)) + content)
    return digest.hexdigest()
