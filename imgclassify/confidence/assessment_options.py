"""What may be said of an image beside its predictions."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imgclassify.errors import UsageError
from imgclassify.files import describe_content

SET_METHODS = ("lac", "raps")


@dataclass(frozen=True, slots=True)
class AssessmentOptions:
    """What is wanted beside the predictions. `Classifier` explains each option."""

    at_least: float | None = None
    tree: str | os.PathLike[str] | None = None
    threshold: float | None = None
    sets: float | None = None
    set_method: str = SET_METHODS[0]
    unfamiliar: bool = False

    def __post_init__(self) -> None:
        for name, value, most in (
            ("at_least", self.at_least, "above 0 and at most 1"),
            ("threshold", self.threshold, "above 0 and at most 1"),
            ("sets", self.sets, "above 0 and below 1"),
        ):
            if value is not None and not _is_share(value, below_one=name == "sets"):
                raise UsageError(f"{name} is {value!r}", hint=f"give a number {most}, such as 0.9", argument=name)
        if self.set_method not in SET_METHODS:
            raise UsageError(f"set_method is {self.set_method!r}", hint="use lac or raps", argument="set_method")
        if self.at_least is not None and self.threshold is not None:
            raise UsageError(
                "at_least is another way to answer than a threshold, and both are given",
                hint="give --at-least to climb to a more general answer, or --threshold to answer only where sure",
                argument="at_least",
            )
        if self.tree is not None and self.at_least is None:
            raise UsageError(
                "tree has no use here, because no answer climbs it", hint="add --at-least 0.9", argument="tree"
            )
        if self.set_method != SET_METHODS[0] and self.sets is None:
            raise UsageError(
                "set_method has no use here, because no sets are wanted",
                hint="add --sets 0.9",
                argument="set_method",
            )

    @property
    def answers(self) -> bool:
        """Whether an answer is wanted that may be another than the most probable class."""
        return self.at_least is not None or self.threshold is not None

    @property
    def fields(self) -> set[str]:
        """The fields of a record that are wanted, of records.OPTIONAL_FIELDS."""
        wanted = {"answer": self.answers, "set": self.sets is not None, "unfamiliar": self.unfamiliar}
        return {name for name, is_wanted in wanted.items() if is_wanted}

    def to_settings(self) -> dict[str, int | str]:
        """Returns the values that two runs must share to write to the same file, by the name of the option."""
        values = {
            "at_least": _format_share(self.at_least),
            "tree": "" if self.tree is None else describe_content(Path(self.tree)),
            "threshold": _format_share(self.threshold),
            "sets": "" if self.sets is None else f"{_format_share(self.sets)} ({self.set_method})",
        }
        return {name: value for name, value in values.items() if value}


def _is_share(value: object, *, below_one: bool) -> bool:
    with suppress(TypeError, ValueError, OverflowError):
        # A number of numpy is one, too.
        number = float(value)  # type: ignore[arg-type]
        return not isinstance(value, bool | str | bytes) and 0 < number <= 1 and not (below_one and number == 1)
    return False


def _format_share(value: float | None) -> str:
    """Returns all digits of a number: others are other answers. Empty for None."""
    return "" if value is None else repr(float(value)).removesuffix(".0")
