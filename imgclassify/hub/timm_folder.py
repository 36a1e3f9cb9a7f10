"""Loads model folders in timm's form: config.json has `architecture` and `pretrained_cfg`."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.errors import CheckpointError, LabelsError, UnknownModelError, describe_error
from imgclassify.hub import architectures, from_arch, timm_registry
from imgclassify.hub.backends import PREPARE_HINT, Backends
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.model_files import CONFIG, ModelFiles, Weights, find_weights
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.labels import Label, LabelSet

if TYPE_CHECKING:
    import torch

_SOURCES = frozenset(
    ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "architecture")
)
"""Fields of timm's configuration that say where the weights are. Here, they are in the folder."""
_RESERVED = frozenset(("checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"))
"""Arguments of timm.create_model that would load something else."""
_PREFIX = "timm_model."
"""transformers puts this before timm's names."""


class _Config:
    """The content of config.json, as timm.models._hub._parse_model_cfg reads it."""

    def __init__(self, content: Mapping[str, Any], reference: str) -> None:
        """
        Raises:
            CheckpointError: a value is malformed.
            UnknownModelError: timm does not have the architecture.
        """
        import timm

        self.reference = reference
        name, _, tag = content["architecture"].partition(".")
        if not timm.is_model(name):
            raise UnknownModelError(
                f"{CONFIG} of {reference} names the architecture {name!r}, which the installed timm "
                f"{timm.__version__} does not have",
                hint="try a newer timm: pip install --upgrade timm",
            )
        # Earlier releases of timm wrote the fields of pretrained_cfg beside the architecture.
        found = content.get("pretrained_cfg", content)
        arguments = content.get("model_args") or {}
        if not (isinstance(found, dict) and isinstance(arguments, dict)):
            raise self.malformed("pretrained_cfg and model_args should be JSON objects")
        if reserved := sorted(_RESERVED & arguments.keys()):
            raise self.malformed(f"model_args has {', '.join(reserved)}, which is not an argument of a network")
        self.architecture = name
        self.model_args: dict[str, Any] = arguments
        self.fields: dict[str, Any] = {key: value for key, value in found.items() if key not in _SOURCES}
        self.fields |= {
            key: content[key] for key in ("num_classes", "label_names", "label_descriptions") if key in content
        }
        self.fields.setdefault("label_names", content.get("labels"))
        self.fields["architecture"] = name
        self.fields.setdefault("tag", tag)
        self._use_size_of_model()

    @property
    def num_classes(self) -> int:
        count = self.fields.get("num_classes")
        if not isinstance(count, int) or count < 0:
            raise self.malformed(f"num_classes is {count!r}, but should be the number of classes")
        return count

    @property
    def num_channels(self) -> int:
        size = self.fields.get("input_size") or (3,)
        return int(size[0])

    def malformed(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{CONFIG} of {self.reference}: {reason}", hint="save the model again, or correct the file"
        )

    def _use_size_of_model(self) -> None:
        """Earlier releases of timm left the sizes of the architecture here if the model was built with others."""
        channels, *size = self.fields.get("input_size") or (3, 224, 224)
        if side := self.model_args.get("img_size"):
            size = [side, side] if isinstance(side, int) else side
        self.fields["input_size"] = (self.model_args.get("in_chans") or channels, *size)


def load_network(files: ModelFiles, content: dict[str, Any], options: LoadOptions) -> Network:
    """Loads the network of a folder.

    Raises:
        UnavailableError: the weights are missing, or a file is malformed.
        UsageError: as in `from_arch.find_labels`.
    """
    config = _Config(content, files.reference)
    if not config.num_classes and options.with_labels:
        raise CheckpointError(
            f"{files.reference} outputs features and has no classes",
            hint="choose a model with a classifier, or use `imgclassify embed`",
        )
    spec = _find_preprocess(config)
    labels = _find_labels(config)
    origins = {"arch": CONFIG, "preprocess": CONFIG}
    if labels and options.with_labels and options.labels is None:
        origins["labels"] = CONFIG
    weights = find_weights(files)
    if weights is None:
        raise files.missing("model.safetensors")
    return Network(
        model=files.reference,
        architecture=config.architecture,
        weights=weights.path.name,
        path=weights.path,
        sha256=weights.sha256,
        preprocess=options.overrides.apply_to(spec),
        labels=from_arch.find_labels(
            files.reference, options, FileConfig(labels=labels), None, num_classes=config.num_classes
        ),
        num_classes=config.num_classes,
        backends=Backends(partial(_build_network, config, weights), None, "timm models run in torch", PREPARE_HINT),
        activation=options.activation,
        output_name=options.output_name,
        origins=origins,
        manifest=_to_manifest(config, spec),
        license=str(config.fields.get("license") or ""),
    )


def _to_manifest(config: _Config, spec: PreprocessSpec) -> ModelManifest:
    """Returns Network.manifest."""
    options = {key: value for key, value in config.model_args.items() if key != "num_classes" and value is not None}
    channels, *size = config.fields["input_size"]
    if config.fields.get("fixed_input_size"):
        options.setdefault("img_size", size)
    if channels != 3:
        options.setdefault("in_chans", channels)
    return ModelManifest(
        name=f"timm:{config.architecture}",
        weights=config.fields.get("tag") or "",
        default=True,
        architecture=config.architecture,
        provider="timm",
        url="",
        sha256="",
        num_classes=config.num_classes,
        label_set="",
        preprocess=spec,
        options=options,
    )


def _find_preprocess(config: _Config) -> PreprocessSpec:
    try:
        spec = timm_registry.preprocess_spec(config.fields)
        if config.num_channels == 1:
            # Three values are averaged, as in timm.data.loader.adapt_to_chs.
            mean, std = sum(spec.mean) / len(spec.mean), sum(spec.std) / len(spec.std)
            return dataclasses.replace(spec, mean=(mean,) * 3, std=(std,) * 3, channel_order="grey")
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise config.malformed(f"pretrained_cfg cannot be used: {describe_error(error)}") from error
    return spec


def _find_labels(config: _Config) -> LabelSet | None:
    """Returns the class names of the configuration, or those of the ImageNet subset that its tag names.

    Raises:
        CheckpointError: the names are malformed.
    """
    names, descriptions = config.fields.get("label_names"), config.fields.get("label_descriptions") or {}
    if not names:
        try:
            return timm_registry.timm_labels(config.fields) if config.num_classes else None
        except LabelsError:
            return None
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(len(names))]
    if not (isinstance(names, list) and all(isinstance(name, str) and name for name in names)):
        raise config.malformed("label_names should be a list with a name for each class")
    if not isinstance(descriptions, dict):
        raise config.malformed("label_descriptions should be a JSON object")
    return LabelSet(
        f"{CONFIG} of {config.reference}",
        tuple(_to_label(index, name, descriptions.get(name)) for index, name in enumerate(names)),
    )


def _to_label(index: int, name: str, description: object) -> Label:
    """Returns a class. timm names ImageNet's classes by their wnids, and describes them by their names."""
    if re.fullmatch(r"n\d{8}", name) and isinstance(description, str) and description:
        lemmas = tuple(description.split(", "))
        return Label(index, name, lemmas[0], lemmas)
    return Label(index, None, name, gloss=description if isinstance(description, str) else "")


def _build_network(config: _Config, weights: Weights) -> torch.nn.Module:
    import timm
    from timm.models import PretrainedCfg

    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    fields = {key: value for key, value in config.fields.items() if key in known and value is not None}
    state_dict = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.read().items()}
    # With a state_dict in its configuration, timm fetches nothing, and converts it like its own weights.
    source = {"state_dict": architectures.to_tensors(OrderedDict(state_dict)), "custom_load": False}
    try:
        network: torch.nn.Module = timm.create_model(
            config.architecture, pretrained=True, pretrained_cfg={**fields, **source}, **config.model_args
        )
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{weights.path.name} of {config.reference} does not fit {CONFIG}: {describe_error(error)}",
            hint="the two files should come from the same model: save it again, or fetch it again",
        ) from error
    if config.num_channels == 1:
        architectures.take_first_channel(network)
    return network
