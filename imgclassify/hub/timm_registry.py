"""Loads models from timm's registry: timm:NAME."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import checkpoints, weights
from imgclassify import labels as label_sets
from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.errors import (
    CheckpointError,
    DownloadError,
    LabelsError,
    OfflineError,
    UnknownModelError,
    describe_error,
)
from imgclassify.hub import architectures
from imgclassify.hub.backends import PREPARE_HINT, Backends
from imgclassify.hub.hub_files import cached_file, download_file, verified_digest
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.reference import ModelReference, ReferenceLoader
from imgclassify.labels import Label, LabelSet

if TYPE_CHECKING:
    import torch

_FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
"""The names of the weights' file in timm's repositories, the preferred name first."""


class TimmLoader(ReferenceLoader):
    """Loads timm models; see ReferenceLoader.

    Weights come from the Hugging Face hub, or from the URL of a model that is not on it. Preprocessing and
    labels come from timm.
    """

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        config = _pretrained_cfg(reference.value)
        full_name = _full_name(config)
        num_classes = config["num_classes"]
        if not num_classes and options.with_labels:
            raise CheckpointError(
                f"timm:{full_name} outputs features and has no classes",
                hint="choose a model with a classifier, such as one whose name ends in in1k, or use "
                "`imgclassify embed`",
            )
        labels = _load_labels(config, options) if options.with_labels else None
        path = _weights_file(full_name, config, options)
        return Network(
            model=f"timm:{full_name}",
            architecture=config["architecture"],
            weights=config.get("tag") or config["architecture"],
            path=path,
            sha256=verified_digest(path),
            preprocess=options.overrides.apply_to(preprocess_spec(config)),
            labels=labels,
            num_classes=num_classes,
            backends=Backends(
                partial(_build_network, full_name, path), None, "timm models run in torch", PREPARE_HINT
            ),
            manifest=_manifest(config),
            license=_license(config),
        )

    def find_architecture(self, reference: ModelReference) -> ModelManifest:
        """Returns a manifest without weights, for a user's own checkpoint of a timm architecture."""
        return _manifest(_pretrained_cfg(reference.value))

    def describe_model(self, reference: ModelReference) -> dict[str, Any]:
        """Returns what is known of a model without a network, in plain values for JSON.

        Raises:
            UnknownModelError: timm has no such pretrained model.
            HashMismatchError: the cached weights are not the expected file.
        """
        config = _pretrained_cfg(reference.value)
        path = _cached_weights(config)
        try:
            label_set = timm_labels(config).name if config["num_classes"] else None
        except LabelsError:
            label_set = None
        repository = config.get("hf_hub_id")
        return {
            "name": f"timm:{_full_name(config)}",
            "weights": config.get("tag") or config["architecture"],
            "architecture": config["architecture"],
            "provider": "timm",
            "num_classes": config["num_classes"],
            "label_set": label_set,
            "preprocess": preprocess_spec(config).to_dict(),
            "url": f"https://huggingface.co/{repository.partition('@')[0]}" if repository else config["url"],
            "license": config.get("license"),
            "path": str(path) if path else None,
            "bytes": path.stat().st_size if path else None,
            "sha256": verified_digest(path) if path else None,
            "cached": path is not None,
        }


def _manifest(config: dict[str, Any]) -> ModelManifest:
    return ModelManifest(
        name=f"timm:{config['architecture']}",
        weights=config.get("tag") or "",
        default=True,
        architecture=config["architecture"],
        provider="timm",
        url="",
        sha256="",
        num_classes=config["num_classes"] or 1000,
        label_set="imagenet1k" if _imagenet_subset(config) == "imagenet-1k" else "",
        preprocess=preprocess_spec(config),
    )


def _license(config: dict[str, Any]) -> str:
    """Returns Network.license."""
    name = config.get("license")
    return name if name and name != "unknown" else ""


def _full_name(config: dict[str, Any]) -> str:
    return ".".join(filter(None, (config["architecture"], config.get("tag"))))


def registered_names() -> set[str]:
    """Returns the names of timm's architectures, without tags of weights.

    They are read from timm's source in a tenth of a second. Importing timm would take seconds.
    """
    pattern = re.compile(r"^@register_model\s+def (\w+)", re.MULTILINE)
    return {name for text in _source_texts() for name in pattern.findall(text)}


def _source_texts() -> Iterator[str]:
    """Yields the text of each module with models of timm. There is none if timm is not installed."""
    package = find_spec("timm")
    folders = package.submodule_search_locations if package else None
    for path in Path(folders[0], "models").rglob("*.py") if folders else ():
        yield path.read_text("utf-8")


def _require_mentioned(name: str) -> None:
    """Refuses a name whose architecture timm's source mentions nowhere, without importing timm.

    Names that timm has renamed, such as "tf_efficientnet_b0_ns", are mentioned but not registered.

    Raises:
        UnknownModelError: there is no such name. The nearest are listed.
    """
    pattern = re.compile(rf"\b{re.escape(name.partition('.')[0])}\b")
    texts = list(_source_texts())
    if texts and not any(map(pattern.search, texts)):
        raise _unknown_model(name, registered_names())


def preprocess_spec(config: dict[str, Any]) -> PreprocessSpec:
    """Converts timm's data configuration to a PreprocessSpec.

    The steps are those of timm.data.transforms_imagenet_eval.
    """
    from timm.data import resolve_data_config

    data = resolve_data_config({}, pretrained_cfg=config)
    height, width = data["input_size"][-2:]
    scaled = (math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"]))
    crop_mode = data["crop_mode"] or "center"
    short_side = crop_mode == "center" and scaled[0] == scaled[1]
    return PreprocessSpec(
        resize_size=scaled[0] if short_side else scaled,
        crop_size=(height, width),
        interpolation=data["interpolation"],
        antialias=True,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        crop_mode=crop_mode,
    )


def _pretrained_cfg(name: str) -> dict[str, Any]:
    """Returns timm's pretrained configuration of a model, as a dictionary.

    Raises:
        UnknownModelError: there is no such model, or it has no pretrained weights.
    """
    _require_mentioned(name)
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    if config is None or not (config.hf_hub_id or config.url):
        raise _unknown_model(name, timm.list_models(pretrained=True), found=config is not None)
    found: dict[str, Any] = config.to_dict()
    return found


def _unknown_model(name: str, valid: Collection[str], *, found: bool = False) -> UnknownModelError:
    near = difflib.get_close_matches(name, valid, n=5, cutoff=0.4)
    near = near or [candidate for candidate in sorted(valid) if candidate.startswith(name[:4])][:5]
    return UnknownModelError(
        f"timm has no pretrained weights for {name!r}" if found else f"unknown model 'timm:{name}'",
        hint="the nearest names are " + ", ".join(f"timm:{candidate}" for candidate in near)
        if near
        else "give a name that timm.list_models(pretrained=True) lists, such as timm:resnet18.a1_in1k",
    )


def _load_labels(config: dict[str, Any], options: LoadOptions) -> LabelSet:
    labels = label_sets.load_labels(options.labels) if options.labels else timm_labels(config)
    labels.require_num_classes(config["num_classes"])
    return labels


def timm_labels(config: dict[str, Any]) -> LabelSet:
    """Returns the configuration's own label names, or those of the ImageNet subset used for training.

    Raises:
        LabelsError: timm has no names for the classes.
    """
    from timm.data import ImageNetInfo

    if names := config.get("label_names"):
        return LabelSet(
            name=f"timm:{config['architecture']}",
            labels=tuple(Label(index, None, text) for index, text in enumerate(names)),
        )
    subset = _imagenet_subset(config)
    if subset is None:
        raise LabelsError(
            f"timm has no names for the {config['num_classes']} classes of {config['architecture']!r}",
            hint="give --labels FILE",
        )
    if subset == "imagenet-1k":
        return label_sets.load_labels("imagenet1k")
    info = ImageNetInfo(subset)
    return LabelSet(
        name=f"timm:{subset}",
        labels=tuple(
            Label(index, wnid, lemmas.split(", ")[0], tuple(lemmas.split(", ")), detailed.partition(": ")[2])
            for index, (wnid, lemmas, detailed) in enumerate(
                zip(
                    info.label_names(),
                    info.label_descriptions(),
                    info.label_descriptions(detailed=True),
                    strict=True,
                )
            )
        ),
    )


def _imagenet_subset(config: dict[str, Any]) -> str | None:
    """Returns timm's name of the ImageNet subset that the weights were trained on last, such as "imagenet-1k".

    timm infers the subset from the number of classes, and would take 1000 features for ImageNet's classes. So
    the weights' tag must also name a subset, as "in12k_ft_in1k" does. If it does not, returns None.
    """
    from timm.data import infer_imagenet_subset

    trained = any(re.fullmatch(r"in\d+k", part) for part in (config.get("tag") or "").split("_"))
    subset: str | None = infer_imagenet_subset(config) if trained else None
    return subset


def _weights_file(name: str, config: dict[str, Any], options: LoadOptions) -> Path:
    """Returns the file of the model's weights in the Hugging Face hub's own cache, and fetches it if necessary.

    Weights that are not on the Hugging Face hub are fetched from their URL into torch.hub's cache.
    """
    repository = config.get("hf_hub_id")
    if not repository:
        return weights.fetch_weights(config["url"], "", offline=options.offline, progress=options.progress).path
    if path := _cached_weights(config):
        return path
    repository, _, revision = repository.partition("@")
    names = _file_names(config)
    if options.offline:
        raise OfflineError(
            f"the weights of timm:{name} are not in the Hugging Face cache, and --offline forbids fetching them",
            hint=f"run `imgclassify models pull timm:{name}` while online (it fetches {names[0]} of {repository})",
        )
    for file_name in names:
        if path := download_file(
            repository,
            file_name,
            revision,
            quiet=options.progress is None,
            hint=f"fetch the file by other means and give -m ./{file_name} --arch timm:NAME",
        ):
            return path
    raise DownloadError(
        f"the Hugging Face repository {repository} has none of {', '.join(names)}",
        hint="check the name, or give a file: -m ./weights.safetensors --arch timm:NAME",
    )


def _file_names(config: dict[str, Any]) -> list[str]:
    """Returns the names that the weights' file may have in its repository, the preferred name first."""
    return [config["hf_hub_filename"]] if config.get("hf_hub_filename") else list(_FILE_NAMES)


def _cached_weights(config: dict[str, Any]) -> Path | None:
    """Returns the file of the model's weights, or None if it is not on this machine."""
    if not config.get("hf_hub_id"):
        return weights.cache_path(config["url"]) if weights.is_cached(config["url"]) else None
    repository, _, revision = config["hf_hub_id"].partition("@")
    found = (cached_file(repository, file_name, revision) for file_name in _file_names(config))
    return next(filter(None, found), None)


def _build_network(name: str, path: Path) -> torch.nn.Module:
    import timm

    # If its configuration has a state_dict, timm fetches nothing, and converts it like its own weights.
    source = {"state_dict": architectures.to_tensors(checkpoints.load_arrays(path)), "custom_load": False}
    try:
        network: torch.nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path.name} does not fit timm:{name}: {describe_error(error)}",
            hint="remove the file from the Hugging Face cache, and run again to fetch it",
        ) from error
    return network
