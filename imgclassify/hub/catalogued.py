"""Loads catalogued models: NAME, NAME@WEIGHTS, torchvision:NAME."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from imgclassify import catalog, checkpoints, weights
from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.checkpoints import StateDict
from imgclassify.errors import UnknownModelError
from imgclassify.hub import architectures
from imgclassify.hub.backends import Backends, backends_for
from imgclassify.hub.network import LoadOptions, Network, chosen_options, labels_for_manifest
from imgclassify.hub.reference import ModelReference, ReferenceLoader


class CataloguedLoader(ReferenceLoader):
    """Loads catalogued models; see ReferenceLoader. Weights come from the manifest's URL and are verified."""

    def find_architecture(self, reference: ModelReference) -> ModelManifest:
        name, at, version = reference.value.partition("@")
        try:
            return catalog.find_model(name, version if at else None)
        except UnknownModelError as error:
            known = any(each.name == name for each in catalog.load_manifests())
            if not known and (in_timm := _find_in_timm(name)):
                raise UnknownModelError(str(error), hint=f"timm has it: {in_timm}") from error
            raise

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        manifest = self.find_architecture(reference)
        catalog.require_weights(manifest)
        labels = labels_for_manifest(manifest, options, manifest.num_classes)
        preprocess = options.overrides.apply_to(manifest.preprocess)
        file = weights.fetch_weights(
            manifest.url, manifest.sha256, offline=options.offline, progress=options.progress
        )
        return Network(
            model=manifest.name if manifest.default else manifest.reference,
            architecture=manifest.architecture,
            # As for a file given as -m FILE: its records say the same.
            weights=file.path.name if manifest.file else manifest.weights,
            path=file.path,
            sha256=file.sha256,
            preprocess=preprocess,
            labels=labels,
            # A program must be run once, because it may end in softmax.
            num_classes=None if manifest.provider in catalog.PROGRAMS else manifest.num_classes,
            activation=manifest.activation or None,
            output_name=manifest.output_name or None,
            options=chosen_options(manifest.checkpoint_key, manifest) if manifest.file else {},
            quantized=architectures.is_quantized(manifest),
            gmacs=manifest.gmacs,
            manifest=None if manifest.provider in catalog.PROGRAMS else manifest,
            license=manifest.metadata.license if manifest.metadata else "",
            layers=manifest.layers,
            calibration=manifest.calibration if preprocess == manifest.preprocess else None,
            backends=_find_backends(manifest, preprocess, file.path, options),
        )


def _find_backends(
    manifest: ModelManifest, preprocess: PreprocessSpec, path: Path, options: LoadOptions
) -> Backends:
    if manifest.provider in catalog.PROGRAMS:
        from imgclassify.hub.local_file import program_backends  # few models need it

        return program_backends(manifest.provider, manifest.name, path, trust=options.trust)
    read: Callable[[], StateDict]
    if architectures.is_quantized(manifest):
        read = partial(architectures.read_quantized, path, manifest.checkpoint_key)
    elif manifest.file:
        from imgclassify.hub.checkpoint_fit import read_fitted  # published weights need no fitting

        read = partial(read_fitted, path, manifest)
        manifest = replace(manifest, rename=())
    else:
        read = partial(checkpoints.open_lazy, path)
    return backends_for(
        manifest,
        preprocess,
        read,
        source_name=f"the checkpoint {path.name}",
        num_classes=manifest.num_classes,
    )


def _find_in_timm(name: str) -> str | None:
    """Returns the reference of timm's model with this name, if there is one."""
    from imgclassify.hub.timm_registry import registered_names

    return f"timm:{name}" if name.partition(".")[0] in registered_names() else None
