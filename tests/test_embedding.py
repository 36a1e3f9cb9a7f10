"""Embeddings: what numpy and timm give for the same weights, in each format, resumed, and from Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import noise
from networks import seeded
from PIL import Image

from imgclassify import Classifier, ImageEmbedding
from imgclassify.embedding import EMBEDDINGS, Embedder
from imgclassify.engines import FEATURES
from imgclassify.errors import ImageNotFoundError, OutputError, UsageError
from imgclassify.output.file_formats import open_file_format
from imgclassify.output.formats import find_format
from imgclassify.runner import load_runner

MODEL = "efficientnet_lite0"
FORMATS = ("parquet", "npz", "jsonl")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Ten images, of which the first and another are broken."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(10):
        noise(260 + number, 240, seed=number).save(folder / f"{number}.png")
    for number in (0, 6):
        (folder / f"{number}.png").write_bytes(b"no image")
    return folder


def embed(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify", "embed", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


def expected(folder: Path) -> list[np.ndarray | None]:
    """timm's own features, of the crops that torchvision's transforms make."""
    from torchvision.transforms import v2

    loaded = load_runner(MODEL).network.backends.build_torch
    assert loaded is not None
    network = loaded().eval()
    prepare = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224), v2.PILToTensor()])
    found: list[np.ndarray | None] = []
    for path in sorted(folder.iterdir()):
        try:
            pixels = prepare(Image.open(path).convert("RGB"))
        except OSError:
            found.append(None)
            continue
        with torch.inference_mode():
            last = network.forward_features(((pixels / 255 - 0.5) / 0.5)[None])
            found.append(network.forward_head(last, pre_logits=True)[0].numpy())
    return found


def read(path: Path) -> list[np.ndarray | None]:
    """By other hands than the format's own reader."""
    if path.suffix == ".parquet":
        column = pyarrow.parquet.read_table(path).column("embedding")
        return [None if each is None else np.array(each) for each in column.to_pylist()]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return [
                None if kind else row for row, kind in zip(arrays["embedding"], arrays["error_type"], strict=True)
            ]
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [None if row["embedding"] is None else np.array(row["embedding"]) for row in rows]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_holds_timms_features_and_the_errors(name: str, album: Path, tmp_path: Path) -> None:
    path = tmp_path / f"vectors.{name}"
    embed(album, "-o", path, status=1)
    found, wanted = read(path), expected(album)
    assert [each is None for each in found] == [each is None for each in wanted] == [n in (0, 6) for n in range(10)]
    for vector, its_own in zip(found, wanted, strict=True):
        if vector is not None and its_own is not None:
            assert vector.shape == (1280,)
            assert np.abs(vector - its_own).max() < 1e-4 * np.abs(its_own).max()


def test_the_types_of_each_format(album: Path, tmp_path: Path) -> None:
    for kind, arrow in (("float32", pyarrow.float32()), ("float16", pyarrow.float16())):
        embed(album, "-o", tmp_path / "v.parquet", "--overwrite", "--dtype", kind, status=1)
        table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
        assert table.schema.field("embedding").type == pyarrow.list_(arrow, 1280)
        assert table.column("width").to_pylist()[1:4] == [261, 262, 263]
        assert table.column("error").to_pylist()[6]["type"] == "not_an_image"
        embed(album, "-o", tmp_path / "v.npz", "--overwrite", "--dtype", kind, status=1)
        with np.load(tmp_path / "v.npz", allow_pickle=False) as arrays:
            assert (arrays["embedding"].dtype, arrays["embedding"].shape) == (np.dtype(kind), (10, 1280))
            assert arrays["source"].tolist() == [str(album / f"{number}.png") for number in range(10)]
            assert np.isnan(arrays["embedding"][[0, 6]]).all()
            assert arrays["error_type"].tolist()[6] == "not_an_image"
            assert json.loads(str(arrays["provenance"]))["run"]["model"] == MODEL
    half, whole = read(tmp_path / "v.npz"), expected(album)
    assert np.abs(half[1] - whole[1]).max() < 1e-3 * np.abs(whole[1]).max()  # type: ignore[operator, arg-type]


def test_normalized_vectors_have_length_1(album: Path, tmp_path: Path) -> None:
    embed(album, "-o", tmp_path / "v.npz", "--normalize", status=1)
    found, wanted = read(tmp_path / "v.npz"), expected(album)
    for vector, its_own in zip(found, wanted, strict=True):
        if vector is not None and its_own is not None:
            assert abs(np.linalg.norm(vector.astype(np.float64)) - 1) < 1e-6
            np.testing.assert_allclose(vector, its_own / np.linalg.norm(its_own), atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_that_was_killed_and_resumed_writes_the_file_of_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        noise(640, 480, seed=number).save(folder / f"{number:03}.jpg")
    (folder / "030.jpg").write_bytes(b"")
    options = ["--batch-size", "1", "--engine", "onnxruntime", "--device", "cpu"]
    embed(folder, "-o", tmp_path / f"whole.{name}", *options, status=1)
    path = tmp_path / f"killed.{name}"
    journal = path.with_name(path.name + ".partial")
    command = [sys.executable, "-m", "imgclassify", "embed", str(folder), "-o", str(path), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 8):
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not path.exists()
    done = embed(folder, "-o", path, "--resume", *options, status=1)
    assert "resumed" in done.stderr
    assert path.read_bytes() == (tmp_path / f"whole.{name}").read_bytes()


@pytest.mark.parametrize("change", [["--normalize"], ["--dtype", "float16"]])
def test_a_run_with_other_vectors_is_not_resumed(change: list[str], album: Path, tmp_path: Path) -> None:
    embed(album, "-o", tmp_path / "v.jsonl", status=1)
    done = embed(album, "-o", tmp_path / "v.jsonl", "--resume", *change, status=2)
    assert "cannot resume" in done.stderr
    assert "was" in done.stderr


def test_records_go_to_stdout_as_json_lines(photo: Path) -> None:
    done = embed(photo)
    record = json.loads(done.stdout)
    assert list(record) == ["source", "model", "width", "height", "frames", "frame", "embedding", "error"]
    assert (record["source"], record["model"], record["error"]) == (str(photo), MODEL, None)
    assert len(record["embedding"]) == 1280


def test_formats_without_vectors_are_not_offered(photo: Path) -> None:
    done = embed(photo, "-f", "csv", status=2)
    assert "json, jsonl, parquet, npz" in done.stderr
    done = embed(photo, "-f", "npz", status=2)
    assert "name a file with --output" in done.stderr


@pytest.mark.parametrize("name", ["parquet", "npz"])
def test_a_run_in_which_every_image_failed_is_a_file_too(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    path = tmp_path / f"v.{name}"
    embed(tmp_path / "a.jpg", "-o", path, status=1)
    assert read(path) == [None]
    (tmp_path / "b.png").write_bytes(b"")
    embed(tmp_path / "a.jpg", tmp_path / "b.png", "-o", path, "--resume", status=1)
    assert read(path) == [None, None]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_what_is_written_comes_back(name: str, kind: str, tmp_path: Path) -> None:
    """More records than are read at once, with names that no format likes; the first have no vector."""
    rng = np.random.default_rng(0)
    names = ["a\nb", "caf\udce9", " ", "日本", "a,b"]
    records = []
    for index in range(2500):
        source = f"{names[index % 5]}{index}"
        if index < 3 or index % 7 == 0:
            records.append({"source": source, "model": "m", "width": None, "height": None, "frames": None,
                            "frame": None, "embedding": None,
                            "error": {"type": "empty", "message": f"no {index}"}})  # fmt: skip
        else:
            vector = rng.standard_normal(4).astype(kind)
            records.append({"source": source, "model": "m", "width": index, "height": 1, "frames": index % 3 + 1,
                            "frame": 1, "embedding": vector, "error": None})  # fmt: skip
            if index % 5 == 0:
                records[-1]["damaged"] = True
    from imgclassify.output.provenance import Provenance

    run = {"model": "m"}
    provenance = Provenance(run, {"embedding_dtype": kind, "norm": "none"})
    file_format = open_file_format(find_format(name, EMBEDDINGS), EMBEDDINGS)
    path = tmp_path / f"v.{name}"
    file_format.save(path, provenance, map(ImageEmbedding.from_dict, records))
    file_format.save_sidecar(path, provenance)
    loaded, found = file_format.load(path)
    assert loaded == provenance
    for record, its_own in zip(found, records, strict=True):
        values = record.to_dict()
        vector, wanted = values.pop("embedding"), its_own["embedding"]
        assert values == {key: value for key, value in its_own.items() if key != "embedding"}
        if wanted is None:
            assert vector is None
        else:
            # The digits of a float16 in JSON are those that a float16 needs.
            np.testing.assert_array_equal(vector.astype(kind), wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"embedding": None},
        {"embedding": [[1.0]]},
        {"embedding": ["a"]},
        {"embedding": [float("nan")]},
        {"error": {"type": "empty", "message": "m"}},
        {"width": None},
        {"source": 3},
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any]) -> None:
    record = {"source": "a", "model": "m", "width": 1, "height": 1, "embedding": [1.0], "error": None}
    assert ImageEmbedding.from_dict(record).to_dict()["source"] == "a"
    with pytest.raises(ValueError, match="field"):
        ImageEmbedding.from_dict(record | change)


# From Python --------------------------------------------------------------------------------------------------


def test_a_classifier_embeds_what_it_predicts(album: Path) -> None:
    classifier = Classifier(device="cpu")
    wanted = expected(album)
    paths = sorted(album.iterdir())
    one = classifier.embed(paths[1])
    assert one.embedding is not None
    assert wanted[1] is not None
    assert np.abs(one.embedding - wanted[1]).max() < 1e-4 * np.abs(wanted[1]).max()
    many = list(classifier.embed(paths))
    assert [each.source for each in many] == [str(path) for path in paths]
    assert [each.error is None for each in many] == [each is not None for each in wanted]
    [unit] = classifier.embed([np.asarray(Image.open(paths[1]))], normalize=True)
    assert unit.embedding is not None
    np.testing.assert_allclose(unit.embedding, one.embedding / np.linalg.norm(one.embedding), atol=1e-6)
    assert classifier.predict(paths[1]).predictions
    with pytest.raises(ImageNotFoundError):
        classifier.embed("nowhere.jpg")
    classifier.close()


def test_features_that_float16_cannot_hold_are_refused(tmp_path: Path, photo: Path) -> None:
    network = seeded("resnet18")
    with torch.no_grad():
        network.layer4[1].bn2.bias += 1e6
    torch.save(network.state_dict(), tmp_path / "large.pth")
    runner = load_runner(tmp_path / "large.pth", arch="resnet18", outputs=(FEATURES,), with_labels=False)
    assert Embedder(runner).embed(photo).embedding is not None
    assert Embedder(runner, dtype="float16", normalize=True).embed(photo).embedding is not None
    with pytest.raises(OutputError, match="too large for float16"):
        Embedder(runner, dtype="float16").embed(photo)


def test_an_unknown_dtype_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown dtype 'int8'"):
        Embedder(load_runner(MODEL, outputs=(FEATURES,), device="cpu"), dtype="int8")


def test_labels_are_not_asked_for(tmp_path: Path, photo: Path) -> None:
    """A checkpoint with another number of classes than its architecture's label set."""
    torch.save(seeded("resnet18", num_classes=7).state_dict(), tmp_path / "seven.pth")
    done = embed(photo, "-m", tmp_path / "seven.pth", "--arch", "resnet18")
    assert len(json.loads(done.stdout)["embedding"]) == 512


def test_neither_torch_nor_timm_is_imported(photo: Path) -> None:
    code = f"""
import os, sys
def leave(status):
    print(*{{"torch", "timm", "pyarrow"}} & sys.modules.keys(), file=sys.stderr)
    sys.exit(status)
os._exit = leave
sys.argv = ["imgclassify", "embed", {str(photo)!r}]
from imgclassify.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.split() == []
