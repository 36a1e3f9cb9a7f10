"""Loads catalogued models: NAME, NAME@WEIGHTS, torchvision:NAME."""

from __future__ import annotations

from functools import partial

from imgclassify import catalog, checkpoints, weights
from imgclassify.catalog import ModelManifest
from imgclassify.errors import UnknownModelError
from imgclassify.hub import architectures
from imgclassify.hub.backends import backends_for
from imgclassify.hub.network import LoadOptions, Network, labels_for_manifest
from imgclassify.hub.reference import ModelReference, ReferenceLoader


class CataloguedLoader(ReferenceLoader):
    """Loads catalogued models; see ReferenceLoader. Weights come from the manifest's URL and are verified."""

    def find_architecture(self, reference: ModelReference) -> ModelManifest:
        name, at, version = reference.value.partition("@")
        try:
            return catalog.find_model(name, version if at else None)
        except UnknownModelError as error:
            if in_timm := _find_in_timm(name):
                raise UnknownModelError(str(error), hint=f"timm has it: {in_timm}") from error
            raise

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        manifest = self.find_architecture(reference)
        labels = labels_for_manifest(manifest, options, manifest.num_classes)
        preprocess = options.overrides.apply_to(manifest.preprocess)
        file = weights.fetch_weights(
            manifest.url, manifest.sha256, offline=options.offline, progress=options.progress
        )
        quantized = architectures.is_quantized(manifest)
        read = architectures.read_quantized if quantized else checkpoints.open_lazy
        return Network(
            model=manifest.name if manifest.default else manifest.reference,
            architecture=manifest.architecture,
            weights=manifest.weights,
            path=file.path,
            sha256=file.sha256,
            preprocess=preprocess,
            labels=labels,
            num_classes=manifest.num_classes,
            quantized=quantized,
            gmacs=manifest.metadata.gflops if manifest.metadata else None,
            layers=manifest.layers,
            backends=backends_for(
                manifest,
                preprocess,
                partial(read, file.path),
                source_name=f"the checkpoint {file.path.name}",
                num_classes=manifest.num_classes,
            ),
        )


def _find_in_timm(name: str) -> str | None:
    """Returns the reference of timm's model with this name, if there is one."""
    from imgclassify.hub.timm_registry import registered_names

    return f"timm:{name}" if name.partition(".")[0] in registered_names() else None
