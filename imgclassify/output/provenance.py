"""The run that the records of a file are of. It is kept with them, so that records of another run are not added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from imgclassify.output.records import Record, RecordType
from imgclassify.results import RunInfo

SCHEMA = "imgclassify.output/1"
"""Names the shape of what `to_dict` gives. A breaking change raises its number."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """A run and its settings."""

    run: dict[str, Any]
    """As RunInfo.to_dict gives it."""
    settings: dict[str, int]
    """Those that RecordType.settings names."""

    @property
    def model(self) -> object:
        """The model that every record of the run names."""
        return self.run.get("model")

    @classmethod
    def from_run(cls, run: RunInfo, settings: dict[str, int]) -> Self:
        return cls(run.to_dict(), settings)

    @classmethod
    def from_dict(cls, value: Any, record_type: RecordType[Any]) -> Self:
        """
        Raises:
            ValueError: `to_dict` does not give such a value for this kind of record.
        """
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise ValueError(f"it is not of the schema {SCHEMA}")
        run, settings = value.get("run"), {name: value.get(name) for name in record_type.settings}
        if not isinstance(run, dict) or any(type(each) is not int or each < 1 for each in settings.values()):
            raise ValueError("it does not say which run it is of")
        return cls(run, settings)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "run": self.run, **self.settings}

    def differences(self, now: Provenance, record_type: RecordType[Any]) -> list[str]:
        """What changes records and is not the same `now`, each in words."""
        former, present = (_compared_values(each, record_type) for each in (self, now))
        names = [name for name in former | present if former.get(name) != present.get(name)]
        return [f"{name} was {former.get(name)!r} and is {present.get(name)!r}" for name in names]

    def describes(self, record: Record) -> bool:
        """Whether the record names this run's model."""
        return record.model == self.model


def _compared_values(provenance: Provenance, record_type: RecordType[Any]) -> dict[str, Any]:
    return _flatten({name: provenance.run.get(name) for name in record_type.compared} | provenance.settings)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"weights.name": …} for {"weights": {"name": …}}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
