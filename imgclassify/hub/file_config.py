"""Defines what the files of a model say about it: class names, preprocessing, activation, architecture.

The readers are elsewhere: each knows one kind of file. Here, what they found is put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import LabelsError
from imgclassify.hub.network import PreprocessOverrides
from imgclassify.labels import LabelSet
from imgclassify.labels.class_matching import match_classes


class FileConfig(NamedTuple):
    """What the files of a model say about it. None where they say nothing."""

    arch: str | None = None
    """The architecture, as a reference that `--arch` takes."""
    labels: LabelSet | None = None
    """The class names, in class-index order. The name of the set says where they were found."""
    preprocess: PreprocessOverrides = PreprocessOverrides()
    spec: PreprocessSpec | None = None
    """The preprocessing, if the files say all of it. `preprocess` changes it."""
    activation: str | None = None
    """One of ACTIVATIONS."""
    origins: Mapping[str, str] = {}
    """Field → where it was found, such as "preprocess" → "config.json"."""

    def combine(self, other: FileConfig) -> FileConfig:
        """Returns what both say. Where both say something, the first one counts."""
        return FileConfig(
            arch=self.arch or other.arch,
            labels=self.labels or other.labels,
            preprocess=self.preprocess.combine(other.preprocess),
            spec=self.spec or other.spec,
            activation=self.activation or other.activation,
            origins={**other.origins, **self.origins},
        )

    def create_preprocess(self, given: PreprocessOverrides, reference: str) -> PreprocessSpec:
        """Returns the preprocessing that the files and the user describe together. The user's values count first.

        Args:
            given: the user's values.
            reference: names the model in errors.

        Raises:
            UsageError: a value is missing. Nothing is guessed.
        """
        if self.spec:
            return self.adapt_preprocess(self.spec, given)
        return self.complete_overrides(given).to_spec(reference)

    def adapt_preprocess(self, spec: PreprocessSpec, given: PreprocessOverrides) -> PreprocessSpec:
        """Returns an architecture's preprocessing with the values of the files and of the user."""
        return self.complete_overrides(given).apply_to(self.spec or spec)

    def complete_overrides(self, given: PreprocessOverrides) -> PreprocessOverrides:
        """Returns the user's values, and those of the files where the user gives none."""
        return given.combine(self.preprocess)

    def check_labels(self, given: LabelSet) -> None:
        """Compares the user's labels with the class names in the files.

        Raises:
            LabelsError: most of them are the same names, but in another order. Other names may be a translation.
        """
        if self.labels is None:
            return
        shared = match_classes(self.labels, given)
        moved = [index for index, other in shared.items() if index != other]
        if moved and 2 * len(shared) > len(self.labels):
            index = min(moved)
            raise LabelsError(
                f"{given.name} contradicts the model: class {index} is {given[index].label!r} there, but "
                f"{self.labels[index].label!r} in {self.labels.name}, which has these names in another order",
                hint="leave out --labels: the model has its own class names",
            )
