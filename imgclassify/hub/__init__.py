"""The loader: a model reference → a loadable network with its preprocessing and its labels.

resnet50 · resnet50@IMAGENET1K_V1 · torchvision:resnet50   catalogued   (hub/catalogued.py)
timm:resnet18.a1_in1k                                      timm         (hub/timm_registry.py)
hub:owner/repo[:ref]/entrypoint · hub:./folder/entrypoint  torch.hub    (hub/torch_hub.py)
./checkpoint.pth · .pt · .safetensors · ./model.onnx       local file   (hub/local_file.py)
"""

from __future__ import annotations

from imgclassify import resources
from imgclassify.errors import UnknownModelError, UsageError
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides

__all__ = ["LoadOptions", "Network", "PreprocessOverrides", "load", "load_unprepared"]

_SUFFIXES = (".pth", ".pt", ".safetensors", ".onnx", ".bin", ".ckpt", ".tar")


def load(reference: str, options: LoadOptions) -> Network:
    """Finds what a model reference means, with its weights on disk, verified where a digest is published.

    The network itself is built later, by the engine, in one of the ways of `Network.ways`.

    Raises:
        UsageError: the reference is malformed, or lacks an option that its kind needs.
        UnavailableError: model, weights or labels cannot be had; its subclasses say which and why.
    """
    if resources.prepared_folder().is_dir():
        from imgclassify.hub import prepared

        if found := prepared.find(reference, options):
            return found
    return load_unprepared(reference, options)


def load_unprepared(reference: str, options: LoadOptions) -> Network:
    """What `load` does, but for what `imgclassify models prepare` has left in the cache."""
    scheme, colon, rest = reference.partition(":")
    if options.arch is not None and not (scheme == "hub" or is_file(reference)):
        raise UsageError(
            f"--arch goes with a file or a hub: repository, not with the model {reference!r}, which has its own",
            hint=f"leave it out, or give the file: -m ./weights.pth --arch {options.arch}",
        )
    if colon and scheme == "timm":
        from imgclassify.hub import timm_registry

        return timm_registry.load(rest, options)
    if colon and scheme == "hub":
        from imgclassify.hub import torch_hub

        return torch_hub.load(rest, options)
    if is_file(reference):
        from imgclassify.hub import local_file

        return local_file.load(reference, options)
    if colon and scheme != "torchvision":
        raise UnknownModelError(
            f"unknown kind of model reference {reference!r}",
            hint="the kinds: NAME, NAME@WEIGHTS, torchvision:NAME, timm:NAME, hub:REPO/ENTRYPOINT, or a file",
        )
    from imgclassify.hub import catalogued

    return catalogued.load(rest if colon else reference, options)


def is_file(reference: str) -> bool:
    """Whether a reference names a local file: it has a path separator, or a checkpoint's suffix."""
    if reference.startswith(("timm:", "hub:", "torchvision:")):
        return False
    return "/" in reference or "\\" in reference or reference.lower().endswith(_SUFFIXES)
