"""Describes how a checkpoint differs from an architecture: in its head, its stem, its depth or its width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from imgclassify.errors import CheckpointError, make_printable

Shape = tuple[int, ...]

SAVED_FROM_HINT = "give --arch NAME of the architecture that the checkpoint was saved from"
EXPORT_HINT = (
    "a network of an architecture of its own can be exported by its owner with torch.onnx.export, and given as "
    "-m FILE.onnx"
)
_CONVOLUTION = 4
"""The dimensions of the weight of a 2-d convolution."""
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A component of a name that is a number."""
_STATISTICS = re.compile(r".*\.running_(mean|var)")
_SHOWN = 5
"""The number of differing names that an error lists."""
_SHOWN_CHARACTERS = 200
"""The number of characters of each name that an error shows."""


class Differences(NamedTuple):
    """The names that differ between a checkpoint and an architecture."""

    missing: Sequence[str]
    unexpected: Mapping[str, str]
    """The checkpoint's names → the same without prefixes."""
    other: Sequence[tuple[str, Shape | None, Shape]]
    """(name, shape in the checkpoint or None if it has no tensor there, shape in the architecture)."""


class Misfit(NamedTuple):
    """Why a state_dict does not fit an architecture."""

    reason: str
    """A clause that follows "does not fit the architecture 'x'"."""
    hint: str
    matched: int
    """The number of parameters that the state_dict has."""
    rivals: tuple[str, ...] = ()
    """The keys of several networks that fit, if that is what is wrong."""

    @property
    def is_ambiguous(self) -> bool:
        return bool(self.rivals)

    @classmethod
    def ambiguous(cls, keys: Sequence[str], matched: int) -> Misfit:
        """
        Args:
            keys: those of the networks that fit.
        """
        return cls("", "", matched, tuple(keys))

    def under(self, key: str) -> Misfit:
        """Returns the same for a state_dict that is under a key."""
        return self._replace(rivals=tuple(".".join(filter(None, (key, each))) for each in self.rivals))

    def to_error(self, source_name: str, architecture: str, *, hint: str = "") -> CheckpointError:
        """
        Args:
            source_name: names the checkpoint.
            hint: replaces the misfit's own.
        """
        if self.is_ambiguous:
            keys = " and ".join(repr(make_printable(key, _SHOWN_CHARACTERS)) for key in self.rivals[:_SHOWN])
            return CheckpointError(
                f"{source_name} is ambiguous: it holds several networks that fit {architecture!r}: {keys}",
                hint=f"choose one, such as --checkpoint-key {next(filter(None, self.rivals), '')}",
            )
        return CheckpointError(
            f"{source_name} does not fit the architecture {architecture!r}; {self.reason}", hint=hint or self.hint
        )


def describe_differences(
    differing: Differences,
    shapes: Mapping[str, Shape],
    heads: Sequence[str],
    matched: int,
) -> Misfit:
    """Says which names differ, in which part of the network they are, and what that suggests.

    Args:
        shapes: those of the architecture, in the order of its layers.
        heads: the names of the head's parameters.
        matched: the number of the architecture's names that the checkpoint has.
    """
    listed = list_names(
        {
            "missing": differing.missing,
            "unexpected": list(differing.unexpected),
            "of another shape": [
                f"{name} is not a tensor"
                if found is None
                else f"{name} {format_shape(found)} where {format_shape(shape)} is expected"
                for name, found, shape in differing.other
            ],
        }
    )
    part, hint = _find_part(differing, shapes, heads, matched)
    return Misfit("; ".join(filter(None, (part, listed))), hint, matched)


def list_names(kinds: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{what}: {', '.join(make_printable(name, _SHOWN_CHARACTERS) for name in names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in kinds.items()
        if names
    )


def format_shape(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _find_part(
    differing: Differences, shapes: Mapping[str, Shape], heads: Sequence[str], matched: int
) -> tuple[str, str]:
    """Returns (a clause about the part of the network that differs, a hint)."""
    missing, unexpected = list(differing.missing), list(differing.unexpected.values())
    other = [name for name, *_ in differing.other]
    names = [*missing, *unexpected, *other]
    tops, head_tops = {_top(name) for name in shapes}, {_top(name) for name in heads}
    stem = next((_module(name) for name, shape in shapes.items() if len(shape) == _CONVOLUTION), "")
    if any(found is None for _, found, _ in differing.other):
        return "some of its parameters are not tensors", "save the state_dict of a floating-point network"
    if matched * 10 < len(shapes):
        return "hardly a name is the same, so it holds another network", SAVED_FROM_HINT
    if missing and all(name in heads for name in missing) and not unexpected and not other:
        return (
            "the head is missing: it holds a backbone, or the result of self-supervised training",
            "give a checkpoint that was trained to classify",
        )
    if missing and not unexpected and not other and all(_STATISTICS.fullmatch(name) for name in missing):
        return (
            "it has no statistics of batch norm, so it holds averages of parameters alone, or gradients",
            "give the checkpoint of the network itself, with its running_mean and running_var",
        )
    if any(_top(name) in head_tops for name in names) and all(
        name in heads or (name not in shapes and _top(name) in {*head_tops, *_others(unexpected, tops)})
        for name in names
    ):
        layers = {_module(name) for name in unexpected if name.endswith("weight")}
        count = f", with {len(layers)} layers" if len(layers) > 1 else ""
        return f"the head differs: it has another one{count}", EXPORT_HINT
    if names and head_tops < tops and all(_top(name) in head_tops for name in names):
        return "the head differs: it has other layers", EXPORT_HINT
    if other and all(_module(name) == stem for name in names):
        return "the stem differs, as in variants for small images or other numbers of channels", EXPORT_HINT
    if not other and (
        (unexpected and not missing and _are_blocks(unexpected, shapes) and not _have_blocks(shapes, unexpected))
        or (missing and not unexpected and _are_blocks(missing, shapes) and len(set(map(_module, missing))) > 1)
    ):
        blocks = list(dict.fromkeys(map(_block, names)))
        shown = ", ".join(blocks[:3]) + (f" and {len(blocks) - 3} more" if len(blocks) > 3 else "")
        what = "lacks blocks" if missing else "has more blocks"
        return f"the depth differs: it {what} ({shown})", SAVED_FROM_HINT
    if len(other) > max(3, len(shapes) // 4):
        return "the width differs: most layers have other shapes", SAVED_FROM_HINT
    if unexpected and not missing and not other:
        modules = list(dict.fromkeys(_module(name) or name for name in unexpected))
        shown = ", ".join(make_printable(module, _SHOWN_CHARACTERS) for module in modules[:3])
        return f"it has parts that the architecture has not ({shown})", EXPORT_HINT
    return "its layers are others", SAVED_FROM_HINT


def _top(name: str) -> str:
    return name.partition(".")[0]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _others(names: Sequence[str], tops: set[str]) -> set[str]:
    """Returns the first components of the names that the architecture has not."""
    return {_top(name) for name in names} - tops


def _are_blocks(names: Sequence[str], shapes: Mapping[str, Shape]) -> bool:
    """Whether the names are those of further blocks: names of the architecture, but for the numbers in them."""
    patterns = {_without_numbers(name) for name in shapes}
    return all(_NUMBER.search(name) and _without_numbers(name) in patterns for name in names)


def _have_blocks(shapes: Iterable[str], names: Iterable[str]) -> bool:
    """Whether the architecture has one of the blocks of these names, so that only a part of it is new."""
    return any(name.startswith(tuple(f"{_block(each)}." for each in names)) for name in shapes)


def _without_numbers(name: str) -> str:
    return _NUMBER.sub("#", name)


def _block(name: str) -> str:
    """Returns the name up to its last number."""
    end = list(_NUMBER.finditer(name))[-1].end()
    return make_printable(name[:end], _SHOWN_CHARACTERS)
