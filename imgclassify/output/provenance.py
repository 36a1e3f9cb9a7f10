"""Describes the run that the records of an output come from.

It is stored with the records, so that records of an incompatible run are not added to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from imgclassify.output.records import Record, RecordType
from imgclassify.results import RunInfo

SCHEMA = "imgclassify.output/1"
"""Identifies the structure that `to_dict` returns. A breaking change increases the number."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """A run and its settings, as they are stored with its records."""

    run: dict[str, Any]
    """The value of RunInfo.to_dict."""
    settings: dict[str, int | str]
    """The settings that RecordType.setting_names and RecordType.optional_settings name."""

    @property
    def model(self) -> object:
        """The model that every record of the run names."""
        return self.run.get("model")

    @classmethod
    def from_run(cls, run: RunInfo, settings: dict[str, int | str]) -> Self:
        return cls(run.to_dict(), settings)

    @classmethod
    def from_dict(cls, value: Any, record_type: RecordType[Any]) -> Self:
        """Builds a provenance from a value that `to_dict` returned.

        Raises:
            ValueError: `to_dict` cannot have returned this value for this record type.
        """
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        run, settings = value.get("run"), {name: value.get(name) for name in record_type.setting_names}
        settings |= {name: value[name] for name in record_type.optional_settings if name in value}
        if not isinstance(run, dict) or not all(map(_is_setting, settings.values())):
            raise ValueError("the description of its run is missing or invalid")
        return cls(run, settings)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "run": self.run, **self.settings}

    def differences(self, now: Provenance, record_type: RecordType[Any]) -> list[str]:
        """Returns one text for each value that affects records and differs in `now`."""
        former, present = (_compared_values(each, record_type) for each in (self, now))
        unknown = {name for name in record_type.added_keys if name not in self.run}
        names = [name for name in former | present if former.get(name) != present.get(name) and name not in unknown]
        return [
            f"{name} was {_shorten(former.get(name))} and is now {_shorten(present.get(name))}" for name in names
        ]

    def describes(self, record: Record) -> bool:
        """Whether the record names this run's model."""
        return record.model == self.model


def _is_setting(value: object) -> bool:
    return value != "" if isinstance(value, str) else type(value) is int and value >= 1


def _compared_values(provenance: Provenance, record_type: RecordType[Any]) -> dict[str, Any]:
    return _flatten({name: provenance.run.get(name) for name in record_type.must_match} | provenance.settings)


def _shorten(value: object) -> str:
    if value is None:
        return "not given"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return (
            "[" + ", ".join(f"{each.get('label')} ({len(each.get('class_indices', ()))})" for each in value) + "]"
        )
    return repr(value)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns {"weights": {"name": …}} into {"weights.name": …}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
