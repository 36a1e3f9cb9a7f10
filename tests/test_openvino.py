"""The openvino engine: onnxruntime's answers, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgclassify import Classifier
from imgclassify.engines import FEATURE_MAP, FEATURES, LOGITS, openvino_engine
from imgclassify.engines.activation import softmax
from imgclassify.errors import DeviceError, OutputError, UnavailableError, UsageError
from imgclassify.graphs import openvino_session
from imgclassify.runner import ModelRunner, load_runner

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"crop_size": 8, "resize_size": 8, "interpolation": "bilinear", "mean": 0.5, "std": 0.5}
"""The preprocessing of a graph that says nothing of it."""
ALL = (LOGITS, FEATURES, FEATURE_MAP)


def crops(count: int, side: int = 224) -> np.ndarray:
    """Crops of coarse noise, which differ in brightness."""
    generator = np.random.default_rng(5)
    coarse = generator.integers(0, 256, (count, 7, 7, 3)) * np.linspace(0.3, 1, count)[:, None, None, None]
    return coarse.astype(np.uint8).repeat(side // 7, 1).repeat(side // 7, 2)


def runner(engine: str, model: str | None = None, **options: object) -> ModelRunner:
    return load_runner(model, engine=engine, device="cpu", with_labels=False, outputs=ALL, **options)  # type: ignore[arg-type]


needs_bfloat16 = pytest.mark.skipif(
    not openvino_session.computes_in_bfloat16(), reason="this processor does not compute in bfloat16"
)


def test_all_outputs_are_those_of_onnxruntime() -> None:
    found, wanted = (runner(engine).engine.infer(crops(5)) for engine in ("openvino", "onnxruntime"))
    assert found.keys() == wanted.keys() == set(ALL)
    for name in ALL:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=2e-5 * np.abs(wanted[name]).max())
    probabilities = [softmax(each[LOGITS]) for each in (found, wanted)]
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-5)


@pytest.mark.needs_torch
def test_calls_at_the_same_time_do_not_share_a_compiled_graph(tmp_path: Path) -> None:
    """With OpenVINO's streams, half of these logits would be wrong by 1e-4 to 3e-2."""
    import torch
    from networks import seeded

    network = seeded("swin_v2_t")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    mine = load_runner(str(tmp_path / "weights.pth"), arch="swin_v2_t", engine="openvino", with_labels=False)
    pixels = crops(2, side=224).repeat(2, 1).repeat(2, 2)[:, :256, :256].copy()
    mean, std = (
        torch.tensor(each).view(1, 3, 1, 1) for each in (mine.network.preprocess.mean, mine.network.preprocess.std)
    )
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255 - mean) / std
    with torch.inference_mode():
        wanted = network.double()(images).numpy()
    with ThreadPoolExecutor(2) as executor:
        for found in executor.map(mine.engine.infer, [pixels] * 4):
            np.testing.assert_allclose(found[LOGITS], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_the_head_is_that_of_onnxruntime() -> None:
    (weight, bias), (its_weight, its_bias) = (runner(engine).read_head() for engine in ("openvino", "onnxruntime"))
    np.testing.assert_array_equal(weight, its_weight)
    np.testing.assert_array_equal(bias, its_bias)


def test_many_threads_at_once_answer_as_one() -> None:
    engine = runner("openvino").engine
    batches = [crops(1 + number % 4) for number in range(24)]
    alone = [engine.infer(batch)[LOGITS] for batch in batches]
    with ThreadPoolExecutor(8) as executor:
        together = list(executor.map(lambda batch: engine.infer(batch)[LOGITS], batches))
    for one, other in zip(alone, together, strict=True):
        # The first image that comes alone is computed together with black ones.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())


def test_images_are_computed_four_at_a_time_and_alone_if_they_come_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    run = openvino_session.OpenvinoSession.run

    def record(session: openvino_session.OpenvinoSession, names: list[str], feeds: dict[str, np.ndarray]) -> Any:
        shapes.append(len(next(iter(feeds.values()))))
        return run(session, names, feeds)

    monkeypatch.setattr(openvino_session.OpenvinoSession, "run", record)
    engine = runner("openvino").engine
    pixels = crops(9)
    found = np.concatenate([engine.infer(part)[LOGITS] for part in np.split(pixels, [6, 7, 8])])
    assert shapes == [4, 4, 4, 1, 1]
    wanted = runner("onnxruntime").engine.infer(pixels)[LOGITS]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    shapes.clear()
    runner("openvino", num_images=1).engine.infer(pixels[:1])
    assert shapes == [1]


def test_a_graph_that_takes_one_image_at_a_time_gets_one(tmp_path: Path) -> None:
    """It says that it takes any number, but its output is for one image."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Reshape", ["means", "shape"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [1, 3])],
    )
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    images = crops(3, side=7 * 2)[:, :8, :8]
    found, wanted = (
        load_runner(str(path), engine=engine, with_labels=False, **SMALL).engine.infer(images)
        for engine in ("openvino", "onnxruntime")
    )
    np.testing.assert_allclose(found[LOGITS], wanted[LOGITS], rtol=0, atol=1e-5)


def test_outputs_outlive_the_next_batch() -> None:
    engine = runner("openvino").engine
    first = engine.infer(crops(2))[LOGITS]
    kept = first.copy()
    engine.infer(crops(3)[::-1].copy())
    np.testing.assert_array_equal(first, kept)


@needs_bfloat16
def test_bfloat16_is_what_the_network_computes_in() -> None:
    exact = runner("openvino").engine.infer(crops(4))[FEATURES]
    rounded = runner("openvino", dtype="bfloat16").engine.infer(crops(4))[FEATURES]
    difference = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 1e-4 < difference < 0.2  # 8 bits of mantissa, through 50 layers


def test_what_computed_is_in_the_record() -> None:
    classifier = Classifier(engine="openvino")
    assert (classifier.run.engine, classifier.run.device, classifier.run.dtype) == ("openvino", "cpu", "float32")
    assert "--engine openvino was requested" in classifier.run.reason
    [found] = classifier.predict([EXAMPLES / "cat.jpg"])
    [wanted] = Classifier(engine="onnxruntime").predict([EXAMPLES / "cat.jpg"])
    assert [each.label for each in found.predictions] == [each.label for each in wanted.predictions]


def test_a_graph_of_the_user_s_is_run_with_its_own_layout_and_batch(tmp_path: Path) -> None:
    """Of two images at a time, with channels first, and normalised by the engine."""
    path = write_graph(tmp_path / "mean.onnx", batch=2, side=8)
    images = crops(5, side=7 * 2)[:, :8, :8]
    found, wanted = (
        load_runner(str(path), engine=engine, with_labels=False, **SMALL).engine.infer(images)
        for engine in ("openvino", "onnxruntime")
    )
    assert found[LOGITS].shape == (5, 3)
    np.testing.assert_allclose(found[LOGITS], wanted[LOGITS], rtol=0, atol=1e-5)


def write_graph(path: Path, *, batch: int, side: int, operator: str = "ReduceMean") -> Path:
    """Writes a graph that returns the mean of each channel."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node(operator, ["images"], ["logits"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph(
        [node],
        "means",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"device": "cuda:0"}, DeviceError, "cuda"),
        ({"dtype": "float16"}, DeviceError, "does not compute in float16"),
    ],
)
def test_what_it_cannot_do_is_refused(options: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_runner(engine="openvino", **({"device": "cpu"} | options))  # type: ignore[arg-type]


def test_bfloat16_is_refused_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "computes_in_bfloat16", lambda: False)
    with pytest.raises(DeviceError, match="this processor does not compute in bfloat16") as raised:
        load_runner(engine="openvino", dtype="bfloat16")
    assert raised.value.hint


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_session, "is_installed", lambda: False)
    with pytest.raises(UnavailableError, match="needs OpenVINO") as raised:
        load_runner(engine="openvino")
    assert "imgclassify[openvino]" in str(raised.value.hint)


def test_a_network_without_a_graph_says_why() -> None:
    with pytest.raises(UsageError, match=r"the openvino engine cannot run .*no graph of") as raised:
        load_runner(engine="openvino", with_labels=False, crop_size=160)
    assert "--engine torch" in str(raised.value.hint)


@pytest.fixture
def odd_graph(tmp_path: Path) -> Path:
    """A graph with an operator that OpenVINO does not have."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Det", ["squares"], ["unused"]),
        helper.make_node("Identity", ["means"], ["logits"]),
        helper.make_node("Reshape", ["images", "shape"], ["squares"]),
    ]
    nodes = [nodes[0], nodes[3], nodes[1], nodes[2]]
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("unused", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [3, 8, 8])],
    )
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_operator_that_openvino_lacks_is_named(odd_graph: Path) -> None:
    with pytest.raises(OutputError, match=r"OpenVINO cannot run .*odd\.onnx.*Det") as raised:
        load_runner(str(odd_graph), engine="openvino", with_labels=False, **SMALL)
    assert raised.value.hint == "use --engine onnxruntime"


def test_what_openvino_lacks_runs_in_float32_where_the_dtype_is_free(
    odd_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_session, "computes_in_bfloat16", lambda: True)
    monkeypatch.setattr(openvino_engine, "computes_in_bfloat16", lambda: True)
    run = load_runner(str(odd_graph), dtype="auto", with_labels=False, output_name="logits", **SMALL).run_info
    assert (run.engine, run.dtype) == ("onnxruntime", "float32")
    assert "in openvino, OpenVINO cannot run" in run.reason
    with pytest.raises(OutputError, match="OpenVINO cannot run"):
        load_runner(str(odd_graph), dtype="bfloat16", with_labels=False, output_name="logits", **SMALL)


def test_onnxruntime_is_not_imported_where_openvino_runs() -> None:
    code = (
        "import sys\n"
        "from imgclassify import Classifier\n"
        "Classifier(engine='openvino').predict('examples/cat.jpg')\n"
        "assert 'openvino' in sys.modules\n"
        "assert not {'onnxruntime', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_bfloat16
def test_auto_is_bfloat16_in_openvino_for_many_images_and_float32_for_one() -> None:
    many, one = Classifier(dtype="auto", device="cpu").run, Classifier(dtype="auto", device="cpu", num_images=1).run
    assert (many.engine, many.dtype) == ("openvino", "bfloat16")
    assert "this processor computes in bfloat16" in many.reason
    assert (one.engine, one.dtype) == ("onnxruntime", "float32")
