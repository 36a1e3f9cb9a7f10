"""Which engine and which device `auto` takes, and what it says of it."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import needs_gpu

from imgclassify import Classifier
from imgclassify.engines import choice, devices, torch_engine
from imgclassify.errors import UsageError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, Network


@pytest.fixture
def network() -> Network:
    return load_network("efficientnet_lite0", LoadOptions())


def chosen(
    network: Network, *, engine: str = "auto", device: str = "auto", dtype: str = "float32", images: Any
) -> Any:
    place, where = choice.choose_device(network, device, images)
    name, why = choice.choose_engine(network, engine, place, dtype)
    return name, place, where, why


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "detect_accelerator", lambda: "cuda")
    monkeypatch.setattr(devices, "count_cores", lambda: 4)


@pytest.mark.parametrize("images", [1, 100, 100_000, None])
def test_without_a_gpu_it_is_onnxruntime_on_the_cpu(
    images: int | None, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "detect_accelerator", lambda: None)
    assert chosen(network, images=images) == ("onnxruntime", "cpu", "no GPU was found", "")


@pytest.mark.usefixtures("gpu")
def test_one_image_does_not_wait_for_the_gpu_and_thousands_do(network: Network) -> None:
    assert chosen(network, images=1)[:3] == (
        "onnxruntime",
        "cpu",
        "1 image is classified before the GPU would have started",
    )
    assert chosen(network, images=100)[:2] == ("onnxruntime", "cpu")
    assert chosen(network, images=5000)[:3] == ("torch", "auto", "5000 images are worth starting the GPU for")
    assert chosen(network, images=None)[:3] == ("torch", "auto", "a GPU was found")


@pytest.mark.usefixtures("gpu")
def test_a_costlier_network_is_worth_the_gpu_sooner() -> None:
    """By what it costs: EfficientNet-Lite0 0.4 GMAC, VGG-16 15.5."""
    light = load_network("efficientnet_lite0", LoadOptions())
    heavy = replace(light, gmacs=15.5)
    assert chosen(light, images=500)[1] == "cpu"
    assert chosen(heavy, images=500)[1] == "auto"
    assert chosen(heavy, images=1)[1] == "cpu"


def test_what_the_user_names_is_taken(network: Network) -> None:
    assert chosen(network, engine="torch", images=1)[::3] == ("torch", "--engine torch was requested")
    assert chosen(network, device="cpu", images=1)[:3] == ("onnxruntime", "cpu", "--device cpu was requested")
    assert chosen(network, device="cuda", images=1)[:3] == ("torch", "cuda", "--device cuda was requested")
    assert chosen(network, dtype="float16", device="cpu", images=1)[::3] == ("torch", "float16 runs in torch")


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_bfloat16_runs_in_openvino_where_it_has_it(
    has_bfloat16: bool, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_has_bfloat16_on_cpu", lambda network: has_bfloat16)
    expected = (
        ("openvino", "this processor computes in bfloat16") if has_bfloat16 else ("torch", "bfloat16 runs in torch")
    )
    assert chosen(network, dtype="bfloat16", device="cpu", images=1)[::3] == expected
    assert chosen(network, dtype="bfloat16", device="cuda", images=1)[0] == "torch"
    assert chosen(network, dtype="bfloat16", device="cpu", engine="torch", images=1)[0] == "torch"


@pytest.mark.parametrize(
    ("engine", "device", "images", "expected"),
    [
        ("auto", "cpu", None, "bfloat16"),
        ("openvino", "cpu", None, "bfloat16"),
        ("onnxruntime", "cpu", None, "float32"),
        ("torch", "cpu", None, "float32"),
        ("auto", "cpu", 1, "float32"),  # done before OpenVINO has started
        ("auto", "cpu", 400, "float32"),
        ("auto", "cpu", 600, "bfloat16"),
        ("auto", "auto", 1, "bfloat16"),
        ("torch", "cuda:0", None, "bfloat16"),
        ("onnxruntime", "cuda:0", None, "float32"),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_auto_is_bfloat16_where_that_is_done_first(
    engine: str, device: str, images: int | None, expected: str, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On four cores that have it, and on a GPU that has it."""
    monkeypatch.setattr(choice, "_has_bfloat16_on_cpu", lambda network: True)
    monkeypatch.setattr(torch_engine, "computes_in_bfloat16", lambda device: True)
    assert choice.choose_dtype(network, "auto", engine, device, images) == expected
    assert choice.choose_dtype(network, "float16", engine, device, images) == "float16"
    monkeypatch.setattr(choice, "_has_bfloat16_on_cpu", lambda network: False)
    monkeypatch.setattr(torch_engine, "computes_in_bfloat16", lambda device: False)
    assert choice.choose_dtype(network, "auto", engine, device, images) == "float32"


@pytest.mark.parametrize(
    ("gmacs", "seconds", "expected"),
    [(0.5, None, 360), (0.5, 0.1, 360), (None, None, 45), (None, 0.1, 40)],
)
def test_the_speed_of_a_network_is_estimated_or_measured(
    gmacs: float | None, seconds: float | None, expected: float, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On four cores, with four calls at the same time."""
    monkeypatch.setattr(devices, "count_cores", lambda: 4)
    engine = SimpleNamespace(device="cpu", name="onnxruntime", dtype="float32", concurrency=4)
    assert choice._estimate_rate(replace(network, gmacs=gmacs), engine, seconds) == expected  # type: ignore[arg-type]
    engine.device = "cuda:0"
    assert choice._estimate_rate(network, engine, seconds) == math.inf  # type: ignore[arg-type]


def test_a_quantized_network_keeps_its_own_types(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_has_bfloat16_on_cpu", lambda network: True)
    assert choice.choose_dtype(replace(network, quantized=True), "auto", "auto", "cpu", None) == "float32"


@pytest.mark.usefixtures("gpu")
def test_where_torch_finds_no_gpu_after_all_the_cpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "find_device", lambda name: torch.device("cpu"))
    run = Classifier().run
    assert (run.engine, run.device, run.reason) == ("onnxruntime", "cpu", "torch finds no GPU")


def test_a_network_without_a_graph_goes_to_torch_and_says_why() -> None:
    run = Classifier(crop_size=192, device="cpu").run
    assert run.engine == "torch"
    assert run.reason == (
        "--device cpu was requested; no graph of tf_efficientnet_lite0 for crops of 192×192 comes with imgclassify"
    )


def test_an_engine_that_cannot_run_a_model_says_why_and_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"no graph of tf_efficientnet_lite0 for crops of 192×192") as error:
        Classifier(crop_size=192, engine="onnxruntime")
    assert "--engine torch" in str(error.value.hint)
    assert "models prepare" in str(error.value.hint)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_both_engines_answer_alike(batch_size: int) -> None:
    from conftest import noise

    pictures = [noise(300 + 40 * index, 250, index) for index in range(7)]
    answers = []
    for engine in ("torch", "onnxruntime"):
        classifier = Classifier(engine=engine, device="cpu", top_k=1000, batch_size=batch_size)
        assert classifier.run.engine == engine
        answers.append(list(classifier.predict(pictures)))
    for ours, theirs in zip(*answers, strict=True):
        assert ours.predictions[0].class_index == theirs.predictions[0].class_index
        by_class = {prediction.class_index: prediction.probability for prediction in theirs.predictions}
        for prediction in ours.predictions:
            assert prediction.probability == pytest.approx(by_class[prediction.class_index], abs=1e-4)


def test_a_graph_alone_is_run_on_cuda_where_onnxruntime_was_built_for_it(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = replace(network, backends=network.backends._replace(build_torch=None))
    monkeypatch.setattr(devices, "count_cores", lambda: 4)
    assert chosen(alone, images=None)[:2] == ("onnxruntime", "cpu")
    monkeypatch.setattr(choice, "has_cuda_provider", lambda: True)
    for has_gpu, images, device in ((True, None, "auto"), (True, 1, "cpu"), (False, None, "cpu")):
        monkeypatch.setattr(devices, "has_nvidia_gpu", lambda has_gpu=has_gpu: has_gpu)
        assert chosen(alone, images=images)[:2] == ("onnxruntime", device)
    choice.validate_options("auto", "cuda", "float32")


@needs_gpu
def test_the_gpu_answers_as_the_cpu() -> None:
    from conftest import noise

    pictures = [noise(300 + 4 * index, 250, index) for index in range(50)]
    by_itself = Classifier(top_k=1000)
    assert (by_itself.run.engine, by_itself.run.device, by_itself.run.reason) == (
        "torch",
        "cuda:0",
        "a GPU was found",
    )
    here = list(Classifier(device="cpu", top_k=1000).predict(pictures))
    # Enough batches for a CUDA graph on each stream.
    for index, found in enumerate(by_itself.predict(pictures * 16)):
        expected = {each.class_index: each.probability for each in here[index % 50].predictions}
        assert max(abs(each.probability - expected[each.class_index]) for each in found.predictions) < 1e-4
