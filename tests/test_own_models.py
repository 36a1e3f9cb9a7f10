"""Names for the user's own files: what is written, that it gives what the file gives, and what is refused."""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import seeded
from torchvision.models import get_model

from imgclassify import Classifier, catalog
from imgclassify.errors import (
    CheckpointError,
    HashMismatchError,
    LabelsError,
    UnavailableError,
    UnknownModelError,
    UntrustedCodeError,
    UsageError,
)
from imgclassify.own_models import add_model, remove_model

LABELS = ["cat", 'dog, or "so"', "bird | fowl"]
ARCH = "squeezenet1_1"


@pytest.fixture(scope="module")
def state_dict() -> dict[str, torch.Tensor]:
    state_dict: dict[str, torch.Tensor] = seeded(ARCH, num_classes=3).state_dict()
    return state_dict


@pytest.fixture
def folder(tmp_path: Path, state_dict: dict[str, torch.Tensor]) -> Path:
    """A folder with mine.pth, a squeezenet1_1 of three classes, and kinds.txt."""
    torch.save(state_dict, tmp_path / "mine.pth")
    (tmp_path / "kinds.txt").write_text("\n".join(LABELS), "utf-8")
    return tmp_path


def add(folder: Path, name: str = "birds", file: str = "mine.pth", **options: Any) -> catalog.ModelManifest:
    options = {"arch": ARCH, "labels": str(folder / "kinds.txt")} | options
    return add_model(str(folder / file), name, **options)


def save_program(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but users have such files
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
        torch.jit.save(torch.jit.script(network), folder / "program.pt")


def save_graph(folder: Path, *, external: bool = False) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    onnx.save(
        model,
        folder / "graph.onnx",
        save_as_external_data=external,
        location="weights.bin" if external else None,
        size_threshold=0,
    )


def written() -> set[str]:
    own = catalog.user_models_folder()
    return {path.name for path in own.iterdir()} if own.is_dir() else set()


CASES = {
    "checkpoint": ("mine.pth", {"arch": ARCH}),
    "other preprocessing": ("mine.pth", {"arch": ARCH, "crop_size": (160, 200), "mean": (0.1, 0.2, 0.3)}),
    "graph": ("graph.onnx", {"arch": "resnet18"}),
    "graph without arch": (
        "graph.onnx",
        {
            "arch": None,
            "resize_size": (224, 224),
            "crop_size": 224,
            "interpolation": "lanczos",
            "mean": 0.5,
            "std": 0.25,
        },
    ),
    "program": ("program.pt", {"arch": "resnet18", "trust": True}),
    "timm": ("timm.pth", {"arch": "timm:resnet18.a1_in1k"}),
    "without transform_input": ("googlenet.pth", {"arch": "googlenet", "transform_input": False}),
    "renamed parameters": ("old_names.pth", {"arch": "densenet121"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_name_gives_what_its_file_gives(
    case: str, folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, options = CASES[case]
    if case == "program":
        save_program(folder)
    elif case.startswith("graph"):
        save_graph(folder)
    elif case == "timm":
        import timm

        torch.manual_seed(0)
        torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), folder / file)
    elif case == "without transform_input":
        network = get_model("googlenet", weights=None, num_classes=3, init_weights=False, transform_input=False)
        torch.save(network.state_dict(), folder / file)
    elif case == "renamed parameters":
        # As in torchvision's own file: denselayer1.norm.1 where the network has denselayer1.norm1.
        state_dict = get_model("densenet121", weights=None, num_classes=3).state_dict()
        old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): x for name, x in state_dict.items()}
        assert old.keys() != state_dict.keys()
        torch.save(old, folder / file)
    before = Classifier(folder / file, labels=folder / "kinds.txt", **options)
    expected = before.predict(photo)

    manifest = add(folder, file=file, **options)

    monkeypatch.chdir("/")
    after = Classifier("birds", trust=options.get("trust", False))
    found = after.predict(photo)
    assert found.model == "birds"
    assert replace(found, model=expected.model) == expected
    run, run_before = after.run.to_dict(), before.run.to_dict()
    for described in (run, run_before):
        del described["model"], described["label_set"]
    assert run == run_before
    assert run["label_set_sha256"] == before.labels.digest()
    assert manifest == catalog.find_model("birds")
    assert after.runner.network.gmacs == before.runner.network.gmacs
    assert after.runner.network.layers == before.runner.network.layers


def test_labels_are_copied_and_the_file_is_not(folder: Path) -> None:
    manifest = add(folder)
    assert Path(manifest.origin) == catalog.user_models_folder() / "birds.toml"
    assert manifest.file == str(folder / "mine.pth")
    (folder / "kinds.txt").unlink()
    copy = catalog.user_models_folder() / manifest.label_set
    assert json.loads(copy.read_text("utf-8")) == LABELS
    assert written() == {"birds.toml", copy.name}
    assert [label.label for label in Classifier("birds").labels.labels] == LABELS


def test_a_shipped_label_set_is_named(folder: Path) -> None:
    torch.save(get_model(ARCH, weights=None).state_dict(), folder / "thousand.pth")
    manifest = add(folder, file="thousand.pth", labels=None)
    assert manifest.label_set == "imagenet1k"
    assert written() == {"birds.toml"}


def test_the_architecture_may_be_a_name_that_was_added(folder: Path, photo: Path) -> None:
    add(folder)
    add(folder, "twin", arch="birds", labels=None)
    remove_model(catalog.find_model("birds"))
    first, second = Classifier("twin").predict(photo), Classifier(folder / "mine.pth", arch="twin").predict(photo)
    assert first.predictions == second.predictions
    assert {prediction.label for prediction in first.predictions} == set(LABELS)


def test_a_changed_file_is_noticed(folder: Path) -> None:
    add(folder)
    torch.save({"epoch": 2, **torch.load(folder / "mine.pth")}, folder / "mine.pth")
    with pytest.raises(HashMismatchError, match=r"mine\.pth has changed since `models add`") as caught:
        Classifier("birds")
    assert "--overwrite" in str(caught.value.hint)


def test_a_missing_file_is_told(folder: Path) -> None:
    add(folder)
    (folder / "mine.pth").unlink()
    with pytest.raises(UnavailableError, match=r"mine\.pth does not exist") as caught:
        Classifier("birds")
    assert "put it back" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"arch": None}, UsageError, "does not name their architecture"),
        ({"arch": "squeezenet1_5"}, UnknownModelError, "squeezenet1_5"),
        ({"arch": "alexnet"}, CheckpointError, "does not fit"),
        ({"labels": None}, LabelsError, "imagenet1k has 1000 classes, the network has 3"),
        ({"file": "absent.pth"}, CheckpointError, "no such model file"),
        ({"file": "kinds.txt"}, CheckpointError, "kinds.txt"),
        ({"file": "program.pt"}, UntrustedCodeError, "TorchScript program"),
        ({"file": "graph.onnx", "arch": None}, UsageError, "no preprocessing of its own"),
        ({"mean": (124.0, 116.0, 104.0)}, UsageError, "pixels are scaled to 0"),
    ],
)
def test_what_predict_refuses_is_not_added(
    options: dict[str, Any], error: type[Exception], words: str, folder: Path
) -> None:
    if options.get("file") == "program.pt":
        save_program(folder)
    if options.get("file") == "graph.onnx":
        save_graph(folder)
    with pytest.raises(error, match=words):
        add(folder, **options)
    assert not {name for name in written() if name.endswith(".toml")}


def test_a_parameter_of_another_shape_is_not_added(folder: Path, state_dict: dict[str, torch.Tensor]) -> None:
    changed = state_dict | {"features.3.squeeze.weight": torch.zeros(16, 63, 1, 1)}
    torch.save(changed, folder / "mine.pth")
    with pytest.raises(CheckpointError, match=r"features\.3\.squeeze\.weight"):
        add(folder)
    assert not written()


def test_a_graph_with_weights_in_other_files_is_not_added(folder: Path) -> None:
    save_graph(folder, external=True)
    assert Classifier(folder / "graph.onnx", arch=ARCH, labels=folder / "kinds.txt")
    with pytest.raises(CheckpointError, match=r"weights in other files, such as 'weights\.bin'"):
        add(folder, file="graph.onnx")
    assert not written()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet50", "comes with imgclassify"),
        ("efficientnet_lite0", "comes with imgclassify"),
        ("", "cannot be the name"),
        ("my birds", "cannot be the name"),
        ("../birds", "cannot be the name"),
        (".birds", "cannot be the name"),
        ("birds@V1", "cannot be the name"),
        ("timm:birds", "cannot be the name"),
        ("birds.ONNX", "-m would take it for a file"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name: str, words: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=words):
        add(folder, name, overwrite=True)
    assert not written()


def test_a_name_is_replaced_only_on_request(folder: Path, photo: Path) -> None:
    first = add(folder)
    (folder / "others.txt").write_text("a\nb\nc\n")
    with pytest.raises(UsageError, match=r"'birds' is the name of your model .*mine\.pth"):
        add(folder, labels=str(folder / "others.txt"))
    assert catalog.find_model("birds") == first
    second = add(folder, labels=str(folder / "others.txt"), overwrite=True)
    assert written() == {"birds.toml", second.label_set}
    assert {prediction.label for prediction in Classifier("birds").predict(photo).predictions} == {"a", "b", "c"}


def test_what_was_written_by_hand_is_neither_replaced_nor_removed(folder: Path) -> None:
    manifest = add(folder)
    own = catalog.user_models_folder()
    text = (own / "birds.toml").read_text("utf-8")
    (own / "birds.toml").write_text(text + text[text.index("[[models]]") :].replace('"birds"', '"owls"'), "utf-8")
    for name in ("birds", "owls"):
        with pytest.raises(UsageError, match=r"birds\.toml, which `models add` has not written"):
            add(folder, name, overwrite=True)
    for name in ("birds", "owls"):
        with pytest.raises(UsageError, match=r"birds\.toml, which `models add` has not written"):
            remove_model(catalog.find_model(name))
    assert catalog.find_model("birds") == manifest


def test_the_file_of_another_model_is_not_overwritten(folder: Path) -> None:
    own = catalog.user_models_folder()
    add(folder, "owls")
    (own / "owls.toml").rename(own / "birds.toml")
    with pytest.raises(UsageError, match=r"birds\.toml exists, and defines another model"):
        add(folder, overwrite=True)


def test_remove_takes_the_manifest_and_the_copy_of_the_labels_alone(folder: Path) -> None:
    add(folder, "birds2")
    kept = written()
    manifest = add(folder)
    assert remove_model(manifest) == Path(manifest.origin)
    assert written() == kept
    assert (folder / "mine.pth").is_file()
    assert (folder / "kinds.txt").is_file()
    with pytest.raises(UnknownModelError, match="birds"):
        catalog.find_model("birds")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    own = catalog.user_models_folder()
    own.mkdir(parents=True)
    own.chmod(0o500)
    with pytest.raises(UnavailableError, match=re.escape(str(own))):
        add(folder)


def test_a_path_that_is_no_folder_is_named(folder: Path) -> None:
    own = catalog.user_models_folder()
    own.parent.mkdir(parents=True)
    own.write_text("a file")
    with pytest.raises(UnavailableError, match=re.escape(str(own))) as caught:
        add(folder)
    assert "XDG_CONFIG_HOME" in str(caught.value.hint)


def test_a_file_in_the_current_folder_may_have_any_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.pth").rename(folder / "weights")
    monkeypatch.chdir(folder)
    assert add_model("weights", "birds", arch=ARCH, labels="kinds.txt").file == str(folder / "weights")
    with pytest.raises(UsageError, match="'resnet18' is not a model file"):
        add_model("resnet18", "owls")
