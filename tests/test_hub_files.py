"""A user's own files: checkpoints in every wrapping, .onnx graphs, TorchScript programs."""

from __future__ import annotations

import os
import pickle
import warnings
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import add_manifest, probabilities, publish, seeded
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save, save_file
from torchvision.models import get_model_weights

from imgclassify import Classifier, catalog, checkpoints
from imgclassify.errors import CheckpointError, LabelsError, UnavailableError, UsageError
from imgclassify.hub.file_kind import find_format
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions

LETTERS = "abcdefghij"


@pytest.fixture(scope="module")
def ten_classes() -> torch.nn.Module:
    return seeded("resnet18", num_classes=10)


@pytest.fixture
def letters(tmp_path: Path) -> str:
    path = tmp_path / "letters.txt"
    path.write_text("\n".join(LETTERS) + "\n")
    return str(path)


def wrapped(state_dict: Any, how: str) -> Any:
    match how:
        case "plain":
            return state_dict
        case "state_dict" | "model":
            return {"epoch": 3, "optimizer": {"lr": 0.1}, how: state_dict}
        case "module":
            return {f"module.{name}": tensor for name, tensor in state_dict.items()}
        case _:
            return {"state_dict": {f"module.{name}": tensor for name, tensor in state_dict.items()}}


@pytest.mark.parametrize("how", ["plain", "state_dict", "model", "module", "both"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_checkpoint_of_another_number_of_classes(
    how: str, suffix: str, ten_classes: torch.nn.Module, letters: str, tmp_path: Path
) -> None:
    path = tmp_path / f"mine{suffix}"
    torch.save(wrapped(ten_classes.state_dict(), how), path)
    check(path, ten_classes, letters)


def test_a_safetensors_checkpoint(ten_classes: torch.nn.Module, letters: str, tmp_path: Path) -> None:
    save_file(ten_classes.state_dict(), tmp_path / "mine.safetensors")
    check(tmp_path / "mine.safetensors", ten_classes, letters)


def check(path: Path, network: torch.nn.Module, letters: str, *, trust: bool = False) -> None:
    classifier = Classifier(str(path), arch="resnet18", labels=letters, top_k=99, device="cpu", trust=trust)
    image = noise(300, 200, seed=9)
    expected = probabilities(network, get_model_weights("resnet18").DEFAULT.transforms()(image))
    result = classifier.predict(image)
    assert len(result.predictions) == 10
    for prediction in result.predictions:
        assert prediction.label == LETTERS[prediction.class_index]
        assert prediction.probability == pytest.approx(float(expected[prediction.class_index]), abs=1e-5)


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "vit_b_32", "squeezenet1_1", "timm:test_vit.r160_in1k"])
def test_the_head_gives_the_number_of_classes_in_every_kind_of_architecture(arch: str, tmp_path: Path) -> None:
    import timm

    network = (
        timm.create_model("test_vit", num_classes=7) if arch.startswith("timm:") else seeded(arch, num_classes=7)
    )
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    (tmp_path / "seven.txt").write_text("\n".join(LETTERS[:7]))
    loaded = load_network(str(tmp_path / "seven.pth"), LoadOptions(arch=arch, labels=str(tmp_path / "seven.txt")))
    assert loaded.num_classes == 7
    assert loaded.backends.build_torch is not None
    assert not any(tensor.is_meta for tensor in loaded.backends.build_torch().state_dict().values())


def test_labels_must_be_given_when_the_count_is_not_the_architectures(
    ten_classes: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save(ten_classes.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(LabelsError, match=r"1000") as error:
        load_network(str(tmp_path / "mine.pth"), LoadOptions(arch="resnet18"))
    assert "10" in str(error.value)


def test_a_checkpoint_without_arch_is_a_usage_error(ten_classes: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(ten_classes.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(UsageError) as error:
        load_network(str(tmp_path / "mine.pth"), LoadOptions())
    assert "--arch" in str(error.value.hint)


def test_a_checkpoint_of_another_architecture_lists_the_names_that_differ(
    ten_classes: torch.nn.Module, letters: str, tmp_path: Path
) -> None:
    torch.save(ten_classes.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(
        CheckpointError, match=r"'resnet34'; the depth .* missing: layer1\.2\.conv1\.weight"
    ) as error:
        load_network(str(tmp_path / "mine.pth"), LoadOptions(arch="resnet34", labels=letters))
    assert "--arch resnet18" in str(error.value.hint)


class Runs:
    def __reduce__(self) -> Any:
        return (open, ("ran", "w"))


def test_a_pickle_that_tries_to_run_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"fc.weight": torch.ones(2)}, "config": Runs()}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Runs()))
    for name in ("evil.pth", "raw.pth"):
        with pytest.raises(CheckpointError, match=name):
            load_network(f"./{name}", LoadOptions(arch="resnet18"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
def test_damaged_files_are_refused_in_one_sentence(
    suffix: str, ten_classes: torch.nn.Module, letters: str, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(ten_classes.state_dict(), whole)
    for content in (b"", b"not a checkpoint at all", whole.read_bytes()[:100_000]):
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            Classifier(str(path), arch="resnet18", labels=letters)


def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "losses": [0.1]}, tmp_path / "log.pth")
    with pytest.raises(CheckpointError, match=r"'epoch', 'losses'"):
        load_network(str(tmp_path / "log.pth"), LoadOptions(arch="resnet18"))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"no such model file: 'resnet50\.pth'") as error:
        load_network("resnet50.pth", LoadOptions(arch="resnet50"))
    assert "resnet50" in str(error.value.hint)


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("hf-hub:timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("hf-hub:google/vit-base-patch16-224", "hf:google/vit-base-patch16-224"),
        ("google/vit-base-patch16-224", "hf:google/vit-base-patch16-224"),
    ],
)
def test_a_name_of_the_hugging_face_hub_is_told_how_to_be_used(reference: str, hint: str) -> None:
    with pytest.raises(CheckpointError, match="no such model file") as error:
        load_network(reference, LoadOptions())
    assert hint in str(error.value.hint)


def test_torchscript(ten_classes: torch.nn.Module, letters: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(ten_classes, torch.rand(1, 3, 224, 224)), tmp_path / "scripted.pt")
    check(tmp_path / "scripted.pt", ten_classes, letters, trust=True)


# ---------------------------------------------------------------------------------------------------- .onnx


def graph(path: Path, *, shape: list[Any], kind: int = TensorProto.FLOAT, softmax: bool = False) -> np.ndarray:
    """An .onnx classifier of three classes: the means of the three channels, scaled. Gives the scale matrix."""
    scale = np.array([[3, 0, 0], [0, 2, 0], [1, 0, 1]], np.float32)
    axes = [1, 2] if shape[3] == 3 else [2, 3]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["means", "scale"], ["logits"]),
    ]
    nodes += [helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)] if softmax else []
    output = "probabilities" if softmax else "logits"
    built = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [shape[0], 3])],
        [numpy_helper.from_array(scale, "scale")],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return scale


FORMS = [
    pytest.param(["N", 3, 32, 32], TensorProto.FLOAT, id="channels first"),
    pytest.param(["N", 32, 32, 3], TensorProto.FLOAT, id="channels last"),
    pytest.param(["N", 3, 32, 32], TensorProto.FLOAT16, id="half precision"),
    pytest.param([2, 3, 32, 32], TensorProto.FLOAT, id="a fixed batch"),
    pytest.param(["N", 32, 32, 3], TensorProto.UINT8, id="bytes, normalised in the graph"),
]
OVERRIDES: dict[str, Any] = {
    "resize_size": 40,
    "crop_size": 32,
    "interpolation": "bilinear",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
}


@pytest.fixture
def three(tmp_path: Path) -> str:
    (tmp_path / "three.txt").write_text("red\ngreen\nblue\n")
    return str(tmp_path / "three.txt")


@pytest.mark.parametrize(("shape", "kind"), FORMS)
@pytest.mark.parametrize("softmax", [False, True], ids=["logits", "softmax"])
def test_an_onnx_file_is_fed_by_the_form_of_its_input(
    shape: list[Any], kind: int, softmax: bool, three: str, tmp_path: Path
) -> None:
    scale = graph(tmp_path / "mine.onnx", shape=shape, kind=kind, softmax=softmax)
    classifier = Classifier(str(tmp_path / "mine.onnx"), labels=three, **OVERRIDES)
    images = [noise(60, 50, seed) for seed in range(3)]
    from imgclassify.images import preprocessing

    for image, result in zip(images, classifier.predict(images), strict=True):
        pixels = preprocessing.resize_and_crop(image, classifier.runner.network.preprocess).astype(np.float64)
        if kind != TensorProto.UINT8:
            pixels = (pixels / 255 - OVERRIDES["mean"]) / OVERRIDES["std"]
        logits = pixels.mean(axis=(0, 1)) @ scale
        exponentials = np.exp(logits - logits.max())
        expected = exponentials / exponentials.sum()
        tolerance = 3e-3 if kind == TensorProto.FLOAT16 else 1e-5
        for prediction in result.predictions:
            assert prediction.probability == pytest.approx(expected[prediction.class_index], abs=tolerance)
    assert classifier.run.engine == "onnxruntime"


def test_onnx_takes_preprocessing_and_labels_from_arch(tmp_path: Path) -> None:
    network = seeded("resnet18")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.rand(1, 3, 224, 224),), tmp_path / "r.onnx", dynamo=False)
    classifier = Classifier(str(tmp_path / "r.onnx"), arch="resnet18", top_k=1000)
    image = noise(300, 200, seed=1)
    expected = probabilities(network, get_model_weights("resnet18").DEFAULT.transforms()(image))
    for prediction in classifier.predict(image).predictions:
        assert prediction.probability == pytest.approx(float(expected[prediction.class_index]), abs=1e-5)
    assert classifier.run.label_set == "imagenet1k"


def test_nothing_is_guessed_for_an_onnx_file(three: str, tmp_path: Path) -> None:
    graph(tmp_path / "mine.onnx", shape=["N", 3, 32, 32])
    with pytest.raises(UsageError) as bare:
        Classifier(str(tmp_path / "mine.onnx"))
    assert "--arch" in str(bare.value.hint)
    assert "--mean" in str(bare.value.hint)
    with pytest.raises(UsageError) as unnamed:
        Classifier(str(tmp_path / "mine.onnx"), **OVERRIDES)
    assert "--labels" in str(unnamed.value.hint)
    with pytest.raises(UnavailableError, match="32×32"):
        Classifier(str(tmp_path / "mine.onnx"), labels=three, **{**OVERRIDES, "crop_size": 24})
    with pytest.raises(LabelsError, match=r"1000.* 3|3.*1000"):
        Classifier(str(tmp_path / "mine.onnx"), labels="imagenet1k", **OVERRIDES)


def test_onnx_on_another_device_or_engine_is_refused(three: str, tmp_path: Path) -> None:
    graph(tmp_path / "mine.onnx", shape=["N", 3, 32, 32])
    options = {"labels": three, **OVERRIDES}
    with pytest.raises(UnavailableError, match="cuda"):
        Classifier(str(tmp_path / "mine.onnx"), device="cuda", **options)
    with pytest.raises(UnavailableError, match="float16"):
        Classifier(str(tmp_path / "mine.onnx"), dtype="float16", **options)
    with pytest.raises(UsageError, match="torch engine"):
        Classifier(str(tmp_path / "mine.onnx"), engine="torch", **options)


def test_an_onnx_file_that_is_no_image_classifier_is_refused(three: str, tmp_path: Path) -> None:
    graph(tmp_path / "odd.onnx", shape=["N", 3, 32, 32])
    model = onnx.load(tmp_path / "odd.onnx")
    model.graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT64, ["N"]))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(CheckpointError, match=r"not take one batch of images, but images .*, lengths "):
        Classifier(str(tmp_path / "odd.onnx"), labels=three, **OVERRIDES)


@pytest.mark.parametrize("softmax", [False, True], ids=["logits", "softmax"])
def test_whether_a_graph_ends_in_softmax_does_not_depend_on_the_images(
    softmax: bool, three: str, tmp_path: Path
) -> None:
    """Logits that happen to look like probabilities are logits still, alone and beside any neighbours."""
    scale = graph(tmp_path / "mine.onnx", shape=["N", 3, 32, 32], softmax=softmax)
    options = {**OVERRIDES, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    classifier = Classifier(str(tmp_path / "mine.onnx"), labels=three, **options)
    # With this colour the three logits are 3r + b, 2g and b, and sum to 1.
    colour = (0.2, 0.1, 0.1)
    flat = np.full((40, 40, 3), [round(255 * channel) for channel in colour], np.uint8)
    logits = flat[0, 0] / 255 @ scale
    assert logits.sum() == pytest.approx(1, abs=0.01)
    expected = np.exp(logits) / np.exp(logits).sum()
    for pictures in ([flat], [flat, np.asarray(noise(50, 50)), flat]):
        for prediction in next(classifier.predict(pictures)).predictions:
            assert prediction.probability == pytest.approx(expected[prediction.class_index], abs=1e-5)


def test_a_graph_that_fails_on_the_crop_says_so_in_a_sentence(three: str, tmp_path: Path) -> None:
    graph(tmp_path / "mine.onnx", shape=["N", 3, "H", "W"])
    model = onnx.load(tmp_path / "mine.onnx")
    model.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [4], [-1, 3, 7, 7]))
    model.graph.node.insert(0, helper.make_node("Reshape", ["images", "shape"], ["fixed"]))
    model.graph.node[1].input[0] = "fixed"
    onnx.save(model, tmp_path / "mine.onnx")
    with pytest.raises(CheckpointError, match=r"mine\.onnx' cannot process crops of 32×32"):
        Classifier(str(tmp_path / "mine.onnx"), labels=three, **OVERRIDES)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".safetensors"])
def test_a_mutated_checkpoint_is_read_or_refused_and_nothing_else(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"mutated{suffix}"
    content = bytearray(small_checkpoints()[suffix])
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    ):
        content[position] = value
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with suppress(CheckpointError):
        find_format(path, path.name)
    with suppress(CheckpointError):
        assert checkpoints.load_arrays(path)


@cache
def small_checkpoints() -> dict[str, bytes]:
    state_dict = {"layer.weight": torch.ones(3, 2), "layer.bias": torch.zeros(3)}
    new, old, safe = BytesIO(), BytesIO(), save(state_dict)
    torch.save(state_dict, new)
    torch.save(state_dict, old, _use_new_zipfile_serialization=False)
    return {".pth": new.getvalue(), ".old.pth": old.getvalue(), ".safetensors": safe}


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema"])
def test_an_averaged_model_is_read_as_torchvision_saves_it(
    key: str, ten_classes: torch.nn.Module, letters: str, tmp_path: Path
) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(ten_classes).state_dict()
    assert "n_averaged" in averaged
    torch.save({key: averaged, "epoch": 3}, tmp_path / "mine.pth")
    check(tmp_path / "mine.pth", ten_classes, letters)


def test_of_several_state_dicts_the_one_used_is_named(
    ten_classes: torch.nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_dict = ten_classes.state_dict()
    averaged = {name: tensor.clone() for name, tensor in state_dict.items()}
    torch.save({"state_dict_ema": averaged, "state_dict": state_dict}, tmp_path / "two.pth")
    checkpoints.load_arrays(tmp_path / "two.pth")
    assert "'state_dict_ema' and 'state_dict'; 'state_dict_ema' is used" in caplog.text


def test_names_that_do_not_match_are_listed_and_the_labels_not_blamed(
    ten_classes: torch.nn.Module, letters: str, tmp_path: Path
) -> None:
    turned = {name[::-1]: tensor for name, tensor in ten_classes.state_dict().items()}
    torch.save(turned, tmp_path / "turned.pth")
    with pytest.raises(CheckpointError, match=r"missing: conv1\.weight.*unexpected: thgiew\.1vnoc"):
        load_network(str(tmp_path / "turned.pth"), LoadOptions(arch="resnet18", labels=letters))


@pytest.mark.parametrize("bias", [None, 3, [0.0] * 10, torch.zeros(()), torch.zeros(10).to_sparse()])
def test_odd_things_in_a_tensors_place_are_refused_in_a_sentence(
    bias: Any, ten_classes: torch.nn.Module, letters: str, tmp_path: Path
) -> None:
    torch.save({**ten_classes.state_dict(), "fc.bias": bias}, tmp_path / "odd.pth")
    with pytest.raises(UnavailableError):
        Classifier(str(tmp_path / "odd.pth"), arch="resnet18", labels=letters).predict(noise(9, 9))


def test_a_file_name_that_is_not_text(ten_classes: torch.nn.Module, letters: str, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.PTH")
    torch.save(ten_classes.state_dict(), tmp_path / "plain.pth")
    (tmp_path / "plain.pth").rename(path)
    check(path, ten_classes, letters)


def test_a_torchscript_network_that_ends_in_softmax_is_not_softmaxed_again(
    ten_classes: torch.nn.Module, letters: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = torch.nn.Sequential(ten_classes, torch.nn.Softmax(dim=1)).eval()
        torch.jit.save(torch.jit.trace(whole, torch.rand(1, 3, 224, 224)), tmp_path / "soft.pt")
    check(tmp_path / "soft.pt", ten_classes, letters, trust=True)


@pytest.mark.filterwarnings("ignore:Scripted Goog")
def test_a_scripted_network_with_auxiliary_answers(tmp_path: Path) -> None:
    network = seeded("googlenet", aux_logits=False, transform_input=True, init_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), tmp_path / "scripted.pt")
    image = noise(200, 200, seed=2)
    expected = probabilities(network, get_model_weights("googlenet").DEFAULT.transforms()(image))
    classifier = Classifier(str(tmp_path / "scripted.pt"), arch="googlenet", trust=True)
    for prediction in classifier.predict(image).predictions:
        assert prediction.probability == pytest.approx(float(expected[prediction.class_index]), abs=1e-5)


def sensitive(network: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The network with statistics of batch norm that are its own, so that its logits differ by the input."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
        network.eval().fc.weight *= 2 / network(images).std()
    return network


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_a_network_without_transform_input_answers_in_both_engines(
    architecture: str, letters: str, tmp_path: Path
) -> None:
    """onnxruntime runs it in the published graph, which has the option."""
    options = {"aux_logits": True, "init_weights": False, "num_classes": 10}
    prepare, image = get_model_weights(architecture).DEFAULT.transforms(), noise(400, 350, seed=2)
    pixels = prepare(image)
    others = [prepare(noise(400, 350, seed)) for seed in (3, 4, 5)]
    network = sensitive(seeded(architecture, transform_input=False, **options), torch.stack([pixels, *others]))
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    expected = probabilities(network, pixels)
    network.transform_input = True
    assert (probabilities(network, pixels) - expected).abs().max() > 1e-2  # or the test would show nothing
    for engine in ("onnxruntime", "torch"):
        classifier = Classifier(
            str(tmp_path / "mine.pth"),
            arch=architecture,
            labels=letters,
            top_k=10,
            engine=engine,
            device="cpu",
            transform_input=False,
        )
        found = {each.class_index: each.probability for each in classifier.predict(image).predictions}
        assert [found[index] for index in range(10)] == pytest.approx(expected.tolist(), abs=1e-4)
        # The preprocessing in the record is the user's, not what the graph gets.
        assert classifier.run.preprocess["mean"] == [0.485, 0.456, 0.406]


def test_transform_input_that_is_assumed_is_named(
    letters: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = seeded("googlenet", aux_logits=False, init_weights=False, num_classes=10)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    load_network(str(tmp_path / "mine.pth"), LoadOptions(arch="googlenet", labels=letters))
    assert "is run with transform_input=True, as googlenet was published" in caplog.text
    assert "--no-transform-input" in caplog.text
    caplog.clear()
    for given_value in (True, False):
        options = LoadOptions(arch="googlenet", labels=letters, transform_input=given_value)
        load_network(str(tmp_path / "mine.pth"), options)
    assert caplog.text == ""


def test_transform_input_where_there_is_none_is_refused(
    ten_classes: torch.nn.Module, three: str, letters: str, tmp_path: Path
) -> None:
    torch.save(ten_classes.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(UsageError, match="resnet18 has no such option"):
        load_network(
            str(tmp_path / "mine.pth"), LoadOptions(arch="resnet18", labels=letters, transform_input=False)
        )
    with pytest.raises(UsageError, match="not for the model 'googlenet'"):
        load_network("googlenet", LoadOptions(transform_input=False))
    graph(tmp_path / "mine.onnx", shape=["N", 3, 32, 32])
    with pytest.raises(UsageError, match="contains its own network"):
        Classifier(str(tmp_path / "mine.onnx"), labels=three, transform_input=True, **OVERRIDES)


def test_an_onnx_graph_with_external_data_has_no_digest_and_may_not_reach_outside(
    three: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    scale = graph(folder / "mine.onnx", shape=["N", 3, 32, 32])
    assert Classifier(str(folder / "mine.onnx"), labels=three, **OVERRIDES).run.weights_sha256
    model = onnx.load(folder / "mine.onnx")
    options = {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": False}
    onnx.save(model, folder / "mine.onnx", location="mine.data", **options)
    assert (folder / "mine.data").stat().st_size >= scale.nbytes
    assert Classifier(str(folder / "mine.onnx"), labels=three, **OVERRIDES).run.weights_sha256 is None
    content = (folder / "mine.onnx").read_bytes()
    (folder / "mine.onnx").write_bytes(content.replace(b"\x12\x09mine.data", b"\x12\x09../m.data"))
    with pytest.raises(CheckpointError, match=r"'\.\./m\.data', outside its own folder"):
        Classifier(str(folder / "mine.onnx"), labels=three, **OVERRIDES)


def test_arch_of_a_timm_model_without_imagenets_classes_wants_labels(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("resmlp_12_224", num_classes=1000).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(UsageError, match="has no class names"):
        load_network(str(tmp_path / "mine.pth"), LoadOptions(arch="timm:resmlp_12_224.fb_dino"))


def test_labels_in_a_manifest_lie_beside_it(
    ten_classes: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, digest = publish(tmp_path, ten_classes, "mine")
    add_manifest("resnet18", "mine", file.as_uri(), digest, num_classes="10", label_set='"letters.txt"')
    (catalog.user_models_folder() / "letters.txt").write_text("\n".join(LETTERS))
    monkeypatch.chdir(tmp_path)
    assert Classifier("mine").labels[3].label == "d"
