"""What the records of a file rest on, kept with them, so that records of another kind are never added to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from imgclassify.results import RunInfo

SCHEMA = "imgclassify.output/1"
"""Names the shape of what `to_dict` gives; a breaking change raises the number."""

COMPARED_FIELDS = (
    "model",
    "architecture",
    "weights",
    "preprocess",
    "label_set",
    "label_set_sha256",
    "num_classes",
    "decode",
    "dtype",
)
"""What of a run changes its answers; engine and device change the last digits, as the batch does."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """A run, and how many predictions it gives an image."""

    run: dict[str, Any]
    """As RunInfo.to_dict gives it."""
    top_k: int

    @property
    def model(self) -> object:
        """The one that every record names."""
        return self.run.get("model")

    @classmethod
    def of(cls, run: RunInfo, top_k: int) -> Self:
        return cls(run.to_dict(), top_k)

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """
        Raises:
            ValueError: it is not what `to_dict` gives.
        """
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise ValueError(f"it is not of the schema {SCHEMA}")
        run, top_k = value.get("run"), value.get("top_k")
        if not isinstance(run, dict) or type(top_k) is not int or top_k < 1:
            raise ValueError("it does not say which run it is of")
        return cls(run, top_k)

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "run": self.run, "top_k": self.top_k}

    def differences(self, now: Provenance) -> list[str]:
        """What changes answers and is not the same `now`, each in words."""
        former, present = self._compared_values(), now._compared_values()
        names = [name for name in former | present if former.get(name) != present.get(name)]
        return [f"{name} was {former.get(name)!r} and is {present.get(name)!r}" for name in names]

    def _compared_values(self) -> dict[str, Any]:
        return _flatten({name: self.run.get(name) for name in COMPARED_FIELDS} | {"top_k": self.top_k})


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"weights.name": …} for {"weights": {"name": …}}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
