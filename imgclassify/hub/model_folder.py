"""Loads models from folders as imgclassify, timm and transformers save them: weights, and what describes them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgclassify.errors import CheckpointError
from imgclassify.hub import own_folder
from imgclassify.hub.file_kind import find_folder_kind
from imgclassify.hub.model_files import (
    CONFIG,
    FORMS_HINT,
    MANIFEST,
    MARK,
    FolderFiles,
    ModelFiles,
    digest_of_configs,
    read_calibration,
    read_config,
    read_json,
)
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.reference import FILE_SUFFIXES, ModelReference, ReferenceLoader


class FolderLoader(ReferenceLoader):
    """Loads folders; see ReferenceLoader."""

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        return load_folder(_Folder(reference.text, _folder_of(reference)), options)

    def is_quick(self, reference: ModelReference) -> bool:
        return FolderFiles(reference.text, _folder_of(reference)).find_local(MANIFEST) is not None

    def cache_key(self, reference: ModelReference) -> dict[str, Any]:
        folder = _folder_of(reference).absolute()
        return {"reference": str(folder), "code": digest_of_configs(FolderFiles(reference.text, folder))}


def _folder_of(reference: ModelReference) -> Path:
    name = reference.value
    return Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises for unknown users


class _Folder(FolderFiles):
    def missing(self, name: str) -> Exception:
        error = CheckpointError(
            f"the folder {self.reference!r} has no {name}",
            hint=FORMS_HINT,
        )
        if not self.folder.is_dir():
            return CheckpointError(f"no such folder: {str(self.folder)!r}", hint="check the path")
        if kind := find_folder_kind(self.folder):
            return CheckpointError(f"{self.reference!r} is {kind.name}", hint=kind.hint)
        held = [path for path in sorted(self.folder.iterdir()) if path.suffix.lower() in FILE_SUFFIXES]
        if name == CONFIG and held:
            error.hint = f"give the file itself: -m {os.path.join(self.reference, held[0].name)}"  # noqa: PTH118
        return error


def load_folder(files: ModelFiles, options: LoadOptions) -> Network:
    """Loads the network of a model folder of any form.

    Raises:
        UnavailableError: a file is missing or malformed, or the model is not an image classifier.
        UsageError: as in `from_arch.find_labels`.
    """
    if path := _find_manifest(files):
        return own_folder.load_network(files, path, options)
    network = _load_foreign(files, options)
    return replace(network, own_calibration=read_calibration(files, fetch=False))


def _find_manifest(files: ModelFiles) -> Path | None:
    """Returns the imgclassify.toml of a folder, or None if it has none.

    A repository is asked for one only if its config.json is ours or is missing, so that others cost no request.
    """
    if path := files.find_local(MANIFEST):
        return path
    config = files.find(CONFIG)
    return files.find(MANIFEST) if config is None or MARK in read_json(config) else None


def _load_foreign(files: ModelFiles, options: LoadOptions) -> Network:
    from imgclassify.hub import timm_folder, transformers_folder  # a folder of ours needs neither

    config = read_config(files)
    model_type = config.get("model_type")
    # transformers has a type for the models of timm, and writes timm's configuration for it.
    if isinstance(config.get("architecture"), str) and model_type in (None, "timm_wrapper"):
        return timm_folder.load_network(files, config, options)
    if isinstance(model_type, str):
        return transformers_folder.load_network(files, config, options)
    raise CheckpointError(
        f"{CONFIG} of {files.reference} names no network: it has neither `architecture`, as timm writes it, nor "
        "`model_type`, as transformers writes it",
        hint="give a folder that timm or transformers has saved; or a checkpoint in it as -m FILE --arch NAME",
    )
