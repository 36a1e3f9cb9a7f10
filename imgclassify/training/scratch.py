"""A network without weights, for a training from scratch."""

from __future__ import annotations

from functools import partial

from imgclassify.hub import architectures, from_arch
from imgclassify.hub.backends import Backends
from imgclassify.hub.network import Network, PreprocessOverrides


def create_scratch_network(
    arch: str, overrides: PreprocessOverrides, *, transform_input: bool | None = None
) -> Network:
    """Returns the network of an architecture. Its weights are random when it is built.

    Args:
        arch: a catalogued architecture, or `timm:NAME`.
        overrides: change the preprocessing that the architecture is published with.

    Raises:
        UnknownModelError: there is no such architecture.
    """
    manifest = from_arch.find_architecture(arch, transform_input=transform_input)
    return Network(
        model=manifest.name,
        architecture=manifest.architecture,
        weights="",
        path=None,
        sha256=None,
        preprocess=overrides.apply_to(manifest.preprocess),
        labels=None,
        num_classes=None,
        backends=Backends(partial(architectures.create_untrained, manifest, manifest.num_classes), None),
        quantized=architectures.is_quantized(manifest),
        gmacs=manifest.gmacs,
        manifest=manifest,
        layers=manifest.layers,
    )
