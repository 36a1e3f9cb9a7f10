"""What a command imports: nothing heavy before it is needed, on any of these ways."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "onnxruntime",
    "openvino",
    "onnx",
    "numpy",
    "PIL",
    "requests",
    "safetensors",
    "pandas",
}


def imported(*arguments: str, whole_names: bool = False) -> tuple[set[str], int]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "imgclassify", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert lines
    names = {line.rpartition("|")[2].strip() for line in lines}
    return names if whole_names else {name.partition(".")[0] for name in names}, done.returncode


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["predict", "--help"],
        ["preview", "--help"],
        ["sort", "--help"],
        ["calibrate", "--help"],
        ["export", "--help"],
        ["models", "list"],
        ["models", "list", "resnet*", "--json"],
        ["models", "show", "resnet50"],
        ["models", "path", "resnet50"],
        ["models", "verify", "efficientnet_lite0"],
        ["labels", "search", "dog"],
        ["cache", "info"],
    ],
    ids=" ".join,
)
def test_no_heavy_module_is_imported(arguments: list[str]) -> None:
    modules, status = imported(*arguments)
    assert status == 0
    assert not modules & HEAVY


def test_sorting_files_takes_no_network(photo: Path, tmp_path: Path) -> None:
    record = f'{{"source": "{photo}", "model": "x", "width": 4, "height": 3, "predictions": '
    record += '[{"rank": 1, "class_index": 0, "wnid": null, "label": "cat", "probability": 1}], "error": null}\n'
    (tmp_path / "labels.jsonl").write_text(record)
    modules, status = imported("sort", str(tmp_path / "labels.jsonl"), "--into", str(tmp_path / "sorted"), "--yes")
    assert status == 0
    assert (tmp_path / "sorted" / "cat" / "photo.jpg").exists()
    assert not modules & HEAVY


FOR_ONE_PICTURE = {"onnxruntime", "numpy", "PIL"}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["models", "list"]], ids=" ".join)
def test_a_command_imports_no_other(arguments: list[str]) -> None:
    """Each command's module costs its options, and what it imports."""
    modules, _ = imported(*arguments, whole_names=True)
    assert not {"imgclassify.cli.commands.predict", "imgclassify.cli.commands.doctor"} & modules
    # What typer takes for its help with panels takes longer to be imported than all the rest.
    assert not {"rich.markdown", "markdown_it", "pygments"} & modules


def test_one_image_is_answered_with_no_more_than_it_takes(photo: Path) -> None:
    modules, status = imported("predict", str(photo))
    assert status == 0
    assert modules & HEAVY == FOR_ONE_PICTURE
    assert not {"pandas", "safetensors", "google", "huggingface_hub", "filelock", "sympy", "pydantic"} & modules
    whole, _ = imported("predict", str(photo), whole_names=True)
    # Formats that the image is not of, archives it is not in, a table it is not printed as, plugins.
    others = {"PIL.PngImagePlugin", "PIL.TiffImagePlugin", "PIL.GifImagePlugin", "PIL.WebPImagePlugin"}
    others |= {"tarfile", "imgclassify.output.csv_tsv", "imgclassify.hub.timm_registry", "importlib.metadata"}
    assert not others & whole


CONFIDENCE = [
    *(f"imgclassify.confidence.{name}" for name in ("assessment", "calibration", "unfamiliarity", "scoring")),
    *(f"imgclassify.confidence.{name}" for name in ("rollup", "prediction_sets", "temperature")),
    *("imgclassify.labels.taxonomy", "imgclassify.labels.tree", "imgclassify.evaluation"),
]


def test_what_is_not_asked_of_an_image_is_not_imported(photo: Path, tmp_path: Path) -> None:
    def found(*options: str) -> set[str]:
        modules, status = imported("predict", str(photo), *options, whole_names=True)
        assert status == 0
        return {name.removeprefix("imgclassify.") for name in CONFIDENCE if name in modules}

    assert found() == found("--jsonl") == found("-o", str(tmp_path / "x.csv")) == found("--help") == set()
    assert found("--jsonl", "--threshold", "0.5") == {"confidence.calibration", "confidence.assessment"}
    climbed = {"confidence.calibration", "confidence.assessment", "confidence.rollup"}
    assert found("--jsonl", "--at-least", "0.5") == climbed | {"labels.taxonomy", "labels.tree"}
    strange = {"confidence.calibration", "confidence.assessment", "confidence.unfamiliarity", "confidence.scoring"}
    assert found("--jsonl", "--unfamiliar") == strange


@pytest.mark.parametrize("option", ["--at-least=0.5", "--unfamiliar", "--calibrated"])
def test_confidence_takes_no_further_package(option: str, photo: Path) -> None:
    modules, status = imported("predict", str(photo), option)
    assert status == 0
    assert modules & HEAVY == FOR_ONE_PICTURE
    assert not {"scipy", "sklearn"} & modules


@pytest.mark.needs_torch
def test_a_checkpoint_of_ones_own_takes_no_torch_either(photo: Path, tmp_path: Path) -> None:
    import torch
    from networks import seeded

    torch.save(seeded("squeezenet1_1").state_dict(), tmp_path / "mine.pth")
    modules, status = imported("predict", str(photo), "-m", str(tmp_path / "mine.pth"), "--arch", "squeezenet1_1")
    assert status == 0
    assert modules & HEAVY == FOR_ONE_PICTURE


def test_a_gpu_is_looked_for_without_torch() -> None:
    code = "import sys; from imgclassify.engines.devices import detect_accelerator as detect; "
    code += "detect(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_usage_error_is_found_before_torch_is_imported() -> None:
    modules, status = imported("predict", "x.jpg", "-m", "no_such_model")
    assert status == 3
    assert "torch" not in modules


@pytest.mark.needs_torch
def test_the_check_would_notice() -> None:
    modules, _ = imported("doctor", "--json")
    assert "torch" in modules
