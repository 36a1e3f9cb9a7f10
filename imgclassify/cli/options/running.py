"""What runs the network."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from imgclassify.cli.option_values import complete_dtype, complete_engine, complete_from, parse_number

RUNNING_PANEL = "Running"
DTYPE_HELP = (
    "Data type that the network computes in: float32, bfloat16, float16, or auto: bfloat16 where it is faster."
)

Device = Annotated[
    str,
    typer.Option(
        "--device",
        autocompletion=complete_from(["auto", "cpu", "cuda", "mps"]),
        metavar="DEVICE",
        rich_help_panel=RUNNING_PANEL,
        help="Device to run on: auto, cpu, cuda, cuda:N or mps.",
    ),
]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RunningOptions:
    """How the network is run. The defaults are the exact setting."""

    device: Device = "auto"
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            autocompletion=complete_dtype,
            metavar="DTYPE",
            rich_help_panel=RUNNING_PANEL,
            help=DTYPE_HELP,
        ),
    ] = "float32"
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            autocompletion=complete_engine,
            metavar="ENGINE",
            rich_help_panel=RUNNING_PANEL,
            help="Engine that runs the network: auto, torch, onnxruntime or openvino.",
        ),
    ] = "auto"
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="N|auto", rich_help_panel=RUNNING_PANEL, help="Images per batch.")
    ] = "auto"
    workers: Annotated[
        str,
        typer.Option(
            "--workers",
            autocompletion=complete_from(["auto", "threads", "processes"]),
            metavar="WORKERS",
            rich_help_panel=RUNNING_PANEL,
            help="What decodes images, and how many: auto, a number, threads, processes, threads:N or processes:N.",
        ),
    ] = "auto"
    fast_decode: Annotated[
        bool,
        typer.Option(
            "--fast-decode",
            rich_help_panel=RUNNING_PANEL,
            help="Decode large JPEGs at a smaller scale. Faster, with nearly the same results.",
        ),
    ] = False
    decode: Annotated[
        str,
        typer.Option(
            "--decode",
            autocompletion=complete_from(["cpu", "gpu"]),
            metavar="DEVICE",
            rich_help_panel=RUNNING_PANEL,
            help="Device that decodes JPEGs: cpu or gpu. gpu uses nvJPEG on a CUDA device, with nearly the same "
            "results.",
        ),
    ] = "cpu"

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier.

        Raises:
            UsageError: --batch-size is not a valid number.
        """
        return {
            "device": self.device,
            "dtype": self.dtype,
            "engine": self.engine,
            "batch_size": parse_number("--batch-size", self.batch_size),
            "workers": None if self.workers == "auto" else self.workers,
            "fast_decode": self.fast_decode,
            "decode_device": self.decode,
        }
