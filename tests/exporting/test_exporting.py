"""What is refused before and after the work, and what stands in the folder then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise
from exported import export_hub, hub_model, photos
from graphs_by_text import LOGITS, save_graph

from imgclassify.errors import CheckpointError, LabelsError, OutputError, UnavailableError, UsageError
from imgclassify.exporting import checking
from imgclassify.exporting.exporting import export_model
from imgclassify.exporting.source import ExportSource
from imgclassify.graphs import export as graph_export

LITE = "efficientnet_lite0"


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Before anything is loaded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("x.pth", {}, "no file extension that selects a format"),
        ("x", {}, "no file extension"),
        ("absent/x.onnx", {}, "a folder that does not exist"),
        ("folder.onnx", {}, "is a folder"),
        ("there.onnx", {}, "exists already"),
        ("scripted.onnx", {}, r"scripted\.onnx\.run\.py' exists already"),
        ("x.pt2", {"dtype": "float16"}, "only .onnx files are written in it"),
        ("x.onnx", {"dtype": "bfloat16"}, "dtype is 'bfloat16'"),
        ("-", {}, "not to stdout"),
    ],
)
def test_a_wrong_target_is_refused_before_the_model_is_loaded(
    file: str, options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").write_bytes(b"mine")
    (tmp_path / "scripted.onnx.run.py").write_text("print('mine')\n")
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words) as error:
        export_model("no such model", file, **options)
    assert error.value.hint
    assert listing(tmp_path) == before
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"


def test_an_empty_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").touch(mode=0o640)
    export_model(LITE, tmp_path / "x.onnx")
    assert listing(tmp_path) == ["x.onnx", "x.onnx.run.py"]
    assert (tmp_path / "x.onnx").stat().st_mode & 0o777 == 0o640


# Models ----------------------------------------------------------------------------------------------------------


def test_an_onnx_graph_is_refused(tmp_path: Path) -> None:
    save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Identity (g)")
    with pytest.raises(CheckpointError, match=r"is an \.onnx graph already") as error:
        export_model(f"{tmp_path}/g.onnx", tmp_path / "x.onnx")
    assert "use it as it is" in str(error.value.hint)
    export_model(LITE, tmp_path / "lite.onnx")
    with pytest.raises(CheckpointError, match="already"):
        export_model(f"{tmp_path}/lite.onnx", tmp_path / "x.onnx")


@pytest.mark.needs_torch
@pytest.mark.parametrize(("extension", "name"), [("torchscript", "TorchScript"), ("pt2", r"torch\.export")])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_a_program_of_torch_is_refused_before_it_is_run(extension: str, name: str, tmp_path: Path) -> None:
    path = export_hub(tmp_path, f"x.{extension}").path
    with pytest.raises(CheckpointError, match=f"is a .*{name}.* already"):
        export_model(str(path), tmp_path / "y.onnx")


@pytest.mark.needs_torch
def test_a_quantized_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    reference, loading = hub_model(tmp_path)
    source = ExportSource(reference, probabilities=False, features=False, **loading)
    from imgclassify.hub import torch_hub

    load = torch_hub.TorchHubLoader.load_network
    monkeypatch.setattr(
        torch_hub.TorchHubLoader, "load_network", lambda *arguments: replace(load(*arguments), quantized=True)
    )
    assert not source.network.quantized
    with pytest.raises(CheckpointError, match="is quantized, and its operators cannot be exported"):
        export_model(reference, tmp_path / "x.onnx", **loading)


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(LabelsError, match="has 2 classes, the network has 1000"):
        export_model(LITE, tmp_path / "x.onnx", labels=tmp_path / "two.txt")
    assert listing(tmp_path) == ["two.txt"]


@pytest.mark.needs_torch
def test_features_that_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the features of the network cannot be found"):
        export_hub(tmp_path, "x.onnx", "probabilities", features=True)


@pytest.mark.needs_torch
def test_without_the_exporter_a_model_without_a_graph_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UnavailableError, match="needs onnxscript, which is not installed") as error:
        export_hub(tmp_path, "x.onnx")
    assert "pip install" in str(error.value.hint)
    export_model(LITE, tmp_path / "lite.onnx")  # a model with a graph does not
    export_hub(tmp_path, "x.pt2")


def test_a_model_with_a_graph_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    code = (
        "import sys; from imgclassify.exporting.exporting import export_model\n"
        f"export_model('{LITE}', {str(tmp_path / 'x.onnx')!r}, features=True, dtype='float16')\n"
        "print({'torch', 'torchvision', 'timm', 'onnx', 'onnxscript'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# Files that are not right ----------------------------------------------------------------------------------------


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.onnx").write_bytes(b"earlier")
    monkeypatch.setitem(checking.MAX_DIFFERENCES, "float32", -1.0)
    with pytest.raises(CheckpointError, match=r"not right: a probability differs by") as error:
        export_model(LITE, tmp_path / "x.onnx", overwrite=True)
    assert error.value.hint
    assert listing(tmp_path) == ["x.onnx"]
    assert (tmp_path / "x.onnx").read_bytes() == b"earlier"


@pytest.mark.needs_torch
def test_a_graph_that_computes_something_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way through a real fault: the exporter's graph gets another weight."""
    from imgclassify.exporting import onnx_file

    trace = onnx_file._trace_graph

    def damage(source: ExportSource) -> Any:
        found = trace(source)
        arrays = dict(found.read())
        arrays["head.bias"] = arrays["head.bias"] + np.float32([0, 1e-2, 0])
        return found._replace(read=lambda: arrays)

    monkeypatch.setattr(onnx_file, "_trace_graph", damage)
    with pytest.raises(CheckpointError, match="a probability differs by"):
        export_hub(tmp_path, "x.onnx")
    assert listing(tmp_path) == ["names.txt", "repository"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_model(LITE, tmp_path / "x.onnx")
    before = (tmp_path / "x.onnx").read_bytes()

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UnavailableError, match="No space left on device"):
        export_model(LITE, tmp_path / "x.onnx", overwrite=True)
    assert listing(tmp_path) == ["x.onnx", "x.onnx.run.py"]
    assert (tmp_path / "x.onnx").read_bytes() == before


# One's own images ------------------------------------------------------------------------------------------------


def test_ones_own_images_are_classified_by_both(tmp_path: Path) -> None:
    images = photos(tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(images[0].read_bytes()[:200])
    images.append(tmp_path / "photos" / "broken.jpg")
    seen: list[str] = []
    report = export_model(
        LITE, tmp_path / "x.onnx", check=lambda: images, on_result=lambda result: seen.append(result.source)
    )
    assert report.comparison is not None
    assert (report.comparison.compared, report.comparison.agreed) == (len(images) - 1, len(images) - 1)
    assert (report.comparison.failed, report.comparison.failed_once) == (1, 0)
    assert seen == list(map(str, images))
    assert report.to_dict()["check"]["compared"] == len(images) - 1


def test_an_image_with_another_class_stops_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crops of the two runs differ, as they would if the preprocessing were not read as it was written."""
    images = [noise(300, 200, seed=seed) for seed in range(4)]
    files = []
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
        files.append(tmp_path / f"{index}.png")
    orders = iter([files, files[::-1]])
    monkeypatch.setattr(checking, "pair_results", lambda one, other: zip(one, other, strict=True))
    with pytest.raises(CheckpointError, match=r"images have another class, such as '.*0\.png'"):
        export_model(LITE, tmp_path / "x.onnx", check=lambda: next(orders))
    assert "x.onnx" not in listing(tmp_path)


def test_the_exporter_is_quiet_and_leaves_torch_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    before = torch.backends.mha.get_fastpath_enabled()
    with graph_export.quiet_exporter():
        print("chatter")
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert capsys.readouterr() == ("", "")
