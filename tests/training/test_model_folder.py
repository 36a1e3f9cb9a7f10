"""Model folders: written, read back by both engines, by timm and by transformers, against plain torch code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import noise
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import seeded
from safetensors import safe_open
from safetensors.torch import save_file
from taught import NAMES, crops_for, features_of, logits_of_head, normalized, probe, split_rows, teach, write
from timm.data import create_transform, resolve_data_config
from torch import nn

from imgclassify import Classifier
from imgclassify.engines import LOGITS
from imgclassify.errors import CheckpointError, UnavailableError, UsageError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides
from imgclassify.labels import load_labels
from imgclassify.training import model_folder
from imgclassify.training.folder_configs import find_crop_pct
from imgclassify.training.head import build_trainable, to_arrays
from imgclassify.training.model_folder import TrainedModel, clean_label, require_writable, write_model_folder
from imgclassify.training.scratch import create_scratch_network

EMBEDDED = "efficientnet_lite0"


def embedded(**overrides: Any) -> Network:
    options = LoadOptions(offline=True, overrides=PreprocessOverrides(**overrides))
    return load_network(EMBEDDED, options)


def from_file(folder: Path, network: nn.Module, arch: str) -> Network:
    save_file(network.state_dict(), folder / "start.safetensors")
    return load_network(str(folder / "start.safetensors"), LoadOptions(arch=arch, with_labels=False))


def logits(folder: Path, engine: str, crops: np.ndarray) -> np.ndarray:
    classifier = Classifier(str(folder), engine=engine, device="cpu")
    assert classifier.run.engine == engine
    found: np.ndarray = classifier.runner.engine.infer(crops)[LOGITS]
    return found


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


def torch_module(network: Network) -> nn.Module:
    assert network.backends.build_torch is not None
    return network.backends.build_torch().eval()


# What is written is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [NAMES[:2], NAMES], ids=["2", "5"])
def test_the_embedded_model_with_another_head(names: tuple[str, ...], tmp_path: Path) -> None:
    network = embedded()
    write(tmp_path / "pets", network, names)
    crops = crops_for(network)
    pixels = normalized(crops, network)
    weight, bias = probe(1280, len(names))
    wanted = logits_of_head(features_of(torch_module(network), pixels), weight, bias)
    for engine in ("onnxruntime", "torch"):
        assert_close(logits(tmp_path / "pets", engine, crops), wanted)
    opened = timm.create_model(f"local-dir:{tmp_path / 'pets'}", pretrained=True).eval()
    with torch.inference_mode():
        assert_close(opened(pixels).numpy(), wanted)
    assert tuple(opened.pretrained_cfg["label_names"]) == names
    # timm's own transform prepares the same crop.
    image = noise(301, 200, seed=4)
    with torch.inference_mode():
        theirs = opened(create_transform(**resolve_data_config({}, model=opened))(image)[None]).softmax(dim=1)[0]
    for prediction in Classifier(str(tmp_path / "pets"), device="cpu", top_k=5).predict(image).predictions:
        assert prediction.label == names[prediction.class_index]
        assert prediction.probability == pytest.approx(float(theirs[prediction.class_index]), abs=1e-5)


@pytest.mark.parametrize(
    "architecture", ["resnet18", "googlenet", pytest.param("vit_b_16", marks=pytest.mark.slow)]
)
def test_networks_of_torchvision(architecture: str, tmp_path: Path) -> None:
    options = {"image_size": 224} if architecture == "vit_b_16" else {}
    if architecture == "googlenet":
        options = {"init_weights": False, "aux_logits": True, "transform_input": True}
    plain = seeded(architecture, **options)
    network = from_file(tmp_path, plain, architecture)
    write(tmp_path / "mine", network)
    assert not (tmp_path / "mine/config.json").exists()
    crops = crops_for(network)
    features = features_of(plain, normalized(crops, network))
    wanted = logits_of_head(features, *probe(features.shape[1], 5))
    for engine in ("onnxruntime", "torch"):
        assert_close(logits(tmp_path / "mine", engine, crops), wanted)
    # What was learned is a start for further learning.
    again = load_network(str(tmp_path / "mine"), LoadOptions())
    module = build_trainable(again, 2)
    assert module(normalized(crops, network)).shape == (2, 2)
    write(tmp_path / "more", again, ("yes", "no"), seed=1)
    wanted = logits_of_head(features, *probe(features.shape[1], 2, seed=1))
    assert_close(logits(tmp_path / "more", "onnxruntime", crops), wanted)


@pytest.mark.parametrize(
    ("name", "options"), [("resnet18", {}), ("test_vit", {}), ("test_vit", {"img_size": 96})], ids=str
)
def test_networks_of_timm(name: str, options: dict[str, int], tmp_path: Path) -> None:
    torch.manual_seed(4)
    plain = timm.create_model(name, pretrained=False, **options).eval()
    arch = next(each for each in timm.list_pretrained(name) if each.partition(".")[0] == name)
    network = from_file(tmp_path, plain, f"timm:{arch}")
    write(tmp_path / "mine", network)
    crops = crops_for(network)
    pixels = normalized(crops, network)
    with torch.inference_mode():
        features = plain.forward_head(plain.forward_features(pixels), pre_logits=True)
        wanted = logits_of_head(features, *probe(features.shape[1], 5))
        opened = timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
        assert_close(opened(pixels).numpy(), wanted)
    assert_close(logits(tmp_path / "mine", "torch", crops), wanted)
    config = resolve_data_config({}, model=opened)
    assert tuple(config["input_size"][1:]) == network.preprocess.crop_size
    assert network.preprocess.crop_size[0] == options.get("img_size", config["input_size"][1])
    assert config["crop_pct"] == pytest.approx(timm.get_pretrained_cfg(arch).crop_pct, abs=0.005)
    # As timm reads it, without our manifest.
    (tmp_path / "mine/imgclassify.toml").unlink()
    read = load_network(str(tmp_path / "mine"), LoadOptions())
    assert read.preprocess == network.preprocess
    assert read.labels is not None
    assert [label.label for label in read.labels.labels] == list(NAMES)
    assert_close(logits(tmp_path / "mine", "torch", crops), wanted)


@pytest.mark.parametrize("name", ["ViT", "ConvNeXT"])
def test_networks_of_transformers(name: str, tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers")
    from tiny_transformers import save_model

    save_model(name, tmp_path / "start")
    network = load_network(str(tmp_path / "start"), LoadOptions())
    write(tmp_path / "mine", network)
    crops = crops_for(network)
    pixels = normalized(crops, network)
    features = features_of(torch_module(network), pixels)
    wanted = logits_of_head(features, *probe(features.shape[1], 5))
    assert_close(logits(tmp_path / "mine", "torch", crops), wanted)
    opened = hf.AutoModelForImageClassification.from_pretrained(tmp_path / "mine").eval()
    assert opened.config.id2label == dict(enumerate(NAMES))
    with torch.inference_mode():
        assert_close(opened(pixel_values=pixels).logits.numpy(), wanted)
    image = noise(90, 70, seed=2)
    for overrides in ({}, {"resize_size": 80, "crop_size": (64, 64), "interpolation": "nearest"}):
        given = PreprocessOverrides(**overrides) if name == "ConvNeXT" else PreprocessOverrides()
        start = load_network(str(tmp_path / "start"), LoadOptions(overrides=given))
        write(tmp_path / "mine", start, overwrite=True)
        processor = hf.AutoImageProcessor.from_pretrained(tmp_path / "mine", backend="pil")
        with torch.inference_mode():
            theirs = opened(**processor(images=image, return_tensors="pt")).logits.softmax(dim=1)[0]
        for prediction in Classifier(str(tmp_path / "mine"), device="cpu", top_k=5).predict(image).predictions:
            assert prediction.probability == pytest.approx(float(theirs[prediction.class_index]), abs=1e-5)


def test_a_trained_module_of_any_kind(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_transformers import save_model

    save_model("ViT", tmp_path / "vit")
    grey = timm.create_model("test_vit", pretrained=False, num_classes=4, in_chans=1)
    timm.models.save_for_hf(grey, str(tmp_path / "grey"), model_config={"label_names": list("abcd")})
    starts = [
        load_network(str(tmp_path / "vit"), LoadOptions()),
        load_network(str(tmp_path / "grey"), LoadOptions()),
        create_scratch_network("squeezenet1_1", PreprocessOverrides()),
    ]
    for index, start in enumerate(starts):
        module = build_trainable(start, 3)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.01)
        model = TrainedModel(start, to_arrays(module), NAMES[:3], None, {}, ())
        write_model_folder(tmp_path / f"{index}", model, overwrite=False)
        crops = crops_for(start)
        with torch.inference_mode():
            wanted = module.eval()(normalized(crops, start)).numpy()
        assert_close(logits(tmp_path / f"{index}", "torch", crops), wanted)
    assert tomllib.loads((tmp_path / "2/imgclassify.toml").read_text())["start"]["model"] == ""


def test_predict_with_a_folder_takes_no_torch(tmp_path: Path) -> None:
    write(tmp_path / "pets", embedded(), NAMES[:2])
    noise(64, 64).save(tmp_path / "image.png")
    code = """
import sys
from imgclassify import Classifier
from imgclassify.cli.main import main
result = Classifier("pets").predict("image.png")
assert {each.label for each in result.predictions} == {"ant", "bee"}
assert not sys.modules.keys() & {"torch", "timm", "torchvision", "safetensors"}
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


# What is in it ---------------------------------------------------------------------------------------------------


def test_the_weights_are_whole_float32_numbers(tmp_path: Path) -> None:
    model = teach(embedded(), NAMES[:2])
    odd: dict[str, Any] = dict(model.state_dict)
    odd["conv_stem.weight"] = np.asfortranarray(odd["conv_stem.weight"]).astype(np.float64)
    shared = odd["bn1.running_mean"]
    odd["bn1.running_var"] = shared
    write_model_folder(tmp_path / "pets", model._replace(state_dict=odd), overwrite=False)
    with safe_open(tmp_path / "pets/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    assert {str(tensor.dtype) for tensor in tensors.values()} <= {"torch.float32", "torch.int64"}
    assert np.array_equal(tensors["conv_stem.weight"].numpy(), model.state_dict["conv_stem.weight"])
    assert np.array_equal(tensors["bn1.running_var"].numpy(), shared)


def test_it_is_as_readable_as_other_files(tmp_path: Path) -> None:
    write(tmp_path / "pets", embedded(), NAMES[:2])
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "pets").iterdir()}
    assert modes == {(tmp_path / "other").stat().st_mode}


def test_numbers_of_a_training(tmp_path: Path) -> None:
    training = {"seed": np.int64(3), "loss": float("inf"), "recipe": {"lr": np.float32(0.5)}, "folder": Path("x")}
    write(tmp_path / "pets", embedded(), NAMES[:2], training=training, files={"training.jsonl": b"{}\n"})
    assert json.loads((tmp_path / "pets/training.json").read_text()) == {
        "schema": "imgclassify.training/1",
        "seed": 3,
        "loss": None,
        "recipe": {"lr": 0.5},
        "folder": "x",
    }
    assert (tmp_path / "pets/training.jsonl").read_bytes() == b"{}\n"
    assert len((tmp_path / "pets/split.tsv").read_text().splitlines()) >= 6


@settings(max_examples=60)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=6, unique_by=clean_label))
def test_any_names_of_classes_are_read_back(names: list[str]) -> None:
    import tempfile

    cleaned = [clean_label(name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "labels.tsv")
        path.write_text(model_folder._format_labels(cleaned), "utf-8", newline="")
        assert [label.label for label in load_labels(path).labels] == cleaned


@pytest.mark.parametrize(
    "names",
    [
        ("0", "1", "2"),
        ("2", "1", "0"),
        ("1", "2", "3"),
        ("label", "class_index"),
        ("n02099601", "n02099712"),
        ("a\tb", 'say "a"', "two\nlines"),
        (" padded ", "\udcff", " "),
        ("wnid\tlabel", "#", "[1, 2]"),
        ("sep=,", "names:", "- a"),
    ],
    ids=ascii,
)
def test_odd_names_of_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text(
        model_folder._format_labels([*map(clean_label, names)]), "utf-8", newline=""
    )
    read = [label.label for label in load_labels(tmp_path / "labels.tsv").labels]
    assert read == [name.encode("utf-8", "backslashreplace").decode().strip() or "' '" for name in names]


def test_class_names_that_are_wordnet_ids_get_their_names(tmp_path: Path) -> None:
    write(tmp_path / "pets", embedded(), ("n02099601", "n02099712"))
    labels = load_network(str(tmp_path / "pets"), LoadOptions()).labels
    assert labels is not None
    assert [(label.wnid, label.label) for label in labels.labels] == [
        ("n02099601", "golden retriever"),
        ("n02099712", "Labrador retriever"),
    ]


def test_the_manifest_says_what_it_began_with(tmp_path: Path) -> None:
    write(tmp_path / "pets", embedded())
    content = tomllib.loads((tmp_path / "pets/imgclassify.toml").read_text())
    assert content["start"] == {
        "model": EMBEDDED,
        "weights": "IMAGENET1K",
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "license": "Apache-2.0",
    }
    write(tmp_path / "more", load_network(str(tmp_path / "pets"), LoadOptions()))
    content = tomllib.loads((tmp_path / "more/imgclassify.toml").read_text())
    assert (content["start"]["model"], content["start"]["license"]) == ("pets", "Apache-2.0")
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "more").glob("*.[tmj]*[dln]"))


def test_ones_own_preprocessing_is_kept(tmp_path: Path) -> None:
    network = embedded(resize_size=(300, 280), mean=(0.1, 0.2, 0.3))
    write(tmp_path / "pets", network)
    assert load_network(str(tmp_path / "pets"), LoadOptions()).preprocess == network.preprocess
    assert "prepares images differently" in (tmp_path / "pets/README.md").read_text()


@pytest.mark.parametrize("resize", range(224, 300))
def test_timm_resizes_to_the_same_size(resize: int) -> None:
    spec = replace(embedded().preprocess, resize_size=resize)
    config = resolve_data_config({}, pretrained_cfg={"input_size": (3, 224, 224), "crop_pct": find_crop_pct(spec)})
    resized = create_transform(**config).transforms[0]
    assert resized.size == resize


def test_the_model_card(tmp_path: Path) -> None:
    metrics = {
        "acc1": {"value": 0.95, "low": 0.91, "high": 0.975},
        "nll": {"value": 0.25, "low": 0.2, "high": 0.3},
        "acc5": {"value": None, "low": None, "high": None},
    }
    training = {"method": "probe", "data": {"name": "my: pets"}, "metrics": metrics, "recipe": {"C": 0.5}}
    write(tmp_path / "pets v2", embedded(), training=training)
    text = (tmp_path / "pets v2/README.md").read_text("utf-8")
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-classification")
    found = {result.metric_type: result.metric_value for result in card.data.eval_results or []}
    assert found == {"accuracy": 0.95, "nll": 0.25}
    assert card.data.model_name == "pets v2"
    assert yaml.safe_load(text.split("---")[1])["model-index"][0]["results"][0]["dataset"]["name"] == "my: pets"
    for part in (
        "| Accuracy (acc@1) | 95.00 % | 91.00 % to 97.50 % |",
        "| 4 | x \\| y | 2 | 1 |",
        "imgclassify predict photos/ -m './pets v2'",
        "timm.create_model('local-dir:./pets v2', pretrained=True)",
        "5 validation images",
        "`C` 0.5",
        "are under Apache-2.0",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("license_name", "front"),
    [
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}),
        ("", {}),
        (
            "https://github.com/facebookresearch/SWAG/blob/main/LICENSE",
            {
                "license": "other",
                "license_name": "LICENSE",
                "license_link": "https://github.com/facebookresearch/SWAG/blob/main/LICENSE",
            },
        ),
    ],
)
def test_the_licence_of_the_weights_goes_on(license_name: str, front: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "pets", replace(embedded(), license=license_name))
    content = yaml.safe_load((tmp_path / "pets/README.md").read_text().split("---")[1])
    assert {key: value for key, value in content.items() if "license" in key} == front


# Whole or not at all ---------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_only_on_demand(tmp_path: Path) -> None:
    network = embedded()
    folder = tmp_path / "deep/pets"
    write(folder, network, NAMES[:2], files={"training.jsonl": b""})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="has a model already") as error:
        write(folder, network, NAMES, seed=1)
    assert error.value.argument == "output"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / ".git").mkdir()
    (folder / ".git/HEAD").write_text("ref")
    (folder / "calibration.json").write_text("{}")
    write(folder, network, NAMES, seed=1, overwrite=True)
    assert load_network(str(folder), LoadOptions()).num_classes == 5
    assert (folder / ".git/HEAD").read_text() == "ref"
    assert not (folder / "calibration.json").exists()  # that of another model
    assert (folder / "training.jsonl").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["pets"]


def test_other_folders_and_files_stay(tmp_path: Path) -> None:
    network = embedded()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name, words in (("photos", "other files"), ("file", "is a file")):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match=words):
                require_writable(tmp_path / name, overwrite=overwrite)
            with pytest.raises(UsageError, match=words):
                write(tmp_path / name, network, overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", network)
    (tmp_path / "link").symlink_to("empty")
    write(tmp_path / "link", network, NAMES[:2], overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert load_network(str(tmp_path / "empty"), LoadOptions()).num_classes == 2


@pytest.mark.parametrize("step", ["format_card", "_require_readable", "write_split"])
def test_an_error_leaves_the_old_folder(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = embedded()
    write(tmp_path / "pets", network, NAMES[:2])
    before = {path.name: path.read_bytes() for path in (tmp_path / "pets").iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_folder, step, fail)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        write(tmp_path / "pets", network, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "pets").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


@pytest.mark.parametrize("at_once", [True, False])
def test_the_old_folder_takes_its_place_again(
    at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgclassify import files

    if not at_once:
        monkeypatch.setattr(files, "_exchange_at_once", lambda *_: False)
    network = embedded()
    write(tmp_path / "pets", network, NAMES[:2])
    (tmp_path / "pets/notes.txt").write_text("mine")
    write(tmp_path / "pets", network, overwrite=True)
    assert load_network(str(tmp_path / "pets"), LoadOptions()).num_classes == 5
    assert (tmp_path / "pets/notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_a_killed_process_leaves_a_whole_folder(tmp_path: Path) -> None:
    """Killed at many moments, the folder is the old one or the new one."""
    write(tmp_path / "pets", embedded(), NAMES[:2])
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from taught import NAMES, teach
from imgclassify.training.model_folder import write_model_folder
models = [teach(load_network("efficientnet_lite0", LoadOptions(offline=True)), NAMES[:count]) for count in (3, 4)]
print("ready", flush=True)
while True:
    for model in models:
        write_model_folder(Path(sys.argv[1]), model, overwrite=True)
"""
    seen = set()
    for milliseconds in (150, 300, 470):
        arguments = [sys.executable, "-c", code, str(tmp_path / "pets"), str(Path(__file__).parent.parent)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(milliseconds / 1000)
            os.kill(process.pid, signal.SIGKILL)
        network = load_network(str(tmp_path / "pets"), LoadOptions())
        assert network.labels is not None
        seen.add(len(network.labels))
    assert seen <= {2, 3, 4}


def test_a_state_dict_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    model = teach(embedded(), NAMES)
    del model.state_dict["conv_stem.weight"]  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"missing.*conv_stem\.weight"):
        write_model_folder(tmp_path / "pets", model, overwrite=False)
    plain = timm.create_model("test_vit", pretrained=False)
    network = from_file(tmp_path, plain, "timm:test_vit.r160_in1k")
    wrong = TrainedModel(network, to_arrays(plain), NAMES, None, {}, split_rows(NAMES))  # 1000 classes
    with pytest.raises(UnavailableError):
        write_model_folder(tmp_path / "pets", wrong, overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start.safetensors"]


def test_a_folder_may_be_moved(tmp_path: Path) -> None:
    write(tmp_path / "pets", embedded(), NAMES[:2])
    shutil.move(tmp_path / "pets", tmp_path / "elsewhere")
    assert load_network(str(tmp_path / "elsewhere"), LoadOptions()).num_classes == 2
