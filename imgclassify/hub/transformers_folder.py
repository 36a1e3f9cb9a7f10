"""Loads model folders in transformers' form: config.json has `model_type`, preprocessor_config.json is beside it.

transformers builds the network. The weights are read by checkpoints/, so nothing is unpickled. An ONNX graph, as
optimum writes it, needs neither transformers nor torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify import checkpoints, weights
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import CheckpointError, LabelsError, UnavailableError, describe_error
from imgclassify.hub import architectures, from_arch, image_processor, local_file
from imgclassify.hub.backends import PREPARE_HINT, Backends
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.model_files import (
    CONFIG,
    PROCESSOR_CONFIGS,
    ModelFiles,
    Weights,
    find_graph,
    find_weights,
    read_processor_config,
)
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.labels import Label, LabelSet

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("imgclassify")

_CLASSIFIER = "ForImageClassification"
"""Part of the name of each class that AutoModelForImageClassification builds."""
NOT_OF_THE_NETWORK = (
    "_attn_implementation",
    "_experts_implementation",
    "attn_implementation",
    "auto_map",
    "distributed_config",
    "fusion_config",
    "transformers_weights",
)
"""Fields of config.json that would load code or other weights, or change only how the network is computed."""
_ACTIVATIONS = {"single_label_classification": "softmax", "multi_label_classification": "sigmoid"}
"""By `problem_type`."""


def load_network(files: ModelFiles, config: dict[str, Any], options: LoadOptions) -> Network:
    """Loads the network of a folder.

    Raises:
        UnavailableError: the model is no image classifier, the weights are missing, or a file is malformed.
        UsageError: as in `from_arch.find_labels`.
    """
    architecture = require_classifier(config, files.reference)
    labels = _read_labels(config, files.reference)
    num_classes = len(labels)
    if options.with_labels and options.labels is None:
        _warn_of_placeholders(labels, files.reference)
    program = _find_program(files, config, architecture, num_classes)
    return Network(
        model=files.reference,
        architecture=program.architecture,
        weights=program.path.name,
        path=program.path,
        sha256=program.sha256,
        preprocess=_find_preprocess(files, config, options),
        labels=from_arch.find_labels(
            files.reference, options, FileConfig(labels=labels), None, num_classes=num_classes
        ),
        num_classes=program.num_classes,
        backends=program.backends,
        activation=options.activation or program.activation,
        output_name=options.output_name,
        origins=_find_origins(options, program),
        config=None if program.architecture == "onnx" else config,
    )


def _find_origins(options: LoadOptions, program: _Program) -> dict[str, str]:
    """Returns FileConfig.origins of what comes from the folder."""
    found = {"arch": CONFIG, "preprocess": PROCESSOR_CONFIGS[0]}
    if options.with_labels and options.labels is None:
        found["labels"] = CONFIG
    if program.activation and options.activation is None:
        found["activation"] = CONFIG
    return found


class _Program(NamedTuple):
    """What computes the outputs."""

    architecture: str
    path: Path
    sha256: str | None
    backends: Backends
    activation: str | None
    num_classes: int | None
    """As in Network."""


def _find_program(files: ModelFiles, config: dict[str, Any], architecture: str, num_classes: int) -> _Program:
    """Returns the network with its weights, or else an ONNX graph, which is first without torch or transformers.

    Raises:
        CheckpointError: there is none of them.
    """
    able = find_spec("torch") and find_spec("transformers")
    found = find_weights(files) if able else None
    if found is None and (graph := find_graph(files)):
        return _Program(
            "onnx",
            graph.path,
            None if graph.external else weights.sha256_of(graph.path),
            local_file.onnx_backends(graph),
            # Only what the file says: a graph may end in softmax.
            _ACTIVATIONS.get(config.get("problem_type") or ""),
            None,
        )
    found = found or find_weights(files)
    if found is None:
        raise files.missing("model.safetensors")
    return _Program(
        architecture,
        found.path,
        found.sha256,
        backends_for(config, found, files.reference, num_classes=num_classes),
        _find_activation(config, num_classes),
        num_classes,
    )


def require_classifier(config: Mapping[str, Any], reference: str) -> str:
    """Returns the name of the network's class.

    Raises:
        CheckpointError: the network is none that gives probabilities of classes.
    """
    names = config.get("architectures") or [_CLASSIFIER]
    name = next((name for name in names if isinstance(name, str) and _CLASSIFIER in name), None)
    if name is None:
        raise CheckpointError(
            f"{reference} is a {names[0]}, which has no classifier for images",
            hint=f"choose a model that was trained to classify: its {CONFIG} names a class with {_CLASSIFIER}",
        )
    if config.get("problem_type") == "regression":
        raise CheckpointError(
            f"{reference} estimates numbers: its problem_type is 'regression'", hint="choose a model with classes"
        )
    if config.get("quantization_config"):
        raise CheckpointError(
            f"the weights of {reference} are quantized (quantization_config), which is not supported",
            hint="choose the weights from before they were quantized",
        )
    return name if name != _CLASSIFIER else str(config["model_type"])


def _read_labels(config: Mapping[str, Any], reference: str) -> LabelSet:
    """Returns the class names of a configuration.

    Raises:
        LabelsError: they are not a name for each class.
    """
    names = config.get("id2label")
    if names is None:
        # transformers has two classes where nothing says how many.
        count = config.get("num_labels", 2)
        names = {str(index): f"LABEL_{index}" for index in range(count if isinstance(count, int) else 0)}
    ordered = [names.get(str(index)) for index in range(len(names))] if isinstance(names, dict) else []
    if not ordered or not all(isinstance(name, str | int | float) and str(name) for name in ordered):
        raise LabelsError(
            f"id2label in {CONFIG} of {reference} does not name each class: {names!r:.100}",
            hint='correct the file: {"0": "cat", "1": "dog"}',
        )
    return LabelSet(
        f"{CONFIG} of {reference}", tuple(Label(index, None, str(name)) for index, name in enumerate(ordered))
    )


def _warn_of_placeholders(labels: LabelSet, reference: str) -> None:
    if all(label.label == f"LABEL_{label.class_index}" for label in labels.labels):
        logger.warning(
            "%s has placeholders in place of class names, such as LABEL_0: give the names with --labels", reference
        )


def _find_activation(config: Mapping[str, Any], num_classes: int) -> str:
    """Returns what transformers' pipeline applies to the logits: see transformers.ImageClassificationPipeline."""
    return "sigmoid" if num_classes == 1 else _ACTIVATIONS.get(config.get("problem_type") or "", "softmax")


def _find_preprocess(files: ModelFiles, config: Mapping[str, Any], options: LoadOptions) -> PreprocessSpec:
    found = read_processor_config(files)
    if found is None:
        return options.overrides.to_spec(f"{files.reference}, which lacks {PROCESSOR_CONFIGS[0]},")
    content, name = found
    return image_processor.to_spec(
        content,
        options.overrides,
        model_type=str(config["model_type"]),
        num_channels=_count_channels(config, files.reference),
        source=f"{name} of {files.reference}",
    )


def _count_channels(config: Mapping[str, Any], reference: str) -> int:
    vision = config.get("vision_config")
    count = config.get("num_channels", vision.get("num_channels", 3) if isinstance(vision, dict) else 3)
    if count not in (1, 3):
        raise CheckpointError(
            f"the network of {reference} takes images of {count!r} channels",
            hint="choose a network for colour images (3) or grey ones (1)",
        )
    return int(count)


# The network -------------------------------------------------------------------------------------------------


def backends_for(config: Mapping[str, Any], found: Weights, reference: str, *, num_classes: int) -> Backends:
    """Returns the backends of the network of a configuration.

    Args:
        config: the content of config.json.
        found: its weights.
        reference: names the model in errors.
    """
    build = partial(_build_network, config, found, reference, num_classes=num_classes)
    return Backends(build, None, "networks of transformers run in torch", PREPARE_HINT)


def create_network(config: Mapping[str, Any], reference: str) -> torch.nn.Module:
    """Builds the network of a configuration on the CPU, in float32, with random weights.

    Raises:
        UnavailableError: transformers is not installed, or does not have the network.
    """
    _require_transformers(reference)
    import torch
    from transformers import AutoModelForImageClassification

    _, network_config = _find_class(config, reference)
    network = AutoModelForImageClassification.from_config(network_config, dtype=torch.float32)
    return _return_logits(network, _count_channels(config, reference))


def with_classes(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Returns the configuration of the same network for other classes, of which an image has one."""
    return {
        **{key: value for key, value in config.items() if key not in ("num_labels", "_num_labels")},
        "id2label": {str(index): name for index, name in enumerate(names)},
        # Two classes may have the same name.
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }


def find_heads(config: Mapping[str, Any], reference: str) -> list[str]:
    """Returns the names of the parameters whose shapes depend on the number of classes.

    Raises:
        UnavailableError: as for `create_network`.
    """
    import torch

    with torch.device("meta"):
        two, three = (
            create_network(with_classes(config, [str(index) for index in range(count)]), reference).state_dict()
            for count in (2, 3)
        )
    return [name for name in two if two[name].shape != three[name].shape]


def _build_network(
    config: Mapping[str, Any], found: Weights, reference: str, *, num_classes: int
) -> torch.nn.Module:
    """Builds the network on the CPU, with its weights.

    Raises:
        UnavailableError: transformers is not installed, or does not have the network.
        CheckpointError: the weights do not fit it.
        LabelsError: it has another number of classes than names.
    """
    network = _load_pretrained(config, found, reference)
    if network.config.num_labels != num_classes:
        raise LabelsError(
            f"the network of {reference} has {network.config.num_labels} classes, but id2label names {num_classes}",
            hint=f"correct {CONFIG}",
        )
    return _return_logits(network, _count_channels(config, reference)).eval()


def _return_logits(network: Any, num_channels: int) -> torch.nn.Module:
    """Makes a network take images alone, and return its logits alone. Its parameters keep their names."""

    class Classifier(type(network)):  # type: ignore[misc]
        def forward(self, images: torch.Tensor) -> Any:
            output = super().forward(pixel_values=images[:, :num_channels], return_dict=True)
            # PP-LCNet gives its logits this name.
            return output.logits if "logits" in output else output.last_hidden_state

    network.__class__ = Classifier
    returned: torch.nn.Module = network
    return returned


def _require_transformers(reference: str) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"the network of {reference} is one of transformers, which is not installed",
            hint="pip install transformers",
        ) from error


def _load_pretrained(config: Mapping[str, Any], found: Weights, reference: str) -> Any:
    _require_transformers(reference)
    import torch
    import transformers

    model_class, network_config = _find_class(config, reference)
    state_dict = architectures.to_tensors(found.read())
    try:
        with _silence(transformers.logging):
            network, report = model_class.from_pretrained(
                None,
                config=network_config,
                state_dict=state_dict,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # transformers raises almost any exception for values it did not expect
        raise _misfit(found, reference, describe_error(error)) from error
    _check_report(report, network, found, reference)
    return network


@contextmanager
def _silence(log: Any) -> Iterator[None]:
    """Stops the messages and the progress bars of transformers, whose report is checked instead."""
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _find_class(config: Mapping[str, Any], reference: str) -> tuple[Any, Any]:
    """Returns the class of transformers for a configuration, and the configuration as an object.

    Raises:
        UnavailableError: the installed transformers has no such class, or cannot use the configuration.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForImageClassification, __version__

    kind = str(config["model_type"])
    if kind not in CONFIG_MAPPING:
        own = "is Python code of its own (auto_map), which is never run" if config.get("auto_map") else ""
        raise UnavailableError(
            f"the network of {reference}, {kind!r}, {own or f'is not in the installed transformers {__version__}'}",
            hint="choose a model whose network is part of transformers"
            if own
            else "try a newer transformers: pip install --upgrade transformers",
        )
    values = {key: value for key, value in config.items() if key not in NOT_OF_THE_NETWORK}
    values["architectures"] = config.get("architectures") or []
    try:
        network_config = CONFIG_MAPPING[kind].from_dict(values)
        with torch.device("meta"):
            return type(AutoModelForImageClassification.from_config(network_config)), network_config
    except Exception as error:  # as above
        raise CheckpointError(
            f"transformers {__version__} cannot build the network of {reference}: {describe_error(error)}",
            hint=f"check {CONFIG}, or try a newer transformers: pip install --upgrade transformers",
        ) from error


def _check_report(report: Mapping[str, Any], network: Any, found: Weights, reference: str) -> None:
    """Checks that each parameter of the network was in the file. Logs a warning if there was more in it.

    Raises:
        CheckpointError: the file does not fit the network.
    """
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(checkpoints.BATCH_COUNTER_SUFFIX))
    body = f"{network.base_model_prefix}."
    if missing and not any(name.startswith(body) for name in missing):
        raise CheckpointError(
            f"{found.path.name} of {reference} has no classifier: it lacks {', '.join(missing[:4])}",
            hint="choose a model that was trained to classify images",
        )
    reasons = [
        *(f"{name} is missing" for name in missing),
        *(f"{name[0]} has the shape {tuple(name[1])}, not {tuple(name[2])}" for name in report["mismatched_keys"]),
        *map(str, report.get("error_msgs") or ()),
    ]
    if reasons:
        more = f" and {len(reasons) - 4} more" if len(reasons) > 4 else ""
        raise _misfit(found, reference, ", ".join(reasons[:4]) + more)
    if unexpected := sorted(report["unexpected_keys"]):
        logger.warning(
            "%s of %s has %d tensors that are not part of the network, such as %s: they are left out",
            found.path.name,
            reference,
            len(unexpected),
            unexpected[0],
        )


def _misfit(found: Weights, reference: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{found.path.name} of {reference} does not fit the network of {CONFIG}: {reason}",
        hint="the two files should come from the same model: save it again, or fetch it again",
    )
