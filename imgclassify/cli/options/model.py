"""Which model is used, and how it is loaded."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from imgclassify.cli.option_groups import OTHER_PANEL
from imgclassify.cli.option_values import complete_architecture, complete_from, complete_labels, complete_model
from imgclassify.hub.reference import KINDS

MODEL_PANEL = "Model"
_MODEL_FORMS = ", ".join(form for kind in KINDS for form in kind.forms if kind.name != "file")

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete_model,
        metavar="REF",
        envvar="IMGCLASSIFY_MODEL",
        rich_help_panel=MODEL_PANEL,
        show_default=False,
        help=f"Model to use: {_MODEL_FORMS}, or a file. Default: efficientnet_lite0, which needs no download.",
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", rich_help_panel=OTHER_PANEL, help="Never open a network socket.", envvar="IMGCLASSIFY_OFFLINE"
    ),
]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ArchitectureOptions:
    """The architecture of a model that does not state it, and whether its code may run."""

    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            autocompletion=complete_architecture,
            metavar="NAME",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Architecture of a checkpoint file: a catalogued model or timm:NAME. "
            "Preprocessing and labels of files and torch.hub models are also taken from it.",
        ),
    ] = None
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            rich_help_panel=MODEL_PANEL,
            help="Allow a torch.hub repository or a TorchScript file to run its own code.",
        ),
    ] = False
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-key",
            metavar="KEY",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Which weights of a checkpoint file to use, if it has several: state_dict_ema, ema.module, ...",
        ),
    ] = None
    transform_input: Annotated[
        bool | None,
        typer.Option(
            "--transform-input/--no-transform-input",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Whether a checkpoint of googlenet or inception_v3 was built with torchvision's transform_input. "
            "Default: as the published weights, with it.",
        ),
    ] = None

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LoadingOptions(ArchitectureOptions):
    """The architecture and labels of a model that does not state them, and whether its code may run."""

    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            autocompletion=complete_labels,
            metavar="NAME|FILE",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Label set or label file to use instead of the model's own.",
        ),
    ] = None
    activation: Annotated[
        str,
        typer.Option(
            "--activation",
            autocompletion=complete_from(["auto", "softmax", "sigmoid", "none"]),
            metavar="NAME",
            rich_help_panel=MODEL_PANEL,
            help="How the network's outputs become probabilities: auto, softmax, sigmoid (each class by itself) or "
            "none (they are probabilities).",
        ),
    ] = "auto"
    output_name: Annotated[
        str | None,
        typer.Option(
            "--output-name",
            metavar="NAME",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Which output of the network to use, if it has several.",
        ),
    ] = None
