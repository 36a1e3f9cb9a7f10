"""The state of a training between two steps, in a file: all that its further steps depend on.

The file is a .safetensors with JSON in its metadata. It is replaced as a whole, so a killed process leaves either
the former state or the next.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from imgclassify.errors import UsageError, describe_error, short_repr
from imgclassify.files import atomic_write

_KEY = "imgclassify.training"
_DIGEST_LENGTH = 64
"""Digits of a SHA-256. What has one is named in the plural."""
_VERSION = 1
"""Increases when older states cannot be continued."""


@dataclass
class TrainingState:
    """What a training depends on, and where it is."""

    identity: dict[str, Any]
    """What must be the same to go on: plain values for JSON, by names for people."""
    values: dict[str, Any] = field(default_factory=dict)
    """Plain values for JSON."""
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        arrays = {
            name: tensor.detach().to("cpu", memory_format=torch.contiguous_format).numpy()
            for name, tensor in self.tensors.items()
        }
        text = json.dumps({"version": _VERSION, "identity": self.identity, "values": self.values})
        with atomic_write(path, locked=True) as draft:
            save_file(arrays, draft, {_KEY: text})

    @classmethod
    def load(cls, path: Path) -> TrainingState:
        """Reads a state.

        Raises:
            UsageError: the file is not a state that can be continued.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "np") as file:
                document = json.loads(file.metadata()[_KEY])
                tensors = {name: torch.from_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            if document["version"] != _VERSION:
                raise ValueError(f"it is of version {document['version']}")
            return cls(document["identity"], document["values"], tensors)
        except Exception as error:  # safetensors and JSON raise many kinds for damaged bytes
            raise UsageError(
                f"resume: the state in {str(path)!r} cannot be continued: {describe_error(error)}",
                hint="begin again without --resume",
                argument="resume",
            ) from error

    def require_same(self, identity: dict[str, Any], path: Path) -> None:
        """Checks that a training is the one that this is the state of.

        Raises:
            UsageError: something is not the same. The message says what.
        """
        identity = json.loads(json.dumps(identity))  # as it was saved: lists in place of tuples
        differences = [
            _describe_change(name, self.identity.get(name), identity.get(name))
            for name in self.identity | identity
            if self.identity.get(name) != identity.get(name)
        ]
        if differences:
            raise UsageError(
                f"resume: the training in {str(path.parent)!r} began with other settings: {'; '.join(differences)}",
                hint="give the same settings, or begin again without --resume",
                argument="resume",
            )


def _describe_change(name: str, former: object, now: object) -> str:
    if isinstance(now, str) and len(now) == _DIGEST_LENGTH:
        return f"{name} differ"
    return f"{name} was {short_repr(former)} and is now {short_repr(now)}"
