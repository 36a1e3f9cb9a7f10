"""Defines the kinds of model reference, and parses a reference into its kind and value.

No other module decides of which kind a reference is.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from imgclassify import catalog
from imgclassify.errors import UnknownModelError
from imgclassify.plugins import load_plugins

if TYPE_CHECKING:
    from imgclassify.catalog import ModelManifest
    from imgclassify.hub.network import LoadOptions, Network

__all__ = ["KINDS", "ModelReference", "ReferenceKind", "ReferenceLoader", "reference_forms"]

FILE_SUFFIXES = (
    *(".pth", ".pt", ".safetensors", ".onnx", ".bin", ".ckpt", ".tar", ".th", ".pt2", ".torchscript", ".pkl"),
    *(".h5", ".hdf5", ".keras", ".tflite", ".pb", ".gguf", ".mlmodel", ".gz", ".zip"),
)
"""A reference that ends in one of these, in lower or upper case, is a file, whether it exists or not."""

PLUGIN_GROUP = "imgclassify.model_references"
"""The entry point group in which other packages add a ReferenceKind. Theirs must have a scheme."""


class ReferenceKind(NamedTuple):
    """A kind of model reference: one row of KINDS."""

    name: str
    """The name of the kind, such as "timm"."""
    loader: str
    """The ReferenceLoader of this kind, as `module:class`. It is imported when it is first needed."""
    forms: dict[str, str]
    """Each way to write such a reference → what it names. Printed in help, hints and docs/models.md."""
    scheme: str | None = None
    """The word before the colon. Files and catalogued models have none."""
    takes_arch: bool = False
    """Whether `--arch` can be given with such a reference."""
    in_catalog: bool = False
    """Whether a manifest describes the model. Manifests are read without torch."""
    has_cached_weights: bool = False
    """Whether `models pull` can fetch the weights."""
    has_architecture: bool = False
    """Whether `find_architecture` describes such a model, and so tells its preprocessing without its weights."""


KINDS = (
    ReferenceKind(
        name="catalogued",
        loader="imgclassify.hub.catalogued:CataloguedLoader",
        forms={
            "NAME": "a catalogued model with its default weights, such as `resnet50`",
            "NAME@WEIGHTS": "the same architecture with other weights, such as `resnet50@IMAGENET1K_V1`",
            "torchvision:NAME": "the same as `NAME`",
        },
        in_catalog=True,
        has_cached_weights=True,
        has_architecture=True,
    ),
    ReferenceKind(
        name="timm",
        loader="imgclassify.hub.timm_registry:TimmLoader",
        forms={
            "timm:NAME": "a model from timm's registry, such as `timm:resnet18.a1_in1k`, with weights from the "
            "Hugging Face hub, preprocessing and labels from timm",
        },
        scheme="timm",
        has_cached_weights=True,
        has_architecture=True,
    ),
    ReferenceKind(
        name="Hugging Face",
        loader="imgclassify.hub.hugging_face:HuggingFaceLoader",
        forms={
            "hf:OWNER/REPO[@REVISION]": "a model folder on the Hugging Face hub, such as "
            "`hf:google/vit-base-patch16-224`; timm's spelling `timm:hf-hub:OWNER/REPO` means the same",
        },
        scheme="hf",
        has_cached_weights=True,
    ),
    ReferenceKind(
        name="torch.hub",
        loader="imgclassify.hub.torch_hub:TorchHubLoader",
        forms={
            "hub:OWNER/REPO[:REF]/ENTRYPOINT": "a torch.hub repository on GitHub, with `--trust`",
            "hub:./FOLDER/ENTRYPOINT": "a torch.hub repository in a folder, with `--trust`",
        },
        scheme="hub",
        takes_arch=True,
    ),
    ReferenceKind(
        name="folder",
        loader="imgclassify.hub.model_folder:FolderLoader",
        forms={"./FOLDER": "a model folder, as `imgclassify train`, timm and transformers save it"},
    ),
    ReferenceKind(
        name="file",
        loader="imgclassify.hub.local_file:FileLoader",
        forms={
            "FILE.pth, .pt, .safetensors": "a checkpoint, with `--arch NAME`",
            "FILE.onnx": "an ONNX graph",
            "FILE.pt, .torchscript, .pt2": "a program of TorchScript or torch.export, with `--trust`",
        },
        takes_arch=True,
    ),
)
"""The kinds of model reference that are part of imgclassify."""

CATALOGUED, TIMM, HUGGING_FACE, TORCH_HUB, FOLDER, FILE = KINDS

_TIMM_SOURCES = {"hf-hub": HUGGING_FACE, "hf_hub": HUGGING_FACE, "local-dir": FOLDER}
"""timm's own names for where a model folder is: `timm:hf-hub:OWNER/REPO`."""


class ModelReference(NamedTuple):
    """A parsed model reference."""

    text: str
    """The reference as typed."""
    kind: ReferenceKind
    value: str
    """The text without its scheme."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a model reference.

        Raises:
            UnknownModelError: no kind has the scheme of the reference.
        """
        scheme, colon, rest = text.partition(":")
        if scheme == "torchvision" and colon:
            return cls(text, CATALOGUED, rest)
        if colon and (kind := _kind_of_scheme(scheme)):
            source, _, name = rest.partition(":")
            if kind is TIMM and source in _TIMM_SOURCES:
                return cls(text, _TIMM_SOURCES[source], name)
            return cls(text, kind, rest)
        # Paths come before unknown schemes, since a path may contain a colon.
        if is_path(text) or _is_other_path(text):
            return cls(text, FOLDER if _is_folder(text) else FILE, text)
        if colon:
            raise UnknownModelError(
                f"unknown kind of model reference {text!r}", hint=f"use one of {', '.join(reference_forms())}"
            )
        return cls(text, CATALOGUED, text)

    def loader(self) -> ReferenceLoader:
        """Returns the loader of the reference's kind."""
        module, _, name = self.kind.loader.partition(":")
        loader: ReferenceLoader = getattr(import_module(module), name)()
        return loader


class ReferenceLoader:
    """Loads the models of one kind of reference."""

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        """Returns the network. Its weights are on disk, and verified if a digest is published.

        Raises:
            UsageError: the reference is malformed, or lacks an option that its kind needs.
            UnavailableError: the model, its weights or its labels are unavailable. The subclass shows why.
        """
        raise NotImplementedError

    def find_architecture(self, reference: ModelReference) -> ModelManifest:
        """Returns the manifest of a reference that was given as `--arch`.

        Raises:
            UnknownModelError: the reference does not name an architecture; the nearest names are listed.
        """
        raise UnknownModelError(
            f"{reference.text!r} does not name an architecture",
            hint="give --arch the name of a catalogued model, or timm:NAME",
        )

    def is_quick(self, reference: ModelReference) -> bool:
        """Whether the model is loaded without torch, timm or transformers, and so before a graph of it is searched
        in the cache of `models prepare`."""
        return reference.kind.in_catalog

    def cache_key(self, reference: ModelReference) -> dict[str, Any]:
        """Returns what a graph made by `models prepare` depends on, besides weights and options.

        The values must be JSON values.
        """
        return {"reference": reference.text, "code": ""}


def is_path(text: str) -> bool:
    """Whether a reference without a scheme can only be a path, whether anything is there or not."""
    return "/" in text or "\\" in text or text.lower().endswith(FILE_SUFFIXES) or text in (".", "..")


def _is_other_path(name: str) -> bool:
    """Whether there is a file or a model folder of this name in the current folder, and no catalogued model."""
    # os.path's functions take any text, also with a null byte. The embedded model costs no look at the disk.
    if name == catalog.EMBEDDED_MODEL or not (
        os.path.isfile(name)  # noqa: PTH113
        or any(os.path.isfile(os.path.join(name, each)) for each in ("config.json", "imgclassify.toml"))  # noqa: PTH113, PTH118
    ):
        return False
    model, at, weights = name.partition("@")
    try:
        catalog.find_model(model, weights if at else None)
    except UnknownModelError:
        return True
    return False


def reference_forms() -> list[str]:
    """Returns the forms of all kinds of model reference, including those that other packages add."""
    return [form for kind in (*KINDS, *load_plugins(PLUGIN_GROUP, ReferenceKind)) for form in kind.forms]


def _is_folder(name: str) -> bool:
    return os.path.isdir(os.path.expanduser(name))  # noqa: PTH111, PTH112 - Path's own raises for unknown users


def _kind_of_scheme(scheme: str) -> ReferenceKind | None:
    own = (kind for kind in KINDS if kind.scheme == scheme)
    # Other packages are searched only if no kind in KINDS has the scheme.
    return next(own, None) or next(
        (kind for kind in load_plugins(PLUGIN_GROUP, ReferenceKind) if kind.scheme == scheme), None
    )
