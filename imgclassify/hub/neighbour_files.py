"""Reads what the files beside a model file say of it: class names, preprocessing, activation.

They may belong to another model in the same folder. So class names of another number are left out, and a warning
says what was taken if there are several models.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from imgclassify import labels as label_sets
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import CheckpointError, LabelsError
from imgclassify.hub import image_processor, metadata
from imgclassify.hub.class_names import name_wnids
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.model_files import CONFIG, PROCESSOR_CONFIGS, FolderFiles, read_json, read_processor_config
from imgclassify.hub.network import LoadOptions
from imgclassify.hub.reference import FILE_SUFFIXES
from imgclassify.labels import LabelSet

logger = logging.getLogger("imgclassify")

_LABEL_FILES = tuple(
    stem + suffix
    for stem in (
        *("labels", "classes", "class_names", "class_to_idx", "class_indices", "index_to_name", "id2label"),
        *("idx_to_class", "idx_to_label", "label_names", "label_map", "labels_map", "class_map", "categories"),
        "synset",
    )
    for suffix in (".txt", ".json", ".csv")
)
"""Names of label files, the first preferred. The model's name may be in front: birds.labels.txt of birds.onnx."""
_SEPARATORS = "._-"
_MAX_FILES = 1000
"""Files of a folder that are looked at for other models."""


class NeighbourFiles:
    """The files beside a model file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._config = _read_config(path)
        self._is_of_transformers = isinstance(self._config.get("model_type"), str)

    def find_architectures(self) -> list[tuple[str, str]]:
        """Returns metadata.find_architectures of a config.json as timm writes it."""
        return [] if self._is_of_transformers else metadata.find_architectures(self._config)

    def complete(
        self,
        known: FileConfig,
        options: LoadOptions,
        *,
        num_classes: Collection[int] = (),
        spec: PreprocessSpec | None = None,
    ) -> FileConfig:
        """Adds what the files say to what the model file says.

        Args:
            known: what the model file says, which counts first.
            options: class names are not read if the user gives others, or needs none.
            num_classes: how many names the classes of the network may have. Empty if it is not known.
            spec: the preprocessing of the architecture, if it is known.
        """
        found = metadata.read_config(self._config, CONFIG, spec=spec, num_classes=num_classes)
        if known.labels is None and options.with_labels and options.labels is None:
            known = known.combine(next(self._iter_labels(found.labels, num_classes), FileConfig()))
        known = known.combine(self._read_processor(options))
        if self._is_of_transformers:
            # The sizes in its config.json are those of the network. How images are prepared is in another file.
            return known.combine(self._read_activation())
        origins = {name: origin for name, origin in found.origins.items() if name != "labels"}
        return known.combine(found._replace(labels=None, origins=origins))

    def digest(self) -> str:
        """Returns a digest of which files there are, with their sizes and modification times."""
        digest = hashlib.sha256()
        for name in (CONFIG, *PROCESSOR_CONFIGS, *self._own_label_files(), *_LABEL_FILES):
            with suppress(OSError):
                status = self._path.with_name(name).stat()
                digest.update(f"{name} {status.st_size} {status.st_mtime_ns} ".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _own_label_files(self) -> list[str]:
        """Returns the names that label files of this model alone may have."""
        return [f"{self._path.stem}{separator}{name}" for name in _LABEL_FILES for separator in _SEPARATORS]

    def _iter_labels(self, in_config: LabelSet | None, num_classes: Collection[int]) -> Iterator[FileConfig]:
        """Yields class names, the likeliest first."""
        for labels in self._iter_label_files(self._own_label_files(), num_classes):
            yield _to_config(labels)
        others = self._iter_label_files(_LABEL_FILES, num_classes)
        for labels in chain([in_config] if in_config else [], others):
            if count := self._count_other_models():
                logger.warning(
                    "the class names are those in %s, although its folder has %d other model%s",
                    labels.name,
                    count,
                    "s" if count > 1 else "",
                )
            yield _to_config(labels)

    def _iter_label_files(self, names: Collection[str], num_classes: Collection[int]) -> Iterator[LabelSet]:
        for name in names:
            path = self._path.with_name(name)
            if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for names that are too long
                continue
            try:
                labels = label_sets.load_labels(path).labels
            except LabelsError as error:
                logger.warning("the class names in a file beside the model are not used: %s", error)
                continue
            if num_classes and len(labels) not in num_classes:
                logger.warning(
                    "%s, which is beside the model, has %d class names, and the network has %d classes: not used",
                    path,
                    len(labels),
                    min(num_classes),
                )
                continue
            yield LabelSet(str(path), name_wnids(labels))

    def _count_other_models(self) -> int:
        """Returns how many other models are in the folder. Files that differ only in their suffix are one model."""
        stems: set[str] = set()
        with suppress(OSError):  # the folder may be one that cannot be listed
            paths = islice(self._path.parent.iterdir(), _MAX_FILES)
            stems.update(path.stem for path in paths if path.suffix.lower() in FILE_SUFFIXES)
        return len(stems - {self._path.stem})

    def _read_processor(self, options: LoadOptions) -> FileConfig:
        """Reads the configuration of an image processor of transformers."""
        try:
            found = read_processor_config(FolderFiles(str(self._path), self._path.parent))
            if found is None:
                return FileConfig()
            config, name = found
            spec = image_processor.to_spec(
                config,
                options.overrides,
                model_type=str(self._config.get("model_type", "")),
                num_channels=3,
                source=name,
            )
        except CheckpointError as error:
            logger.warning("the preprocessing in a file beside the model is not used: %s", error)
            return FileConfig()
        return FileConfig(spec=spec, origins={"preprocess": name})

    def _read_activation(self) -> FileConfig:
        activation = metadata.ACTIVATION_OF_PROBLEM.get(str(self._config.get("problem_type")))
        return FileConfig(
            activation=activation,
            origins={"activation": f"problem_type in {CONFIG}"} if activation else {},
        )


def _to_config(labels: LabelSet) -> FileConfig:
    return FileConfig(labels=labels, origins={"labels": labels.name})


def _read_config(path: Path) -> dict[str, Any]:
    """Returns the content of the config.json beside a file, or nothing if it is no such file."""
    config = path.with_name(CONFIG)
    if not config.is_file():
        return {}
    try:
        return read_json(config)
    except CheckpointError as error:
        logger.warning("%s", error)
        return {}
