"""Model references: the table of their kinds, and which kind a text is. Nothing else decides that."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from imgclassify.errors import UnknownModelError
from imgclassify.plugins import load_plugins

if TYPE_CHECKING:
    from imgclassify.catalog import ModelManifest
    from imgclassify.hub.network import LoadOptions, Network

__all__ = ["KINDS", "ModelReference", "ReferenceKind", "ReferenceLoader", "reference_forms"]

FILE_SUFFIXES = (".pth", ".pt", ".safetensors", ".onnx", ".bin", ".ckpt", ".tar")
"""A name with one of these is a file's, in lower or upper case."""

PLUGIN_GROUP = "imgclassify.model_references"
"""The entry points by which another package adds a ReferenceKind, which must have a scheme."""


class ReferenceKind(NamedTuple):
    """A kind of model reference: one row of KINDS."""

    name: str
    """Such as "timm"."""
    loader: str
    """The ReferenceLoader of this kind, as `module:class`. It is imported when it is used."""
    forms: dict[str, str]
    """How such a reference is written, and what it is. Help, hints and docs/models.md print them."""
    scheme: str | None = None
    """The word before the colon. Files and catalogued models have none."""
    takes_arch: bool = False
    """Whether `--arch` may go with it."""
    in_catalog: bool = False
    """Whether a manifest describes it, which is read without torch."""
    has_cached_weights: bool = False
    """Whether `models pull` can fetch its weights."""


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
    ),
    ReferenceKind(
        name="timm",
        loader="imgclassify.hub.timm_registry:TimmLoader",
        forms={
            "timm:NAME": "a model of timm's registry, such as `timm:resnet18.a1_in1k`: weights from the "
            "Hugging Face hub, preprocessing and labels from timm",
        },
        scheme="timm",
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
        name="file",
        loader="imgclassify.hub.local_file:FileLoader",
        forms={
            "FILE.pth, .pt, .safetensors": "a checkpoint, with `--arch NAME`",
            "FILE.onnx": "an ONNX graph",
            "FILE.pt": "a TorchScript program, with `--trust`",
        },
        takes_arch=True,
    ),
)
"""Every kind of model reference that imgclassify itself knows."""

CATALOGUED, TIMM, TORCH_HUB, FILE = KINDS


class ModelReference(NamedTuple):
    """What a model reference names."""

    text: str
    """As it was typed."""
    kind: ReferenceKind
    value: str
    """The text without its scheme."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Raises:
            UnknownModelError: it has a scheme that no kind has.
        """
        scheme, colon, rest = text.partition(":")
        if scheme == "torchvision" and colon:
            return cls(text, CATALOGUED, rest)
        if colon and (kind := _kind_of_scheme(scheme)):
            return cls(text, kind, rest)
        if "/" in text or "\\" in text or text.lower().endswith(FILE_SUFFIXES):
            return cls(text, FILE, text)
        if colon:
            raise UnknownModelError(
                f"unknown kind of model reference {text!r}", hint=f"the kinds: {', '.join(reference_forms())}"
            )
        return cls(text, CATALOGUED, text)

    def loader(self) -> ReferenceLoader:
        """The loader of its kind."""
        module, _, name = self.kind.loader.partition(":")
        loader: ReferenceLoader = getattr(import_module(module), name)()
        return loader


class ReferenceLoader:
    """Loads the models of one kind of reference."""

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        """The network, with its weights on disk and verified where a digest is published.

        Raises:
            UsageError: the reference is malformed, or lacks an option that its kind needs.
            UnavailableError: model, weights or labels cannot be had; its subclasses say which and why.
        """
        raise NotImplementedError

    def find_architecture(self, reference: ModelReference) -> ModelManifest:
        """The manifest that the reference names after `--arch`.

        Raises:
            UnknownModelError: it names none; the nearest are listed.
        """
        raise UnknownModelError(
            f"{reference.text!r} names no architecture", hint="give --arch a catalogued model, or timm:NAME"
        )

    def cache_key(self, reference: ModelReference) -> dict[str, Any]:
        """What the graph that `models prepare` makes depends on, besides weights and options: JSON values."""
        return {"reference": reference.text, "code": ""}


def reference_forms() -> list[str]:
    """How model references of every kind are written, those of other packages too."""
    return [form for kind in (*KINDS, *load_plugins(PLUGIN_GROUP, ReferenceKind)) for form in kind.forms]


def _kind_of_scheme(scheme: str) -> ReferenceKind | None:
    own = (kind for kind in KINDS if kind.scheme == scheme)
    # Other packages are searched only where no kind of our own has the scheme.
    return next(own, None) or next(
        (kind for kind in load_plugins(PLUGIN_GROUP, ReferenceKind) if kind.scheme == scheme), None
    )
