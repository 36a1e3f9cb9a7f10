"""What kind of thing a model reference names, and its loader."""

from __future__ import annotations

from imgclassify.errors import UnknownModelError, UsageError
from imgclassify.hub.network import LoadOptions, Network

_SUFFIXES = (".pth", ".pt", ".safetensors", ".onnx", ".bin", ".ckpt", ".tar")


def load_reference(reference: str, options: LoadOptions) -> Network:
    """What hub.load does, but for what `imgclassify models prepare` has left in the cache."""
    scheme, colon, rest = reference.partition(":")
    if options.arch is not None and not (scheme == "hub" or is_file(reference)):
        raise UsageError(
            f"--arch goes with a file or a hub: repository, not with the model {reference!r}, which has its own",
            hint=f"leave it out, or give the file: -m ./weights.pth --arch {options.arch}",
        )
    if colon and scheme == "timm":
        from imgclassify.hub import timm_registry

        return timm_registry.load_timm(rest, options)
    if colon and scheme == "hub":
        from imgclassify.hub import torch_hub

        return torch_hub.load_torch_hub(rest, options)
    if is_file(reference):
        from imgclassify.hub import local_file

        return local_file.load_file(reference, options)
    if colon and scheme != "torchvision":
        raise UnknownModelError(
            f"unknown kind of model reference {reference!r}",
            hint="the kinds: NAME, NAME@WEIGHTS, torchvision:NAME, timm:NAME, hub:REPO/ENTRYPOINT, or a file",
        )
    from imgclassify.hub import catalogued

    return catalogued.load_catalogued(rest if colon else reference, options)


def is_catalogued(reference: str) -> bool:
    """Whether a reference names a model of the catalog, which is found without torch."""
    return not (reference.startswith(("timm:", "hub:")) or is_file(reference))


def is_file(reference: str) -> bool:
    """Whether a reference names a local file: it has a path separator, or a checkpoint's suffix."""
    if reference.startswith(("timm:", "hub:", "torchvision:")):
        return False
    return "/" in reference or "\\" in reference or reference.lower().endswith(_SUFFIXES)
