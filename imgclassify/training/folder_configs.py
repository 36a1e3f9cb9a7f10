"""The configuration files of a model folder for other programs: config.json as timm or transformers reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from imgclassify.catalog import INTERPOLATIONS, PreprocessSpec
from imgclassify.errors import UnavailableError, UsageError
from imgclassify.hub import image_processor, transformers_folder
from imgclassify.hub.model_files import (
    CONFIG,
    MANIFEST,
    MARK,
    PROCESSOR_CONFIGS,
    FolderFiles,
    read_processor_config,
)
from imgclassify.hub.network import PreprocessOverrides
from imgclassify.training.head import find_shipped_graph

if TYPE_CHECKING:
    from imgclassify.catalog import ModelManifest
    from imgclassify.hub.network import Network

_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Interpolations by Pillow's numbers, which transformers uses."""
assert set(_RESAMPLING) == set(INTERPOLATIONS)


def describe_for_others(
    network: Network, labels: Sequence[str], head: tuple[str, tuple[int, ...]]
) -> dict[str, dict[str, Any]]:
    """Returns the configuration files of a network with new classes, by name. None for torchvision's networks.

    Args:
        head: name and shape of the weight of the last layer. The name is empty if there are several.
    """
    if network.config is not None:
        return _describe_for_transformers(network, network.config, labels)
    assert network.manifest is not None
    if network.manifest.provider == "timm":
        return {CONFIG: _describe_for_timm(network, network.manifest, labels, head)}
    return {}


# timm ------------------------------------------------------------------------------------------------------------


def _describe_for_timm(
    network: Network, manifest: ModelManifest, labels: Sequence[str], head: tuple[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Returns config.json as timm.models.push_to_hf_hub writes it."""
    name, shape = head
    options = dict(manifest.options)
    spec = network.preprocess
    pretrained = {
        "custom_load": False,
        "input_size": [options.get("in_chans", 3), *spec.crop_size],
        "interpolation": spec.interpolation,
        "crop_pct": find_crop_pct(spec),
        "crop_mode": spec.crop_mode,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "num_classes": len(labels),
        **_known_to_timm(network, manifest),
        **({"classifier": name.removesuffix(".weight")} if name else {}),
        **({"license": network.license} if network.license else {}),
    }
    return {
        "architecture": manifest.architecture,
        "num_classes": len(labels),
        **({"num_features": shape[1]} if name else {}),
        "label_names": list(labels),
        "pretrained_cfg": pretrained,
        **({"model_args": options} if options else {}),
        MARK: MANIFEST,
    }


def _known_to_timm(network: Network, manifest: ModelManifest) -> dict[str, Any]:
    """Returns what timm itself knows of the architecture, and needs to build it again."""
    if find_shipped_graph(network) is not None:
        return {"fixed_input_size": False}  # importing timm would take seconds
    import timm

    config = timm.get_pretrained_cfg(manifest.architecture)
    known = config.to_dict() if config else {}
    first = {"first_conv": known["first_conv"]} if known.get("first_conv") else {}
    return {"fixed_input_size": bool(known.get("fixed_input_size") or "img_size" in manifest.options), **first}


def find_crop_pct(spec: PreprocessSpec) -> float:
    """Returns timm's crop_pct of a preprocessing: the share of the resized image that is cropped.

    timm resizes to `floor(crop / crop_pct)`. If no share gives the sizes of the preprocessing, it is a near one.
    """
    resize = spec.resize_size
    sides = (resize, resize) if isinstance(resize, int) else resize
    share = spec.crop_size[0] / sides[0]
    # The quotient may round to slightly below the size.
    return next((each for each in (share, math.nextafter(share, 0)) if _scale(spec, each) == sides), share)


def _scale(spec: PreprocessSpec, crop_pct: float) -> tuple[int, int]:
    height, width = spec.crop_size
    return math.floor(height / crop_pct), math.floor(width / crop_pct)


def is_timms(spec: PreprocessSpec, manifest: ModelManifest) -> bool:
    """Whether timm prepares images in the same way, with the config.json of a folder."""
    height, width = _scale(spec, find_crop_pct(spec))
    by_short_side = spec.crop_mode == "center" and height == width
    channel_order = "grey" if manifest.options.get("in_chans") == 1 else "rgb"
    return (
        spec.resize_size == (height if by_short_side else (height, width))
        and spec.channel_order == channel_order
        and spec.crop_rounding == "even"
    )


# transformers ----------------------------------------------------------------------------------------------------


def _describe_for_transformers(
    network: Network, config: Mapping[str, Any], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Returns config.json, and preprocessor_config.json if an image processor of transformers does the same."""
    described = {
        **transformers_folder.with_classes(config, labels),
        "architectures": [transformers_folder.require_classifier(config, network.model)],
        "dtype": "float32",
        MARK: MANIFEST,
    }
    for name in ("torch_dtype", *transformers_folder.NOT_OF_THE_NETWORK):
        described.pop(name, None)
    files = {CONFIG: described}
    if processor := _find_processor(network, config):
        files[PROCESSOR_CONFIGS[0]] = processor
    return files


def _find_processor(network: Network, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the network's own processor, or else a general one, if it is that of the preprocessing."""
    assert network.path is not None
    own = read_processor_config(FolderFiles(network.model, network.path.parent))
    for content in (own[0] if own else None, _general_processor(network.preprocess)):
        if content is None:
            continue
        with suppress(UnavailableError, UsageError):
            spec = image_processor.to_spec(
                content,
                PreprocessOverrides(),
                model_type=str(config["model_type"]),
                num_channels=1 if network.preprocess.channel_order == "grey" else 3,
                source=PROCESSOR_CONFIGS[0],
            )
            if spec == network.preprocess:
                return content
    return None


def _general_processor(spec: PreprocessSpec) -> dict[str, Any]:
    """Returns the configuration of a processor that resizes and crops."""
    resize = spec.resize_size
    height, width = spec.crop_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": resize} if isinstance(resize, int) else {"height": resize[0], "width": resize[1]},
        "resample": _RESAMPLING.index(spec.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
