"""The loader: a model reference → a loadable network with its preprocessing and its labels.

resnet50 · resnet50@IMAGENET1K_V1 · torchvision:resnet50   catalogued   (hub/catalogued.py)
timm:resnet18.a1_in1k                                      timm         (hub/timm_registry.py)
hub:owner/repo[:ref]/entrypoint · hub:./folder/entrypoint  torch.hub    (hub/torch_hub.py)
./checkpoint.pth · .pt · .safetensors · ./model.onnx       local file   (hub/local_file.py)
"""

from __future__ import annotations

from imgclassify import paths
from imgclassify.hub import reference as references
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides
from imgclassify.hub.reference import is_catalogued, is_file
from imgclassify.telemetry import disable_telemetry

__all__ = ["LoadOptions", "Network", "PreprocessOverrides", "is_catalogued", "is_file", "load_network"]


def load_network(reference: str, options: LoadOptions) -> Network:
    """Finds what a model reference means, with its weights on disk, verified where a digest is published.

    The network itself is built later, by the engine, in one of the ways of `Network.ways`.

    Raises:
        UsageError: the reference is malformed, or lacks an option that its kind needs.
        UnavailableError: model, weights or labels cannot be had; its subclasses say which and why.
    """
    disable_telemetry()
    # What is catalogued mostly has a graph, and nothing prepared is looked for.
    network = references.load_reference(reference, options) if is_catalogued(reference) else None
    if (network is None or network.backends.open_session is None) and paths.prepared_folder().is_dir():
        from imgclassify.hub import export_cache

        if found := export_cache.find_prepared(reference, options):
            return found
    return network or references.load_reference(reference, options)
