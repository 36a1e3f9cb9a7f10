"""ONNX graphs as exporters write them: forms of inputs and outputs, batches, links to weights, newer versions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs_by_text import CONSTANTS, LOGITS, logits, save_graph, softmax
from PIL import Image

from imgclassify import Classifier
from imgclassify.engines import onnxruntime_engine
from imgclassify.errors import CheckpointError, DeviceError, UsageError
from imgclassify.graphs.onnx_signature import Layout, Value, find_image_input, read_signature
from imgclassify.graphs.session import SessionConfig

COLOURS = [(255, 0, 0), (250, 140, 20), (20, 30, 200), (0, 0, 0), (60, 20, 30)]
SIZES: dict[str, Any] = {"resize_size": 8, "interpolation": "bilinear"}
PLAIN: dict[str, Any] = {**SIZES, "mean": 0.0, "std": 1.0}
HEAD = "f = Flatten (p)  y = Gemm (f, w, bias)"


@pytest.fixture
def three(tmp_path: Path) -> str:
    (tmp_path / "three.txt").write_text("red\ngreen\nblue\n")
    return str(tmp_path / "three.txt")


def image(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (20, 16), colour)


def in_order(result: Any) -> list[float]:
    by_class = {each.class_index: each.probability for each in result.predictions}
    return [by_class[index] for index in range(len(by_class))]


def check(path: Path, labels: str, *, tolerance: float = 1e-5, **options: Any) -> Classifier:
    """Compares the probabilities of images of one colour with numpy's."""
    classifier = Classifier(str(path), labels=labels, **(PLAIN | options))
    for colour, result in zip(COLOURS, classifier.predict(map(image, COLOURS)), strict=True):
        np.testing.assert_allclose(in_order(result), softmax(logits(colour)), rtol=0, atol=tolerance)
    return classifier


MEANS = "x = Cast <to = 1> (given)  p = GlobalAveragePool (x)  "
FROM_BYTES = "c = Cast <to = 1> (given)  x = Mul (c, byte)  p = GlobalAveragePool (x)  "
LAST = "x = Transpose <perm = [0, 3, 1, 2]> (given)  p = GlobalAveragePool (x)  "
LAST_BYTES = "t = Transpose <perm = [0, 3, 1, 2]> (given)  c = Cast <to = 1> (t)  x = Mul (c, byte)  "
LAST_BYTES += "p = GlobalAveragePool (x)  "
INPUTS = {
    "all sides symbolic, as optimum": ("float[batch_size,num_channels,height,width] given", MEANS),
    "all sides symbolic, channels last": ("float[batch,height,width,channels] given", LAST),
    "only the channels fixed": ("float[a,3,b,c] given", MEANS),
    "symbolic channels": ("float[N,c,8,8] given", MEANS),
    "symbolic channels last": ("float[N,8,8,k] given", LAST),
    "a batch of one": ("float[1,3,8,8] given", MEANS),
    "a batch of one, channels last": ("float[1,8,8,3] given", LAST),
    "float16": ("float16[N,3,8,8] given", MEANS),
    "double": ("double[N,3,8,8] given", MEANS),
    "bytes": ("uint8[N,3,8,8] given", FROM_BYTES),
    "bytes, channels last": ("uint8[N,8,8,3] given", LAST_BYTES),
    "bytes of a batch of one": ("uint8[1,3,h,w] given", FROM_BYTES),
}


@pytest.mark.parametrize("form", INPUTS)
def test_the_form_of_the_input_is_met(form: str, three: str, tmp_path: Path) -> None:
    given, nodes = INPUTS[form]
    path = save_graph(tmp_path / "g.onnx", "float[M,3] y", nodes + HEAD, given=given)
    options = {} if "8," in given else {"crop_size": 8}
    check(path, three, tolerance=1e-3 if form == "float16" else 1e-5, **options)


OUTPUTS = {
    "(N, C, 1, 1)": ("float[N,3,1,1] y", LOGITS + "y = Unsqueeze (g, last_two)"),
    "(N, 1, C)": ("float[N,1,3] y", LOGITS + "y = Unsqueeze (g, middle)"),
    "all squeezed": ("float[K] y", LOGITS + "u = Unsqueeze (g, last_two)  y = Squeeze (u)"),
    "float16": ("float16[N,3] y", LOGITS + "y = Cast <to = 10> (g)"),
    "double": ("double[N,3] y", LOGITS + "y = Cast <to = 11> (g)"),
    "a batch of one baked in": (
        "float[N,3] y",
        "p = GlobalAveragePool (x)  f = Reshape (p, one_three)  " + HEAD[17:],
    ),
    "a batch of one baked in at the end": ("float[N,3] y", LOGITS + "y = Reshape (g, one_three)"),
}


@pytest.mark.parametrize("form", OUTPUTS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_the_form_of_the_output_is_met(form: str, batch_size: int, three: str, tmp_path: Path) -> None:
    outputs, nodes = OUTPUTS[form]
    path = save_graph(tmp_path / "g.onnx", outputs, nodes, check=False)
    check(path, three, tolerance=5e-3 if form == "float16" else 1e-5, batch_size=batch_size)


@pytest.mark.parametrize(
    ("outputs", "nodes"),
    [
        ("seq(float[N,3]) y", LOGITS + "y = SequenceConstruct (g, g)"),
        ("float[N,0] y", LOGITS + "y = Slice (g, none, none, middle)"),
        ("float[N,3,8,8] y", "y = Identity (x)"),
    ],
)
def test_outputs_that_are_no_rows_are_refused(outputs: str, nodes: str, three: str, tmp_path: Path) -> None:
    constants = CONSTANTS | {"none": np.int64([0])}
    path = save_graph(tmp_path / "g.onnx", outputs, nodes, constants=constants, check=False)
    with pytest.raises(CheckpointError, match="not an image classifier"):
        Classifier(str(path), labels=three, **PLAIN)


def test_probabilities_of_a_network_that_divides_by_the_deviation_are_probabilities(
    three: str, tmp_path: Path
) -> None:
    nodes = "m = ReduceMean <axes = [1, 2, 3]> (x)  c = Sub (x, m)  q = Mul (c, c)  "
    nodes += "v = ReduceMean <axes = [1, 2, 3]> (q)  d = Sqrt (v)  s = Div (c, d)  p = GlobalAveragePool (s)  "
    nodes += "f = Flatten (p)  g = Gemm (f, w, bias)  y = Softmax (g)"
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", nodes)
    assert Classifier(str(path), labels=three, **PLAIN).run.activation == "none"


def test_a_crop_size_that_the_graph_fixes_need_not_be_typed(three: str, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Identity (g)", given="float[N,3,8,12] x")
    assert check(path, three, resize_size=12).run.preprocess["crop_size"] == [8, 12]
    with pytest.raises(UsageError) as error:
        Classifier(str(path), labels=three, interpolation="bilinear", mean=0.0, std=1.0)
    assert "--resize-size" in str(error.value.hint)
    assert "--crop-size" not in str(error.value.hint)
    with pytest.raises(CheckpointError, match="takes images of 8×12"):
        Classifier(str(path), labels=three, **PLAIN, crop_size=8)
    with pytest.raises(CheckpointError, match="takes images of 8×12, but the preprocessing crops to 224×224"):
        Classifier(str(path), arch="resnet18")


def test_bytes_need_no_mean_and_no_std(three: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", FROM_BYTES + HEAD, given="uint8[N,3,8,8] given")
    classifier = Classifier(str(path), labels=three, **SIZES)
    np.testing.assert_allclose(
        in_order(classifier.predict(image(COLOURS[1]))), softmax(logits(COLOURS[1])), atol=1e-5
    )

    assert not caplog.records
    Classifier(str(path), labels=three, **SIZES, mean=0.5, std=1.0)
    assert [record.getMessage().partition(" is")[0] for record in caplog.records] == ["--mean"]


GREY = "float[N,1,8,8] x"
GREY_NODES = "p = GlobalAveragePool (x)  f = Flatten (p)  y = Gemm (f, w_grey, bias)"
GREY_CONSTANTS = CONSTANTS | {"w_grey": np.float32([[5, -1, 2]])}


@pytest.mark.parametrize("given", [GREY, "float[1,8,8,1] t", "uint8[N,1,8,8] b"])
def test_a_graph_of_one_channel_takes_grey_images(given: str, three: str, tmp_path: Path) -> None:
    first = {
        "t": "x = Transpose <perm = [0, 3, 1, 2]> (t)  ",
        "b": "c = Cast <to = 1> (b)  x = Mul (c, byte)  ",
    }.get(given[-1], "")
    path = save_graph(
        tmp_path / "g.onnx", "float[N,3] y", first + GREY_NODES, given=given, constants=GREY_CONSTANTS
    )
    classifier = Classifier(str(path), labels=three, **PLAIN)
    assert classifier.run.preprocess["channel_order"] == "grey"
    for level in (0, 100, 255):
        result = classifier.predict(Image.new("L", (20, 16), level))
        wanted = softmax(level / 255 * np.array([5, -1, 2]) + CONSTANTS["bias"].astype(float))
        np.testing.assert_allclose(in_order(result), wanted, rtol=0, atol=1e-5)
    with pytest.raises(CheckpointError, match="one channel, not BGR") as error:
        Classifier(str(path), labels=three, **PLAIN, channel_order="bgr")
    assert "--channel-order grey" in str(error.value.hint)


# Batches ----------------------------------------------------------------------------------------------------

DEPENDENT = {
    "scaled by the largest value": "m = ReduceMax <keepdims = 1> (x)  d = Add (m, little)  s = Div (x, d)  "
    "p = GlobalAveragePool (s)  ",
    "centred on the batch": "m = ReduceMean <axes = [0], keepdims = 1> (x)  s = Sub (x, m)  "
    "p = GlobalAveragePool (s)  ",
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_depend_on_each_other_are_computed_apart(
    name: str, three: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", DEPENDENT[name] + HEAD)
    with caplog.at_level(logging.INFO, "imgclassify"):
        classifier = Classifier(str(path), labels=three, **PLAIN)
    assert "one image at a time" in caplog.text
    together = list(classifier.predict(map(image, COLOURS)))
    for colour, result in zip(COLOURS, together, strict=True):
        pixels = np.array(colour) / 255
        seen = pixels / (pixels.max() + 1e-6) if "largest" in name else pixels * 0
        wanted = softmax(seen @ CONSTANTS["w"].astype(float) + CONSTANTS["bias"])
        np.testing.assert_allclose(in_order(result), wanted, rtol=0, atol=1e-5)


def test_rows_that_depend_on_each_other_in_a_fixed_batch_are_refused(three: str, tmp_path: Path) -> None:
    nodes = DEPENDENT["scaled by the largest value"] + HEAD
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", nodes, given="float[3,3,8,8] x")
    with pytest.raises(CheckpointError, match=r"other images of a batch.*batches of 3"):
        Classifier(str(path), labels=three, **PLAIN)


def test_an_ordinary_graph_is_computed_in_batches(three: str, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Identity (g)")
    assert check(path, three).runner.engine.default_batch_size > 1


# The signature ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (["N", 3, 32, 48], (False, 3, None, (32, 48))),
        ([8, 32, 48, 3], (True, 3, 8, (32, 48))),
        ([1, 1, 28, 28], (False, 1, 1, (28, 28))),
        ([None, 28, 28, 1], (True, 1, None, (28, 28))),
        (["a", "b", "c", "d"], (False, 3, None, ("c", "d"))),
        ([None, None, None, None], (False, 3, None, (None, None))),
        ([-1, 3, -1, 0], (False, 3, None, (None, None))),
        (["n", "h", "w", "C"], (True, 3, None, ("h", "w"))),
        (["N", 4, 32, 32], None),
        (["N", 3, 32], None),
    ],
)
def test_the_sides_of_the_input_tell_the_layout(shape: list[Any], wanted: Any) -> None:
    found = find_image_input([Value("x", "tensor(float)", shape)], Layout())
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert (found.channels_last, found.channels, found.batch_size, found.size) == wanted


def test_a_signature_is_what_onnx_itself_reads(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "g.onnx",
        "float[N,3] y, int64[N] i",
        LOGITS + "y = Softmax (g)  i = ArgMax <axis = 1> (y)",
        check=False,
    )
    model = onnx.load(path)
    # As older exporters do: the weights are inputs too.
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [3, 3]))
    found = read_signature(memoryview(model.SerializeToString()))
    assert found.inputs == [Value("x", "tensor(float)", ["N", 3, 8, 8])]
    assert found.operators == {"y": "Softmax", "i": "ArgMax"}
    assert found.layout == Layout()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_where_no_side_is_known_the_first_convolution_tells(
    channels: int, last: bool, kind: str, three: str, tmp_path: Path
) -> None:
    nodes = "c = Cast <to = 1> (given)  d = Mul (c, scale)  "
    nodes += "x = Transpose <perm = [0, 3, 1, 2]> (d)  " if last else "x = Identity (d)  "
    nodes += "v = Conv (x, kernel, bias)  p = GlobalAveragePool (v)  y = Flatten (p)"
    weight = CONSTANTS["w"] if channels == 3 else np.float32([[5, -1, 2]])
    constants = CONSTANTS | {
        "kernel": weight.T[:, :, None, None].copy(),
        "scale": np.float32(1 / 255 if kind == "uint8" else 1),
    }
    path = save_graph(
        tmp_path / "g.onnx", "float[N,3] y", nodes, given=f"{kind}[a,b,c,d] given", constants=constants
    )
    classifier = Classifier(str(path), labels=three, crop_size=8, **PLAIN)
    assert classifier.run.preprocess.get("channel_order") == ("grey" if channels == 1 else None)
    for level in (0, 90, 255):
        result = classifier.predict(Image.new("RGB", (20, 16), (level, level, level)))
        wanted = softmax(level / 255 * np.ones(channels) @ weight.astype(float) + CONSTANTS["bias"])
        np.testing.assert_allclose(in_order(result), wanted, rtol=0, atol=1e-5)


def test_old_graphs_whose_weights_are_inputs_too_are_read(three: str, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Identity (g)")
    model = onnx.load(path)
    model.ir_version = 3
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    onnx.save(model, path)
    check(path, three)


# What cannot be opened --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        (
            "ir",
            r"IR version 99, and the installed onnxruntime reads versions up to \d+",
            "pip install -U onnxruntime",
        ),
        ("opset", r"opset 99 of ai\.onnx", "pip install -U onnxruntime"),
        ("operator", r"no operator com\.acme:Blur", "operators"),
        ("unknown", r"no operator Blur in opset 17", "operators"),
        ("domain", r"operators of 'com\.acme'", "operators"),
    ],
)
def test_what_onnxruntime_cannot_open_is_said_as_such(
    change: str, words: str, hint: str, three: str, tmp_path: Path
) -> None:
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Identity (g)")
    model = onnx.load(path)
    if change == "ir":
        model.ir_version = 99
    elif change == "opset":
        model.opset_import[0].version = 99
    else:
        model.graph.node[-1].op_type = "Blur"
        if change != "unknown":
            model.graph.node[-1].domain = "com.acme"
        if change == "operator":
            model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=words) as error:
        Classifier(str(path), labels=three, **PLAIN)
    assert hint in str(error.value.hint)


# Weights beside the graph -----------------------------------------------------------------------------------


def in_cache(folder: Path, tmp_path: Path) -> Path:
    """A graph and its weights as the cache of the Hugging Face hub has them: links to files named by digests."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "abc" / "onnx"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    path = save_graph(tmp_path / "whole.onnx", "float[N,3] y", LOGITS + "y = Identity (g)")
    onnx.save(
        onnx.load(path), blobs / "1a", save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )
    (blobs / "model.onnx_data").rename(blobs / "2b")
    (snapshot / "model.onnx").symlink_to("../../../blobs/1a")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/2b")
    return snapshot / "model.onnx"


def test_weights_are_found_through_the_links_of_a_cache(three: str, tmp_path: Path) -> None:
    path = in_cache(tmp_path / "models--a--b", tmp_path)
    classifier = check(path, three)
    embedding = classifier.embed(image((255, 51, 0))).embedding
    np.testing.assert_allclose(embedding, [1, 0.2, 0], atol=1e-6)


def test_links_that_lead_elsewhere_are_still_refused(three: str, tmp_path: Path) -> None:
    path = in_cache(tmp_path / "models--a--b", tmp_path)
    data = path.with_name("model.onnx_data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").write_bytes(data.read_bytes())
    data.unlink()
    data.symlink_to(tmp_path / "other" / "data")
    with pytest.raises(CheckpointError, match="outside its own folder"):
        Classifier(str(path), labels=three, **PLAIN)


# CUDA -------------------------------------------------------------------------------------------------------


def test_cuda_is_used_where_onnxruntime_was_built_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which device is chosen, and what onnxruntime is told. It is not run: the machine may have no GPU."""
    with pytest.raises(DeviceError, match="CPU only") as error:
        onnxruntime_engine._find_device("cuda")
    assert "onnxruntime-gpu" in str(error.value.hint)
    assert onnxruntime_engine._find_device("auto") == "cpu"
    monkeypatch.setattr(onnxruntime_engine, "has_cuda_provider", lambda: True)
    for name, device in {"cpu": "cpu", "auto": "cuda:0", "cuda": "cuda:0", "cuda:1": "cuda:1"}.items():
        assert onnxruntime_engine._find_device(name) == device
    with pytest.raises(DeviceError, match="'mps'"):
        onnxruntime_engine._find_device("mps")
    first, second = SessionConfig(threads=1, device="cuda:1").providers()
    assert first == ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})
    assert second == "CPUExecutionProvider"


def test_cuda_that_cannot_be_used_after_all_is_the_cpu_or_an_error(
    three: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime without CUDA is told to use it: it takes the CPU, as where CUDA's libraries are missing."""
    monkeypatch.setattr(onnxruntime_engine, "has_cuda_provider", lambda: True)
    monkeypatch.setattr(SessionConfig, "providers", lambda _: ["CPUExecutionProvider"])
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Identity (g)")
    from imgclassify.hub.loader import load_network
    from imgclassify.hub.network import LoadOptions, PreprocessOverrides

    given = PreprocessOverrides(resize_size=8, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    network = load_network(str(path), LoadOptions(labels=three, overrides=given))

    def engine(device: str) -> Any:
        assert network.backends.open_session is not None
        return onnxruntime_engine.OnnxruntimeEngine(
            network.backends.open_session, network.preprocess, name="it", device=device
        )

    assert engine("auto").device == "cpu"
    with pytest.raises(DeviceError, match=r"cannot use 'cuda:1'.*CUDA or cuDNN"):
        engine("cuda:1")
