"""Reads programs of torch, which contain their own network: TorchScript, and what torch.export saves.

Both are read only with `--trust`. TorchScript can write files, and torch.export.load unpickles.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.errors import CheckpointError, UntrustedCodeError, describe_error
from imgclassify.hub import file_kind
from imgclassify.hub.backends import Backends
from imgclassify.hub.exported_config import ExportedConfig, read_exported
from imgclassify.hub.extra_files import read_extra_files

if TYPE_CHECKING:
    import torch


class _Kind(NamedTuple):
    """A format of programs."""

    name: str
    article: str
    danger: str
    """What a program can do that nobody wants."""
    read: Callable[[Path], torch.nn.Module]


class TorchProgram(NamedTuple):
    """A program that may be run."""

    texts: Mapping[str, str]
    """Its extra files by name."""
    exported: ExportedConfig | None
    """What `imgclassify export` says of it, if it has written it."""
    backends: Backends


def find_program(kind: str, reference: str, path: Path, *, trust: bool) -> TorchProgram:
    """Returns a program. It is read only when its network is built.

    Args:
        kind: file_kind.TORCHSCRIPT or PT2.
        reference: names the file in errors.

    Raises:
        UntrustedCodeError: `trust` is False.
        CheckpointError: the archive is damaged.
    """
    found = _KINDS[kind]
    if not trust:
        raise UntrustedCodeError(
            f"{reference!r} is {found.article} {found.name}, which can {found.danger}",
            hint="if you trust its author, give --trust, or use a checkpoint with --arch or an .onnx file instead, "
            "as `imgclassify export` writes it",
        )
    texts = read_extra_files(path, found.name)
    exported = read_exported(texts, path.name)
    outputs = tuple(exported.outputs) if exported else ()
    build = partial(_build, found, path, outputs)
    reason = f"{found.article} {found.name} runs only in torch"
    return TorchProgram(texts, exported, Backends(build, None, reason, takes_crops=exported is not None))


def _build(kind: _Kind, path: Path, outputs: tuple[str, ...]) -> torch.nn.Module:
    """Reads a program.

    Args:
        outputs: the names of what it returns, in order. Empty if they are not known.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with warnings.catch_warnings(), _quiet_loader():
            # Newer releases of torch warn that TorchScript is deprecated, but users still have such files.
            warnings.simplefilter("ignore")
            network = kind.read(path)
    except Exception as error:  # code that the program runs while it is loaded may raise any exception
        raise CheckpointError(
            f"cannot read {str(path)!r} as {kind.name}: {describe_error(error)}",
            hint="export or fetch the file again",
        ) from error
    return _name_outputs(network, outputs) if outputs else network


@contextmanager
def _quiet_loader() -> Iterator[None]:
    """Stops torch.export from logging errors that it raises as well."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _read_torchscript(path: Path) -> torch.nn.Module:
    import torch

    network: torch.nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return network


def _read_pt2(path: Path) -> torch.nn.Module:
    import torch

    class Program(torch.nn.Module):
        """The network of an exported program, also on another device.

        The program creates tensors on the device that it was exported on, which a plain module would keep.
        """

        def __init__(self, program: torch.export.ExportedProgram) -> None:
            super().__init__()
            self._program = program
            self.network = program.module()

        def forward(self, images: torch.Tensor) -> Any:
            return self.network(images)

        def train(self, mode: bool = True) -> Program:
            return self  # the network of a program has one mode, and would raise an exception

        def to(self, *args: Any, **settings: Any) -> Program:
            for value in (*args, *settings.values()):
                if isinstance(value, torch.device) and value.type != "cpu":
                    from torch.export.passes import move_to_device_pass

                    self.network = move_to_device_pass(self._program, str(value)).module()
            return super().to(*args, **settings)

    with path.open("rb") as stream:  # by its name, torch would refuse a file that has another extension
        return Program(torch.export.load(stream))


def _name_outputs(network: torch.nn.Module, names: tuple[str, ...]) -> torch.nn.Module:
    import torch

    class NamedOutputs(torch.nn.Module):
        """A program that returns its outputs by name."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.network(crops)
            return dict(zip(names, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))

        def to(self, *args: Any, **settings: Any) -> NamedOutputs:
            self.network = self.network.to(*args, **settings)  # torch would not ask the program itself
            return self

    return NamedOutputs()


_KINDS = {
    file_kind.TORCHSCRIPT: _Kind(
        "TorchScript program", "a", "read and write the files of this machine", _read_torchscript
    ),
    file_kind.PT2: _Kind(
        "program of torch.export", "a", "run any code, because torch opens it with pickle", _read_pt2
    ),
}
