"""imgclassify compare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli.conftest import Run
from conftest import noise

from imgclassify import classifier
from imgclassify.cli.commands import doctor
from imgclassify.errors import UsageError
from imgclassify.labels import Label, LabelSet
from imgclassify.results import ImageFailure, ImageResult, Prediction
from imgclassify.sources import Source


class Stub:
    """Stands in for a Classifier of two classes: sure of the first; in bfloat16 less so from image to image,
    until some come out the other way."""

    labels = LabelSet("two", (Label(0, None, "cat"), Label(1, None, "dog")))

    made: list[dict[str, Any]]
    engines = ("onnxruntime", "torch")

    def __init__(self, model: str, **options: Any) -> None:
        engine = options["engine"]
        if engine == "auto":
            engine = "torch" if options["dtype"] != "float32" else self.engines[0]
        if engine not in self.engines:
            raise UsageError(f"the {engine} engine cannot run {model}", hint="use another")
        self.made.append({"model": model, **options})
        self.step = 0.2 if options["dtype"] == "bfloat16" else 0.0
        self.fails = options["decode_device"] == "gpu"
        decode_mode = "gpu" if self.fails else "fast" if options["fast_decode"] else "exact"
        device = "cpu" if options["device"] == "auto" else options["device"]
        self.run = SimpleNamespace(
            model=model,
            weights="V1",
            engine=engine,
            device=device,
            dtype=options["dtype"],
            decode_mode=decode_mode,
        )

    def stream(self, sources: Iterable[Source]) -> Iterator[ImageResult]:
        for index, source in enumerate(sources):
            if source.name.endswith("m.jpg") or (self.fails and index == 0):
                yield ImageResult(source.name, "stub", None, None, (), ImageFailure("corrupt_image", "damaged"))
                continue
            first = 0.9 - index * self.step
            both = sorted([(first, 0, "cat"), (1 - first, 1, "dog")], reverse=True)
            predictions = (
                Prediction(rank, index, None, label, probability)
                for rank, (probability, index, label) in enumerate(both, start=1)
            )
            yield ImageResult(source.name, "stub", 4, 3, tuple(predictions))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    Stub.made = []
    monkeypatch.setattr(classifier, "Classifier", Stub)
    return Stub


def test_a_setting_is_held_against_the_exact_way(run: Run, album: Path, stub: type[Stub]) -> None:
    outcome = run("compare", "net", album, "--dtype", "bfloat16", "--batch-size", "4", "--json")
    assert outcome.status == 1  # an image is broken
    document = json.loads(outcome.out)
    way = {"engine": "onnxruntime", "device": "cpu", "dtype": "float32", "decode": "exact"}
    way |= {"model": "net", "weights": "V1", "classes": 2}
    assert document["reference"] == way
    assert document["other"] == {**way, "engine": "torch", "dtype": "bfloat16"}
    assert (document["shared_classes"], document["compared"], document["failed"]) == (2, 4, 1)
    [failure] = document["failures"]
    assert failure["source"].endswith("m.jpg")
    assert failure["other"] == failure["reference"] == {"type": "corrupt_image", "message": "damaged"}
    assert (document["agreed"], document["agreement"]) == (2, 0.5)
    assert document["largest_change"] == pytest.approx(0.8)
    assert document["largest_change_source"].endswith("z.gif")
    assert document["mean_change"] == pytest.approx((0 + 0.2 + 0.6 + 0.8) / 4)
    assert [
        (change["source"].rpartition("/")[2], change["reference"]["label"], change["other"]["label"])
        for change in document["changed"]
    ] == [("c.webp", "cat", "dog"), ("z.gif", "cat", "dog")]
    assert {made["batch_size"] for made in stub.made} == {4}
    assert all(made["top_k"] >= 1000 for made in stub.made)


def test_a_table_says_the_same(run: Run, album: Path, stub: type[Stub]) -> None:
    outcome = run("compare", "net", album, "--dtype", "bfloat16")
    for words in (
        "net (V1)",
        "onnxruntime, cpu, float32, exact decoding",
        "torch, cpu, bfloat16, exact decoding",
        "4 compared, 1 failed",
        "50.00 %, 2 of 4 changed",
        "0.8 in probability",
        "0.4, the mean of each image's largest change",
        "cat 90.00 %  dog 70.00 %",
        "cat 90.00 %  dog 90.00 %",
    ):
        assert words in outcome.out
    assert "comparing" in outcome.err


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        (["--fast-decode"], {"decode": "fast"}),
        (["--engine", "torch"], {"engine": "torch"}),
        (["--device", "cuda"], {"device": "cuda"}),
    ],
)
def test_each_setting_is_one_that_may_differ(
    run: Run, album: Path, stub: type[Stub], option: list[str], changed: dict[str, str]
) -> None:
    document = json.loads(run("compare", "net", album, "--json", *option).out)
    assert document["other"] == {**document["reference"], **changed}


def test_an_image_that_fails_one_way_only_is_told(run: Run, album: Path, stub: type[Stub]) -> None:
    outcome = run("compare", "net", album, "--decode", "gpu")
    assert outcome.status == 1
    assert "3 compared, 2 failed (1 of them in one of the runs only)" in outcome.out
    assert outcome.out.count("corrupt_image: damaged (other)\n") == 1
    assert "m.jpg  corrupt_image: damaged\n" in outcome.out


def test_as_many_images_are_named_as_wanted(run: Run, album: Path, stub: type[Stub]) -> None:
    arguments = ["compare", "net", album, "--dtype", "bfloat16"]
    named = [len(json.loads(run(*arguments, "--json", "--list", n).out)["changed"]) for n in ("0", "1", "2", "all")]
    assert named == [0, 1, 2, 2]
    outcome = run(*arguments, "--list", "1")
    assert ("c.webp" in outcome.out, "z.gif  cat" in outcome.out) == (True, False)
    assert "2 images changed, 1 named: --list all names all" in outcome.err


@pytest.mark.parametrize("option", [[], ["--engine", "onnxruntime"], ["--device", "cpu"], ["--dtype", "float32"]])
def test_where_no_setting_differs_the_engines_are_compared(
    run: Run, album: Path, stub: type[Stub], option: list[str]
) -> None:
    document = json.loads(run("compare", "net", album, "--json", *option).out)
    assert (document["reference"]["engine"], document["other"]["engine"]) == ("onnxruntime", "torch")


def test_where_only_one_engine_can_there_is_nothing_to_compare(
    run: Run, album: Path, stub: type[Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub, "engines", ("torch",))
    outcome = run("compare", "net", album)
    assert outcome.status == 2
    assert "nothing to compare" in outcome.err
    assert "the onnxruntime engine cannot run net" in outcome.err


def test_a_limit_takes_the_first_images(run: Run, album: Path, stub: type[Stub]) -> None:
    outcome = run("compare", "net", album, "--dtype", "bfloat16", "--limit", "2", "--json")
    assert outcome.status == 0
    assert json.loads(outcome.out)["compared"] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["net"], 2, "only 'net' was given, which is taken as the model"),
        (["net", "-"], 2, "only once"),
        (["net", "resnet50", "PHOTO"], 2, "'resnet50' is a model"),
        (["net", "resnet50@IMAGENET1K_V1"], 2, "compare net photos/ --with resnet50@IMAGENET1K_V1"),
        (["PHOTO", "resnet50"], 2, "give the model first: imgclassify compare resnet50 "),
        (["net", "timm:anything", "PHOTO"], 2, "--with timm:anything"),
        (["net", "other.PTH", "PHOTO"], 2, "--with other.PTH"),
        (["net", "PHOTO", "--list", "few"], 2, "or all"),
        (["net", "--files-from", "-"], 2, "only once"),
        (["net", "EMPTY"], 4, "no image was found"),
        (["net", "EMPTY", "--limit", "0"], 2, "limit"),
        (["net", "PHOTO", "--batch-size", "x"], 2, "batch-size"),
        (["--fast-decode"], 2, "MODEL"),
    ],
)
def test_wrong_usage_is_told(
    run: Run, stub: type[Stub], photo: Path, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "PHOTO": str(photo)}
    outcome = run("compare", *(places.get(argument, argument) for argument in arguments))
    assert outcome.status == status
    assert words in outcome.err
    assert outcome.out == ""
    assert stub.made == []


def test_a_folder_that_grows_meanwhile_is_not_compared(
    run: Run, album: Path, stub: type[Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stub.stream

    def growing(self: Stub, sources: Iterable[Source]) -> Iterator[ImageResult]:
        if self.run.dtype == "bfloat16":  # the exact way has found its first image by now
            (album / "0.jpg").write_bytes(b"new")
        yield from stream(self, sources)

    monkeypatch.setattr(stub, "stream", growing)
    outcome = run("compare", "net", album, "--dtype", "bfloat16")
    assert outcome.status == 3
    assert "the images changed while they were compared" in outcome.err


def test_doctor_tells_of_the_engine_and_of_what_export_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "onnxscript" or package.startswith(("usearch", "opencv-python")):
            raise PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "cpu_extensions", lambda: ["AVX2", "VNNI"])
    outcome = run("doctor", "--json")
    findings = {(finding["what"], finding["state"]): finding for finding in json.loads(outcome.out)}
    assert findings["onnxruntime", "1.2.3, engine loads; the CPU has AVX2, VNNI"]["ok"]
    missing = findings["onnxscript", "not installed (optional)"]
    assert missing["ok"]
    assert missing["optional"]
    assert "pip install onnx onnxscript" in missing["remedy"]
    # One of several packages with OpenCV is enough.
    assert findings["opencv-contrib-python", "1.2.3"]["ok"]
    assert not any(what == "opencv-python-headless" for what, _ in findings)
    assert findings["usearch", "not installed (optional)"]["remedy"].startswith("pip install usearch ")


@pytest.mark.parametrize(
    ("cpuinfo", "extensions"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx avx2 avx512f avx512_vnni\n", ["AVX2", "AVX-512", "VNNI"]),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", ["NEON", "bfloat16"]),
        ("", []),
        (None, []),
    ],
)
def test_the_cpus_extensions_are_read_from_the_system(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, extensions: list[str]
) -> None:
    def read_text(path: Path, encoding: str) -> str:
        assert str(path) == "/proc/cpuinfo"
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    assert doctor.cpu_extensions() == extensions


def test_fast_decoding_is_compared_with_a_real_model(run: Run, tmp_path: Path) -> None:
    for index in range(3):
        noise(1400, 1100, seed=index).save(tmp_path / f"{index}.jpg", quality=90)
    outcome = run("compare", "efficientnet_lite0", tmp_path, "--fast-decode", "--json")
    assert outcome.status == 0, outcome.err
    document = json.loads(outcome.out)
    assert (document["reference"]["decode"], document["other"]["decode"]) == ("exact", "fast")
    assert (document["compared"], document["failed"]) == (3, 0)
    assert 0 < document["largest_change"] < 0.2


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks of three classes, "ant", "bee" and "sofa", and a folder with noise, in the current folder."""
    import torch
    from torchvision.models import squeezenet1_1

    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(squeezenet1_1(num_classes=3).state_dict(), f"{seed}.pth")
    Path("classes.txt").write_text("ant\nbee\nsofa\n")
    Path("photos").mkdir()
    for seed in range(8):
        noise(300, 200, seed=seed).save(f"photos/{seed}.png")
    Path("photos/x.jpg").write_text("broken")
    return tmp_path


OWN = ("--arch", "squeezenet1_1", "--labels", "classes.txt")


def best_labels(run: Run, *arguments: str) -> list[str]:
    lines = run("predict", "photos", "--jsonl", "-k", "1", *arguments).out.splitlines()
    return [record["predictions"][0]["label"] for record in map(json.loads, lines) if not record["error"]]


@pytest.mark.needs_torch
def test_two_models_are_compared(run: Run, own_models: Path) -> None:
    outcome = run("compare", "0.pth", "photos", "--with", "1.pth", *OWN, "--json", "--list", "all")
    document = json.loads(outcome.out)
    assert outcome.status == 1
    assert (document["reference"]["model"], document["other"]["model"]) == ("0.pth", "1.pth")
    assert document["reference"]["engine"] == document["other"]["engine"]
    labels = zip(*(best_labels(run, "-m", f"{seed}.pth", *OWN) for seed in range(2)), strict=True)
    changed = [(f"photos/{index}.png", a, b) for index, (a, b) in enumerate(labels) if a != b]
    assert (document["compared"], document["agreed"], document["shared_classes"]) == (8, 8 - len(changed), 3)
    assert [
        (each["source"], each["reference"]["label"], each["other"]["label"]) for each in document["changed"]
    ] == changed
    assert [each["source"] for each in document["failures"]] == ["photos/x.jpg"]


@pytest.mark.needs_torch
def test_models_with_other_classes_are_compared_by_those_they_share(run: Run, own_models: Path) -> None:
    outcome = run("compare", "efficientnet_lite0", "photos", "--with", "0.pth", *OWN)
    assert "2 in common, of 1,000 and 3" in outcome.out
    assert "8 of 8 changed (8 of them to or from a class not in common)" in outcome.out
    assert "comparing 0.pth with efficientnet_lite0" in outcome.err


@pytest.mark.needs_torch
def test_models_that_cannot_be_compared_are_refused(run: Run, own_models: Path) -> None:
    Path("classes.txt").write_text("aunt\nuncle\nniece\n")
    strange = run("compare", "efficientnet_lite0", "photos", "--with", "0.pth", *OWN)
    assert (strange.status, strange.out) == (2, "")
    assert (
        "efficientnet_lite0 and 0.pth have no class in common: theirs are such as 'tench' and 'aunt'" in strange.err
    )
    same = run("compare", "efficientnet_lite0", "photos", "--with", "efficientnet_lite0")
    assert (same.status, same.out) == (2, "")
    assert "are the same model" in same.err
