"""Stops dependencies from sending usage data."""

import importlib
import os
import sys
from types import ModuleType

_SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
"""Environment variables of onnxruntime (1.32 and later) and of the Hugging Face client, including hf_xet."""


def disable_telemetry() -> None:
    """Stops onnxruntime and the Hugging Face client from sending usage data, in this process and its children.

    Call this before either is imported: onnxruntime reads its variable once, when it is loaded.
    """
    for variable in _SWITCHES:
        os.environ[variable] = "1"
    # If the program imported the Hugging Face client before, the client keeps the value that it read then.
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]


def import_openvino() -> ModuleType:
    """Imports OpenVINO, which by itself tells Google Analytics so, and keeps a number for this user at home.

    There is no switch. But OpenVINO does without the package that reports, if that cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")
