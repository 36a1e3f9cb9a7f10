"""imgclassify train, from images to a model that predict, evaluate and embed take; and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import noise
from pages import offline_page
from PIL import Image
from sklearn.linear_model import LogisticRegression

from imgclassify import Classifier
from imgclassify.engines import FEATURES, LOGITS
from imgclassify.runner import load_runner

from .conftest import Run, process

PER_CLASS = 12


def picture(kind: str, seed: int) -> Image.Image:
    """An image of a texture that no other seed has: stripes, a board or blots."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :128]
    period, shift = generator.integers(9, 20), generator.integers(0, 20)
    pattern = {
        "stripes": (x + shift) // period % 2,
        "board": ((x + shift) // period + y // period) % 2,
        "blots": np.asarray(noise(128, 96, seed).convert("L")) > 128,
    }[kind]
    colours = generator.integers(0, 256, (2, 3))
    return Image.fromarray(colours[pattern.astype(int)].astype(np.uint8))


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of three classes."""
    folder = tmp_path_factory.mktemp("data") / "textures"
    for number, kind in enumerate(("stripes", "board", "blots")):
        (folder / kind).mkdir(parents=True)
        for index in range(PER_CLASS):
            picture(kind, 100 * number + index).save(folder / kind / f"{index:02}.png")
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_probe_predicts_evaluates_and_embeds_without_further_options(
    textures: Path, tmp_path: Path, run: Run
) -> None:
    model = tmp_path / "textures-model"
    done = run("train", textures, "-o", model, "--json")
    assert (done.status, done.err.count("Traceback")) == (0, 0), done.err
    training = json.loads(done.out)
    assert files_of(model) >= {
        *("model.safetensors", "config.json", "imgclassify.toml", "labels.tsv", "training.json", "README.md"),
        "split.tsv",
    }
    assert [each["label"] for each in training["data"]["classes"]] == ["blots", "board", "stripes"]
    assert (
        training["data"]["images"] == {"train": 29, "val": 7, "left out": 0}
        or sum(training["data"]["images"].values()) == 3 * PER_CLASS
    )
    # The figures are those that evaluate measures on the images of the validation part.
    rows = [line.split("\t") for line in (model / "split.tsv").read_text("utf-8").splitlines()[1:]]
    held_out = tmp_path / "held out"
    for source, label, part, *_ in rows:
        if part == "val":
            (held_out / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, held_out / label)
    evaluated = run("evaluate", held_out, "-m", model, "--json")
    assert evaluated.status == 0, evaluated.err
    metrics = json.loads(evaluated.out)["metrics"]
    for name in ("acc1", "nll", "brier"):
        assert metrics[name]["value"] == pytest.approx(training["metrics"][name]["value"], abs=1e-4)
    # predict gives the same answers, in another process and from another folder.
    done = process("predict", held_out, "-m", model, "--jsonl", cwd=tmp_path)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    right = sum(Path(each["source"]).parent.name == each["predictions"][0]["label"] for each in records)
    assert right / len(records) == pytest.approx(metrics["acc1"]["value"])
    embedded = run("embed", held_out / "board", "-m", model)
    assert embedded.status == 0, embedded.err


def test_the_head_is_that_of_scikit_learn_on_the_features_of_the_network(
    textures: Path, tmp_path: Path, run: Run
) -> None:
    model = tmp_path / "model"
    assert run("train", textures, "-o", model).status == 0
    training = json.loads((model / "training.json").read_text("utf-8"))
    parts: dict[str, list[str]] = {"train": [], "val": []}
    for line in (model / "split.tsv").read_text("utf-8").splitlines()[1:]:
        source, _, part, *_ = line.split("\t")
        parts[part].append(source)
    frozen = load_runner(outputs=(FEATURES,), with_labels=False)
    features = {
        part: np.stack([frozen.run_one(name).arrays[FEATURES] for name in names]) for part, names in parts.items()
    }
    classes = [Path(name).parent.name for name in parts["train"]]
    mean, scale = features["train"].mean(axis=0), features["train"].std(axis=0)
    scale[scale == 0] = 1
    expected = LogisticRegression(C=training["probe"]["strength"], max_iter=2000, tol=1e-6)
    expected.fit((features["train"] - mean) / scale, classes)
    wanted = expected.predict_proba((features["val"] - mean) / scale)
    taught = Classifier(model)
    outputs = np.stack([taught.runner.run_one(name).arrays[LOGITS] for name in parts["val"]])
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    assert list(expected.classes_) == [label.label for label in taught.labels.labels]
    np.testing.assert_allclose(shifted / shifted.sum(axis=1, keepdims=True), wanted, atol=5e-3)


def test_a_probe_needs_no_torch(textures: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from imgclassify.__main__ import main\n"
        f"sys.argv = ['imgclassify', 'train', {str(textures)!r}, '-o', {str(tmp_path / 'model')!r}]\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "assert not {'torch', 'torchvision', 'timm', 'onnx'} & sys.modules.keys(), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_equal_seeds_give_equal_weights_and_kept_features_do_not_change_them(
    textures: Path, tmp_path: Path, run: Run
) -> None:
    digests = []
    for name in ("first", "second"):
        assert run("train", textures, "-o", tmp_path / name, "--seed", "3").status == 0
        digests.append((tmp_path / name / "model.safetensors").read_bytes())
    assert digests[0] == digests[1]


def test_broken_images_are_listed_and_left_out(textures: Path, tmp_path: Path, run: Run) -> None:
    data = tmp_path / "data"
    shutil.copytree(textures, data)
    (data / "board" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    done = run("train", data, "-o", tmp_path / "model")
    assert done.status == 1
    assert "board/broken.png" in done.err
    training = json.loads((tmp_path / "model" / "training.json").read_text("utf-8"))
    assert training["data"]["failed"] == 1
    assert "broken.png\tboard\tleft out" in (tmp_path / "model" / "split.tsv").read_text("utf-8")


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_empty_class_folder_in_an_archive_is_refused_before_any_work(
    kind: str, textures: Path, tmp_path: Path, run: Run
) -> None:
    data = tmp_path / "data"
    shutil.copytree(textures, data / "images")
    (data / "images" / "plaid").mkdir()
    archive = shutil.make_archive(str(data), kind, data)
    done = run("train", archive, "-o", tmp_path / "model")
    assert done.status == 2
    assert f"no image in {archive + '!images/plaid'!r}" in done.err
    assert run("train", archive, "-o", tmp_path / "model", "--exclude", "plaid/").status == 0


def test_an_archive_with_a_validation_part(textures: Path, tmp_path: Path, run: Run) -> None:
    archive = tmp_path / "textures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(textures.rglob("*.png")):
            part = "val" if path.stem >= "09" else "train"
            file.write(path, f"{part}/{path.parent.name}/{path.name}")
    done = run("train", archive, "-o", tmp_path / "model", "--json")
    assert done.status == 0, done.err
    training = json.loads(done.out)
    assert training["split"] == {"kind": "given"}
    assert training["data"]["images"]["val"] == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "--method is 'magic'"),
        (["--val", "1.5"], "--val is '1.5'"),
        (["--epochs", "3"], "a probe has no recipe"),
        (["--method", "scratch"], "--method scratch needs --arch"),
        (["--method", "scratch", "--arch", "resnet18", "-m", "resnet18"], "starts without any"),
        (["--method", "scratch", "--arch", "cifar_net", "--augment", "2"], "--augment is for a probe"),
        (["--method", "finetune", "--time-limit", "soon"], "--time-limit is 'soon'"),
        (["--method", "finetune", "--set", "colour"], "--set is 'colour'"),
        (["--method", "finetune", "--set", "learning_rat=1"], "learning_rate"),
        (["--method", "finetune", "--recipe", "nowhere.toml"], "--recipe is 'nowhere.toml'"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    arguments: list[str], message: str, textures: Path, tmp_path: Path, run: Run
) -> None:
    done = run("train", textures, "-o", tmp_path / "model", *arguments)
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "model").exists()


def test_a_folder_with_other_files_is_not_replaced(textures: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = run("train", textures, "-o", tmp_path / "mine", "--overwrite")
    assert done.status == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_the_page_tells_the_figures_of_the_folder_and_shows_the_images_that_were_mistaken(
    textures: Path, tmp_path: Path, run: Run
) -> None:
    """One image for validation lies in the folder of another class, and another one is broken."""
    data, page = tmp_path / "data.zip", tmp_path / "page.html"
    with zipfile.ZipFile(data, "w") as file:
        for path in sorted(textures.rglob("*.png")):
            file.write(path, f"{'val' if path.stem >= '09' else 'train'}/{path.parent.name}/{path.name}")
        file.write(textures / "stripes" / "10.png", "val/blots/wrong.png")
        file.writestr("val/board/broken.png", b"\x89PNG\r\n\x1a\n but no more")
    done = run("train", data, "-o", tmp_path / "model", "--report", page)
    assert done.status == 1, done.err
    training = json.loads((tmp_path / "model" / "training.json").read_text("utf-8"))
    text = page.read_text("utf-8")
    found = offline_page(text)
    written = [float(each["value"] or "") for each in found.elements("data")]
    assert training["metrics"]["acc1"]["value"] in written
    assert training["metrics"]["nll"]["value"] in written
    broken = [row for row in found.rows if row[0].endswith("val/board/broken.png")]
    assert [row[1:3] for row in broken] == [["board", "truncated_image"]]
    assert len(found.elements("img")) == round(10 * (1 - training["metrics"]["acc1"]["value"]))
    figures = [each.partition("</figure>")[0] for each in text.split("<figure>\n<img ")[1:]]
    [wrong] = [each for each in figures if "wrong.png</bdi>" in each]
    assert "taken for <b><bdi>stripes</bdi></b>" in wrong
    content = base64.b64decode(wrong.partition("base64,")[2].partition('"')[0])
    shown = np.asarray(Image.open(io.BytesIO(content)), np.float64)
    # 256 pixels are the short side of 96, of which 224 are seen.
    expected, other = (
        np.asarray(picture("stripes", seed).crop((22, 6, 106, 90)).resize((160, 160)), np.float64)
        for seed in (10, 11)
    )
    assert np.abs(shown - expected).mean() < 8 < np.abs(shown - other).mean()


def test_a_page_is_not_replaced_and_that_is_said_before_any_work(textures: Path, tmp_path: Path, run: Run) -> None:
    page = tmp_path / "page.html"
    page.write_text("an earlier page")
    done = run("train", textures, "-o", tmp_path / "model", "--report", page)
    assert done.status == 2
    assert "exists already" in done.err
    assert not (tmp_path / "model").exists()
    assert page.read_text() == "an earlier page"


def test_a_probe_leaves_the_unfinished_training_of_another_method(textures: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "state.safetensors").write_bytes(b"hours of work")
    assert run("train", textures, "-o", tmp_path / "model").status == 0
    assert (tmp_path / "model.partial" / "state.safetensors").read_bytes() == b"hours of work"


# All layers -------------------------------------------------------------------------------------------------------


def digest(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


SCRATCH = ("--method", "scratch", "--arch", "cifar_net", "--set", "batch_size=4", "--seed", "7")


@pytest.mark.needs_torch
def test_a_network_from_scratch_learns_and_is_a_model(
    textures: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLASSIFY_MODEL", "resnet50")  # the default of all commands, which is not used here
    model = tmp_path / "net"
    done = run("train", textures, "-o", model, *SCRATCH, "--epochs", "4", "--set", "crop=center")
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in (model / "training.jsonl").read_text("utf-8").splitlines()]
    assert [each["epoch"] for each in lines] == [0, 1, 2, 3, 4]
    training = json.loads((model / "training.json").read_text("utf-8"))
    assert training["recipe"]["batch_size"] == 4
    assert training["start"] is None
    assert not (tmp_path / "net.partial").exists()
    monkeypatch.delenv("IMGCLASSIFY_MODEL")
    done = run("predict", textures / "board" / "00.png", "-m", model, "--json")
    [record] = json.loads(done.out)["results"]
    assert {each["label"] for each in record["predictions"]} == {"blots", "board", "stripes"}


@pytest.mark.needs_torch
def test_a_killed_training_goes_on_to_the_same_weights(textures: Path, tmp_path: Path, run: Run) -> None:
    options = (*SCRATCH, "--epochs", "40")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = process("train", textures, "-o", whole, *options, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    command = [sys.executable, "-m", "imgclassify", "train", textures, "-o", killed, *options]
    history = tmp_path / "killed.partial" / "training.jsonl"
    with subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.DEVNULL) as training:
        while training.poll() is None and (not history.exists() or history.read_bytes().count(b"\n") < 3):
            time.sleep(0.01)
        training.send_signal(signal.SIGKILL)
    assert not killed.exists()
    # Nobody loses it by starting again.
    done = process("train", textures, "-o", killed, *options, env=environment)
    assert done.returncode == 2
    assert b"--resume" in done.stderr
    done = process("train", textures, "-o", killed, *options, "--resume", env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert digest(killed) == digest(whole)
    assert (killed / "training.jsonl").read_text("utf-8").count("\n") == 41


@pytest.mark.parametrize("method", [("finetune",), ("scratch", "--arch", "cifar_net")])
def test_without_torch_no_image_is_read(
    method: tuple[str, ...], textures: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "torchvision", "timm"):
        monkeypatch.setitem(sys.modules, name, None)
    done = run("train", textures, "-o", tmp_path / "model", "--method", *method)
    assert done.status == 3
    assert "error: this needs torch, which a slim installation does not have" in done.err
    assert "to train on" not in done.err  # which is told when all images are read
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_torch
def test_fine_tuning_begins_with_the_probe(textures: Path, tmp_path: Path, run: Run) -> None:
    assert run("train", textures, "-o", tmp_path / "probe", "--augment", "8").status == 0
    done = run("train", textures, "-o", tmp_path / "tuned", "--method", "finetune", "--epochs", "1")
    assert done.status == 0, done.err
    before, after = (
        json.loads((tmp_path / name / "training.json").read_text("utf-8")) for name in ("probe", "tuned")
    )
    assert after["probe"] == before["probe"]
    assert after["probe"]["augmented_views"] == 8  # the default for few images
    first = json.loads((tmp_path / "tuned" / "training.jsonl").read_text("utf-8").splitlines()[0])
    assert first["val_accuracy"] == pytest.approx(before["metrics"]["acc1"]["value"])
    assert first["val_loss"] == pytest.approx(before["metrics"]["nll"]["value"], abs=1e-3)


@pytest.mark.needs_torch
def test_a_network_that_takes_no_probe_is_refused_at_once_and_can_be_fine_tuned(
    textures: Path, tmp_path: Path, run: Run
) -> None:
    """The logits of SqueezeNet are not linear in its features: a ReLU and the pooling follow its last layer."""
    import torch
    from networks import seeded

    torch.save(seeded("squeezenet1_1").state_dict(), tmp_path / "start.pth")
    start = ("-m", tmp_path / "start.pth", "--arch", "squeezenet1_1", "--crop-size", "64", "--resize-size", "64")
    done = run("train", textures, "-o", tmp_path / "model", *start)
    assert done.status == 3
    assert "a probe cannot become the head" in done.err
    assert "--method finetune" in done.err
    done = run("train", textures, "-o", tmp_path / "model", *start, "--method", "finetune", "--epochs", "1")
    assert done.status == 0, done.err
    training = json.loads((tmp_path / "model" / "training.json").read_text("utf-8"))
    assert "probe" not in training
    assert len(Classifier(str(tmp_path / "model"), device="cpu").labels) == 3


@pytest.mark.needs_torch
@pytest.mark.slow
def test_a_probe_without_a_bias(textures: Path, tmp_path: Path, run: Run) -> None:
    import torch
    from networks import seeded

    torch.save(seeded("maxvit_t").state_dict(), tmp_path / "start.pth")
    done = run("train", textures, "-o", tmp_path / "model", "-m", tmp_path / "start.pth", "--arch", "maxvit_t")
    assert done.status == 0, done.err
    metrics = json.loads((tmp_path / "model" / "training.json").read_text("utf-8"))["metrics"]
    done = run("evaluate", textures, "-m", tmp_path / "model", "--json")
    assert json.loads(done.out)["metrics"]["acc1"]["value"] >= metrics["acc1"]["low"]


@pytest.mark.needs_torch
def test_the_recipe_is_printed_and_read_again(textures: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("train", textures, "-o", tmp_path / "model", *SCRATCH)
    printed = run(*arguments, "--recipe", "print")
    assert printed.status == 0
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(printed.out, "utf-8")
    assert run(*arguments, "--recipe", recipe, "--recipe", "print").out == printed.out
    assert not (tmp_path / "model").exists()
    with recipe.open("a") as stream:
        stream.write("learning_rat = 1\n")
    done = run(*arguments, "--recipe", recipe)
    assert done.status == 2
    assert "learning_rate" in done.err


# The whole way ----------------------------------------------------------------------------------------------------


def predictions(run: Run, model: Path, images: Path) -> dict[str, list[tuple[str, float]]]:
    done = run("predict", images, "-m", model, "--jsonl")
    assert done.status == 0, done.err
    return {
        record["source"]: [(each["label"], each["probability"]) for each in record["predictions"]]
        for record in map(json.loads, done.out.splitlines())
    }


def test_train_evaluate_predict_export_predict(textures: Path, tmp_path: Path, run: Run) -> None:
    model, graph = tmp_path / "model", tmp_path / "model.onnx"
    assert run("train", textures, "-o", model).status == 0
    evaluated = json.loads(run("evaluate", textures, "-m", model, "--json").out)
    of_folder = predictions(run, model, textures)
    right = sum(Path(source).parent.name == best[0][0] for source, best in of_folder.items())
    assert right / len(of_folder) == pytest.approx(evaluated["metrics"]["acc1"]["value"])
    exported = run("export", model, "-o", graph)
    assert exported.status == 0, exported.err
    of_graph = predictions(run, graph, textures)
    assert of_graph.keys() == of_folder.keys()
    for source, expected in of_folder.items():
        assert dict(of_graph[source]) == pytest.approx(dict(expected), abs=1e-5)
    assert (
        json.loads(run("evaluate", textures, "-m", graph, "--json").out)["metrics"]["acc1"]
        == (evaluated["metrics"]["acc1"])
    )
    # The script beside it needs no imgclassify.
    image = textures / "stripes" / "03.png"
    done = subprocess.run(
        [sys.executable, "-I", f"{graph}.run.py", image], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert of_folder[str(image)][0][0] in done.stdout.splitlines()[0]
