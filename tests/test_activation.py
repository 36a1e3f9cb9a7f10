"""What the outputs of a network mean: the rule on arrays, and on graphs whose answer numpy computes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs_by_text import CONSTANTS, LOGITS, logits, save_graph, sigmoid, softmax
from PIL import Image

from imgclassify import Classifier
from imgclassify.engines.activation import (
    Activation,
    check_activation,
    find_activation,
    logits_activation,
    require_activation,
)
from imgclassify.engines.activation import sigmoid as our_sigmoid
from imgclassify.errors import CheckpointError, LabelsError, UsageError

RNG = np.random.default_rng(0)
RAW = RNG.normal(0, 3, (4, 12)).astype(np.float32)
INSIDE = RNG.uniform(0, 1, (4, 12)).astype(np.float32)
SHARES = np.float32([softmax(row) for row in RAW])
COLOURS = [(255, 0, 0), (250, 140, 20), (20, 30, 200), (0, 0, 0)]
PREPROCESSING: dict[str, Any] = {"resize_size": 8, "interpolation": "bilinear", "mean": 0.0, "std": 1.0}


@pytest.mark.parametrize(
    ("outputs", "operator", "wanted"),
    [
        pytest.param(RAW, "", Activation("softmax"), id="logits"),
        pytest.param(RAW[:, :1], "", Activation("sigmoid", multi_label=True), id="one logit"),
        pytest.param(SHARES, "", Activation("none"), id="sum to 1"),
        pytest.param(SHARES * 100, "", Activation("none", 1 / 100), id="percent"),
        pytest.param((SHARES * 255).round(), "", Activation("none", 1 / 255), id="bytes"),
        pytest.param(SHARES.astype(np.float16).astype(np.float32), "", Activation("none"), id="float16"),
        pytest.param(INSIDE, "", Activation("none", multi_label=True), id="within 0..1"),
        pytest.param(INSIDE[:, :1], "", Activation("none", multi_label=True), id="one probability"),
        pytest.param(INSIDE, "Sigmoid", Activation("none", multi_label=True), id="by a sigmoid"),
        pytest.param(INSIDE, "Gemm", Activation("softmax"), id="logits within 0..1 by chance"),
        pytest.param(INSIDE[:, :1], "Gemm", Activation("sigmoid", multi_label=True), id="one logit by chance"),
        pytest.param(np.zeros((4, 3), np.float32), "", Activation("softmax"), id="a head of zeros"),
        pytest.param(np.zeros((4, 3), np.float32), "Sigmoid", Activation("none", multi_label=True), id="no tag"),
        pytest.param(np.abs(RAW), "Relu", Activation("softmax"), id="after a ReLU, as SqueezeNet's"),
        pytest.param(-np.sort(-RAW, axis=1)[:, :5], "Gemm", Activation("softmax"), id="few, sorted by chance"),
        pytest.param(np.log(SHARES), "LogSoftmax", Activation("softmax"), id="log-probabilities"),
    ],
)
def test_the_outputs_show_what_they_mean(outputs: np.ndarray, operator: str, wanted: Activation) -> None:
    found = find_activation(outputs, operator)
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("outputs", "operator", "words"),
    [
        pytest.param(-np.sort(-RAW, axis=1), "", "sorted", id="sorted"),
        pytest.param(-np.sort(-SHARES, axis=1), "", "sorted", id="sorted probabilities"),
        pytest.param(RAW[:, :2], "TopK", "sorted", id="by TopK"),
        pytest.param(np.float32([[2], [0], [1], [1]]), "", "whole numbers", id="class numbers as floats"),
        pytest.param(np.float32([[1], [0], [1], [1]]), "ArgMax", "whole numbers", id="two class numbers"),
        pytest.param(np.float32([[3, 200], [9, 90], [0, 1], [7, 7]]), "", "whole numbers", id="bytes of tags"),
        pytest.param(RAW / np.linalg.norm(RAW, axis=1, keepdims=True), "", "length 1", id="unit vectors"),
        pytest.param(INSIDE * 100, "Sigmoid", "not probabilities", id="percent of tags"),
        pytest.param(INSIDE / 12, "Softmax", "do not sum to 1", id="a softmax over the wrong axis"),
    ],
)
def test_what_no_classifier_returns_is_refused(outputs: np.ndarray, operator: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as error:
        find_activation(outputs, operator)
    assert "export" in str(error.value.hint)


def test_rows_that_are_not_finite_show_nothing() -> None:
    odd = np.concatenate([SHARES[:2], np.full((2, 12), np.nan, np.float32)])
    assert find_activation(odd) == Activation("none")
    with pytest.raises(CheckpointError, match="not finite"):
        find_activation(odd[2:])


def test_what_the_files_say_counts_for_logits_and_does_not_for_probabilities() -> None:
    assert find_activation(RAW, stated="sigmoid") == Activation("sigmoid", multi_label=True)
    assert find_activation(SHARES, stated="softmax") == Activation("none")
    assert find_activation(INSIDE, "Sigmoid", stated="sigmoid") == Activation("none", multi_label=True)
    assert find_activation(INSIDE, "Gemm", stated="sigmoid") == Activation("sigmoid", multi_label=True)
    assert logits_activation(1, "softmax").name == "sigmoid"
    with pytest.raises(CheckpointError, match="not a probability"):
        find_activation(RAW, stated="none")


def test_what_the_user_says_is_obeyed_and_a_mistake_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert check_activation("sigmoid", RAW) == Activation("sigmoid", multi_label=True)
    assert check_activation("none", SHARES) == Activation("none")
    assert check_activation("none", INSIDE) == Activation("none", multi_label=True)
    assert not caplog.records
    with pytest.raises(CheckpointError, match=r"-?\d.* not a probability"):
        check_activation("none", RAW)
    with pytest.raises(UsageError, match="one output"):
        require_activation("softmax", 1)
    for name, outputs in (("softmax", SHARES), ("sigmoid", INSIDE), ("sigmoid", SHARES)):
        caplog.clear()
        assert check_activation(name, outputs).name == name
        assert f"--activation {name} changes them" in caplog.text


@pytest.mark.parametrize("values", [[-200.0, -1, 0, 1, 200], [88.8, -88.8, 1e30, -1e30, 1e-30]])
def test_the_sigmoid_is_float64s_to_float32_precision(values: list[float]) -> None:
    row = np.float32(values)
    with np.errstate(over="ignore"):
        exact = sigmoid(row.astype(np.float64))
    np.testing.assert_allclose(our_sigmoid(row), exact, rtol=1e-6, atol=1e-37)
    assert our_sigmoid(row).dtype == np.float32


def test_a_pair_is_the_probability_of_the_second_class() -> None:
    pair = logits_activation(1).for_labels(1, 2)
    assert not pair.multi_label
    np.testing.assert_allclose(pair.apply(np.float32([2])), [sigmoid(np.float64(-2)), sigmoid(np.float64(2))], 1e-6)
    inside = Activation("none").for_labels(1, 2)
    np.testing.assert_allclose(inside.apply(np.float32([0.25])), [0.75, 0.25])
    assert logits_activation(1).for_labels(1, 1).multi_label


@pytest.mark.parametrize("value", [1.7, -0.4, np.nan, np.inf])
def test_a_value_that_is_no_probability_is_an_error_at_any_time(value: float) -> None:
    with pytest.raises(CheckpointError, match="not a probability"):
        Activation("none").apply(np.float32([0.5, value]))
    np.testing.assert_array_equal(Activation("none").apply(np.float32([1.0004, -0.0004])), [1, 0])


# Graphs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def labels(tmp_path: Path) -> Any:
    def write(*names: str) -> str:
        path = tmp_path / f"{'-'.join(names)}.txt"
        path.write_text("\n".join(names) + "\n")
        return str(path)

    return write


def image(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (20, 16), colour)


def predict(path: Path, labels: str, *, images: Any = COLOURS, **options: Any) -> list[np.ndarray]:
    """The probabilities of each image, in class-index order."""
    found = []
    with Classifier(str(path), labels=labels, top_k=1000, **PREPROCESSING, **options) as classifier:
        for result in classifier.predict([image(colour) for colour in images]):
            ranks = [prediction.probability for prediction in result.predictions]
            assert ranks == sorted(ranks, reverse=True)
            by_class = {each.class_index: each.probability for each in result.predictions}
            found.append(np.array([by_class[index] for index in range(len(by_class))]))
    return found


THREE = ("red", "green", "blue")
ONE = np.array([[4], [1], [-6]])
GRAPHS: dict[str, tuple[str, str, Any]] = {
    "logits": ("float[N,3] y", LOGITS + "y = Identity (g)", softmax),
    "softmax": ("float[N,3] y", LOGITS + "y = Softmax (g)", softmax),
    "log-softmax": ("float[N,3] y", LOGITS + "y = LogSoftmax (g)", softmax),
    "percent": ("float[N,3] y", LOGITS + "s = Softmax (g)  y = Mul (hundred, s)", softmax),
    "sigmoid": ("float[N,3] y", LOGITS + "y = Sigmoid (g)", sigmoid),
    "sigmoid by hand": (
        "float[N,3] y",
        LOGITS + "n = Neg (g)  e = Exp (n)  o = Add (e, one)  y = Reciprocal (o)",
        sigmoid,
    ),
    "sigmoid by hand, as a division": (
        "float[N,3] y",
        LOGITS + "n = Neg (g)  e = Exp (n)  o = Add (e, one)  y = Div (one, o)",
        sigmoid,
    ),
    "a mean of sigmoids": (
        "float[N,3] y",
        LOGITS + "a = Sigmoid (g)  b = Sigmoid (g)  c = Add (a, b)  y = Mul (c, half)",
        sigmoid,
    ),
    "softmax in float16": (
        "float16[N,3] y",
        LOGITS + "h = Cast <to = 10> (g)  y = Softmax (h)",
        softmax,
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_gets_what_its_outputs_need(name: str, labels: Any, tmp_path: Path) -> None:
    outputs, nodes, wanted = GRAPHS[name]
    path = save_graph(tmp_path / "g.onnx", outputs, nodes, constants=CONSTANTS | {"one": np.float32(1)})
    tolerance = 1e-3 if "float16" in name else 1e-5
    for colour, found in zip(COLOURS, predict(path, labels(*THREE)), strict=True):
        np.testing.assert_allclose(found, wanted(logits(colour)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("inside", ["Sigmoid", "Identity"])
@pytest.mark.parametrize("names", [("cat",), ("other", "cat")])
@pytest.mark.parametrize("squeeze", [False, True], ids=["(N, 1)", "(N,)"])
def test_one_output_is_a_probability_of_one_label_or_of_two(
    inside: str, names: tuple[str, ...], squeeze: bool, labels: Any, tmp_path: Path
) -> None:
    nodes = f"p = GlobalAveragePool (x)  f = Flatten (p)  g = MatMul (f, w_one)  s = {inside} (g)  "
    nodes += "y = Squeeze (s, middle)" if squeeze else "y = Identity (s)"
    path = save_graph(tmp_path / "g.onnx", "float[N] y" if squeeze else "float[N,1] y", nodes)
    for colour, found in zip(COLOURS, predict(path, labels(*names)), strict=True):
        [probability] = sigmoid(np.array(colour) / 255 @ ONE)
        np.testing.assert_allclose(found, [1 - probability, probability][-len(names) :], rtol=0, atol=1e-6)
    with pytest.raises(LabelsError, match="one output"):
        Classifier(str(path), labels=labels("a", "b", "c"), **PREPROCESSING)


def test_the_record_of_the_run_says_the_activation_and_two_classes(labels: Any, tmp_path: Path) -> None:
    nodes = "p = GlobalAveragePool (x)  f = Flatten (p)  y = MatMul (f, w_one)"
    path = save_graph(tmp_path / "g.onnx", "float[N,1] y", nodes)
    pair = Classifier(str(path), labels=labels("other", "cat"), **PREPROCESSING).run.to_dict()
    assert (pair["activation"], pair["num_classes"], pair.get("multi_label")) == ("sigmoid", 2, None)
    one = Classifier(str(path), labels=labels("cat"), **PREPROCESSING).run.to_dict()
    assert (one["activation"], one["num_classes"], one["multi_label"]) == ("sigmoid", 1, True)
    assert Classifier().run.to_dict()["activation"] == "softmax"


def test_small_logits_of_a_graph_are_not_taken_for_probabilities(labels: Any, tmp_path: Path) -> None:
    """Their values are within 0..1 for every image, and only the graph tells what they are."""
    small = {"w": np.float32(np.eye(3) * 0.3), "bias": np.float32([0.1, 0.2, 0.3])}
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Identity (g)", constants=small)
    for colour, found in zip(COLOURS, predict(path, labels(*THREE)), strict=True):
        wanted = softmax(np.array(colour) / 255 * 0.3 + [0.1, 0.2, 0.3])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_bytes_of_a_softmax_are_scaled(labels: Any, tmp_path: Path) -> None:
    nodes = LOGITS + "s = Softmax (g)  y = QuantizeLinear (s, byte, zero_byte)"
    path = save_graph(tmp_path / "g.onnx", "uint8[N,3] y", nodes)
    for colour, found in zip(COLOURS, predict(path, labels(*THREE)), strict=True):
        np.testing.assert_allclose(found, softmax(logits(colour)), rtol=0, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("outputs", "nodes", "words"),
    [
        ("float[N,3] y, int64[N,3] i", LOGITS + "y, i = TopK (g, three)", "sorted"),
        ("float[N,3] y, int64[N,3] i", LOGITS + "v, i = TopK (g, three)  y = Softmax (v)", "sorted"),
        ("int64[N] y", LOGITS + "y = ArgMax <axis = 1, keepdims = 0> (g)", "whole numbers"),
        ("float[N,1] y", LOGITS + "a = ArgMax <axis = 1> (g)  y = Cast <to = 1> (a)", "whole numbers"),
        ("uint8[N,3] y", LOGITS + "s = Sigmoid (g)  y = QuantizeLinear (s, byte, zero_byte)", "whole numbers"),
        ("bool[N,3] y", LOGITS + "y = Greater (g, half)", "whole numbers"),
        ("float[N,3] y", LOGITS + "y = LpNormalization <axis = 1, p = 2> (g)", "length 1"),
        ("float[N,3] y", LOGITS + "s = Sigmoid (g)  y = Mul (hundred, s)", "Sigmoid"),
        ("float[N,3] y", LOGITS + "s = Sigmoid (g)  y = Div (s, byte)", "Sigmoid"),
        ("float[N,3] y", LOGITS + "y = Softmax <axis = 0> (g)", "do not sum to 1"),
    ],
)
def test_a_graph_that_is_no_classifier_is_refused_in_plain_words(
    outputs: str, nodes: str, words: str, labels: Any, tmp_path: Path
) -> None:
    path = save_graph(tmp_path / "g.onnx", outputs, nodes)
    with pytest.raises(CheckpointError, match=words):
        Classifier(str(path), labels=labels(*(["cat"] if "[N,1]" in outputs else THREE)), **PREPROCESSING)


def test_a_value_outside_0_to_1_at_run_time_ends_the_run(labels: Any, tmp_path: Path) -> None:
    """Within 0..1 for the crops that show the meaning, but not for pure green."""
    nodes = "p = GlobalAveragePool (x)  f = Flatten (p)  m = MatMul (f, w)  y = Tanh (m)"
    steep = {"w": np.float32([[1, 0.5, 0.2], [-0.9, 0.1, 0.3], [1, 0.2, 0.1]])}
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", nodes, constants=steep)
    with Classifier(str(path), labels=labels(*THREE), **PREPROCESSING) as classifier:
        assert classifier.run.activation == "none"
        assert classifier.predict(image((255, 0, 0))).predictions
        with pytest.raises(CheckpointError, match="not a probability"):
            classifier.predict(image((0, 255, 0)))


def test_the_activation_can_be_chosen(labels: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Identity (g)")
    [found] = predict(path, labels(*THREE), images=COLOURS[:1], activation="sigmoid")
    np.testing.assert_allclose(found, sigmoid(logits(COLOURS[0])), atol=1e-6)
    with pytest.raises(CheckpointError, match="not a probability"):
        Classifier(str(path), labels=labels(*THREE), activation="none", **PREPROCESSING)
    with pytest.raises(UsageError, match="activation is 'relu'"):
        Classifier(str(path), labels=labels(*THREE), activation="relu", **PREPROCESSING)
    with pytest.raises(UsageError, match="groups add probabilities"):
        Classifier(str(path), labels=labels(*THREE), activation="sigmoid", groups="red", **PREPROCESSING)
    with caplog.at_level(logging.WARNING, "imgclassify"):
        soft = save_graph(tmp_path / "s.onnx", "float[N,3] y", LOGITS + "y = Softmax (g)")
        [twice] = predict(soft, labels(*THREE), images=COLOURS[:1], activation="softmax")
    np.testing.assert_allclose(twice, softmax(softmax(logits(COLOURS[0]))), atol=1e-6)
    assert "--activation softmax changes them" in caplog.text


def test_vectors_that_are_logits_all_the_same_can_be_used(labels: Any, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = LpNormalization <axis = 1, p = 2> (g)")
    [found] = predict(path, labels(*THREE), images=COLOURS[:1], activation="softmax")
    values = logits(COLOURS[0])
    np.testing.assert_allclose(found, softmax(values / np.linalg.norm(values)), atol=1e-6)


# Which output -----------------------------------------------------------------------------------------------

TWO_HEADS = ("float[N,3] aux, float[N,3] logits", LOGITS + "logits = Identity (g)  aux = Neg (g)")


def test_of_several_outputs_of_the_right_form_the_user_chooses(labels: Any, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "g.onnx", *TWO_HEADS)
    with pytest.raises(UsageError, match=r"aux \(float32 .*logits \(float32") as error:
        Classifier(str(path), labels=labels(*THREE), **PREPROCESSING)
    assert "--output-name" in str(error.value.hint)
    for name, sign in (("logits", 1), ("aux", -1)):
        [found] = predict(path, labels(*THREE), images=COLOURS[:1], output_name=name)
        np.testing.assert_allclose(found, softmax(sign * logits(COLOURS[0])), atol=1e-6)
    with pytest.raises(UsageError, match="no output 'head'"):
        Classifier(str(path), labels=labels(*THREE), output_name="head", **PREPROCESSING)
    with Classifier(str(path), labels=labels(*THREE), output_name="logits", **PREPROCESSING) as classifier:
        [vector] = [result.embedding for result in classifier.embed([image(COLOURS[0])])]
        np.testing.assert_allclose(vector, [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "nodes", "name"),
    [
        pytest.param(
            "float[N,3] feat, float[N,3] y",
            "p = GlobalAveragePool (x)  f = Flatten (p)  feat = Identity (f)  y = Gemm (f, w, bias)",
            None,
            id="as wide, but not told apart",
        ),
        pytest.param(
            "float[N,3] embedding, float[N,3] y",
            "p = GlobalAveragePool (x)  f = Flatten (p)  embedding = Identity (f)  y = Gemm (f, w, bias)",
            "y",
            id="features by name",
        ),
        pytest.param(
            "float[N,3,1,8] map, float[N,3] y",
            LOGITS + "map = ReduceMean <axes = [2], keepdims = 1> (x)  y = Identity (g)",
            "y",
            id="a map",
        ),
        pytest.param(
            "float[N,1] loss, float[N,3] y",
            LOGITS + "loss = ReduceMean <axes = [1], keepdims = 1> (g)  y = Identity (g)",
            "y",
            id="another width than the labels",
        ),
        pytest.param(
            "int64[N] label, float[N,3] y",
            LOGITS + "label = ArgMax <axis = 1, keepdims = 0> (g)  y = Identity (g)",
            "y",
            id="a class number",
        ),
    ],
)
def test_the_only_output_of_the_right_form_is_taken_and_named(
    outputs: str, nodes: str, name: str | None, labels: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_graph(tmp_path / "g.onnx", outputs, nodes)
    if name is None:
        with pytest.raises(UsageError, match="several outputs"):
            Classifier(str(path), labels=labels(*THREE), **PREPROCESSING)
        return
    for colour, found in zip(COLOURS, predict(path, labels(*THREE)), strict=True):
        np.testing.assert_allclose(found, softmax(logits(colour)), atol=1e-5)
    assert f"{name} is used" in caplog.text


@pytest.mark.parametrize(
    ("keys", "names", "order"),
    [
        pytest.param([0, 1, 2], THREE, [0, 1, 2], id="numbers"),
        pytest.param([30, 10, 20], THREE, [1, 2, 0], id="other numbers"),
        pytest.param(["red", "green", "blue"], THREE, [0, 1, 2], id="the labels, which text sorts otherwise"),
        pytest.param(["Blue", "red", "GREEN"], THREE, [1, 2, 0], id="the labels in another order and case"),
        pytest.param(["a", "b", "c"], THREE, [0, 1, 2], id="other names"),
        pytest.param(["9", "10", "11"], THREE, [0, 1, 2], id="numbers as text"),
    ],
)
def test_maps_of_probabilities_are_in_the_order_of_the_classes(
    keys: list[Any], names: tuple[str, ...], order: list[int], labels: Any, tmp_path: Path
) -> None:
    """`order[c]` is the column of the softmax that class c has."""
    kind, of = ("int64", "int64s") if isinstance(keys[0], int) else ("string", "strings")
    text = ", ".join(map(str, keys)) if kind == "int64" else ", ".join(f'"{key}"' for key in keys)
    path = save_graph(
        tmp_path / "g.onnx",
        f"int64[N] label, seq(map({kind}, float)) probability",
        LOGITS + "label = ArgMax <axis = 1, keepdims = 0> (g)  s = Softmax (g)  "
        f"probability = ai.onnx.ml.ZipMap <classlabels_{of} = [{text}]> (s)",
        check=False,
    )
    for colour, found in zip(COLOURS, predict(path, labels(*names)), strict=True):
        np.testing.assert_allclose(found, softmax(logits(colour))[order], atol=1e-6)


def test_the_names_in_a_map_are_the_labels_where_none_are_given(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "g.onnx",
        "string[N] label, seq(map(string, float)) probability",
        LOGITS + "s = Softmax (g)  probability = ai.onnx.ml.ZipMap <classlabels_strings = "
        '["zebra", "ape", "wolf"]> (s)  i = ArgMax <axis = 1, keepdims = 0> (g)  '
        'label = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1, 2], values_strings = ["zebra", "ape", "wolf"]> (i)',
        check=False,
    )
    with Classifier(str(path), top_k=3, **PREPROCESSING) as classifier:
        result = classifier.predict(image(COLOURS[1]))
    found = {each.label: each.probability for each in result.predictions}
    wanted = softmax(logits(COLOURS[1]))
    assert found == pytest.approx({"zebra": wanted[0], "ape": wanted[1], "wolf": wanted[2]}, abs=1e-6)


# Own models -------------------------------------------------------------------------------------------------


def test_an_added_model_keeps_its_output_and_its_activation(labels: Any, tmp_path: Path) -> None:
    from imgclassify.own_models import add_model

    path = save_graph(tmp_path / "g.onnx", *TWO_HEADS)
    given = {"labels": labels(*THREE), "output_name": "aux", "activation": "sigmoid", **PREPROCESSING}
    manifest = add_model(str(path), "heads", **given)
    assert (manifest.activation, manifest.output_name) == ("sigmoid", "aux")
    result = Classifier("heads").predict(image(COLOURS[0]))
    by_class = {each.class_index: each.probability for each in result.predictions}
    np.testing.assert_allclose([by_class[index] for index in range(3)], sigmoid(-logits(COLOURS[0])), atol=1e-6)
    percent = save_graph(tmp_path / "p.onnx", "float[N,3] y", LOGITS + "s = Softmax (g)  y = Mul (s, hundred)")
    assert add_model(str(percent), "percent", labels=labels(*THREE), **PREPROCESSING).activation == ""
    assert Classifier("percent").predict(image(COLOURS[0])).predictions[0].probability == pytest.approx(
        softmax(logits(COLOURS[0])).max(), abs=1e-6
    )


def test_an_operator_that_the_file_calls_by_a_known_name_is_not_believed(labels: Any, tmp_path: Path) -> None:
    """A function of the model is named Gemm, and computes a sigmoid."""
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", LOGITS + "y = Sigmoid (g)")
    model = onnx.load(path)
    model.functions.append(
        onnx.helper.make_function(
            "mine",
            "Gemm",
            ["a"],
            ["b"],
            [onnx.helper.make_node("Sigmoid", ["a"], ["b"])],
            [onnx.helper.make_opsetid("", 17)],
        )
    )
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Gemm", "mine"
    onnx.save(model, path)
    for colour, found in zip(COLOURS, predict(path, labels(*THREE)), strict=True):
        np.testing.assert_allclose(found, sigmoid(logits(colour)), atol=1e-6)


# Forms of probabilities and of other numbers -------------------------------------------------------------------


def test_a_sigmoid_that_is_written_out_gives_probabilities(labels: Any, tmp_path: Path) -> None:
    nodes = LOGITS + "n = Neg (g)  e = Exp (n)  d = Add (e, one)  y = Div (one, d)"
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", nodes, constants=CONSTANTS | {"one": np.float32(1)})
    for colour, found in zip(COLOURS, predict(path, labels(*THREE)), strict=True):
        np.testing.assert_allclose(found, sigmoid(logits(colour)), atol=1e-6)


def test_pooled_scores_within_0_and_1_are_logits_as_in_squeezenet(labels: Any, tmp_path: Path) -> None:
    nodes = "r = Relu (x)  p = GlobalAveragePool (r)  y = Flatten (p)"
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", nodes)
    for colour, found in zip(COLOURS, predict(path, labels(*THREE)), strict=True):
        np.testing.assert_allclose(found, softmax(np.array(colour) / 255), atol=1e-6)


DETECTED = "boxes = Identity (some)  scores = Reshape (g, flat)"


@pytest.mark.parametrize(
    ("outputs", "nodes", "said"),
    [
        ("float[M,4] boxes, float[M] scores", DETECTED, "not an image classifier.*boxes"),
        ("int8[N,3] y", "y = QuantizeLinear (g, tenth, zero_int8)", "quantized numbers.*scale"),
        ("uint8[N,3] y", "y = QuantizeLinear (g, tenth, middle_byte)", "whole numbers.*quantized"),
        ("int64[N,8,8] y", "y = ArgMax <axis = 1, keepdims = 0> (x)", "not an image classifier"),
    ],
)
def test_numbers_of_another_kind_are_named(
    outputs: str, nodes: str, said: str, labels: Any, tmp_path: Path
) -> None:
    constants = CONSTANTS | {
        "some": np.zeros((3, 4), np.float32),
        "flat": np.int64([-1]),
        "tenth": np.float32(0.1),
        "zero_int8": np.int8(0),
        "middle_byte": np.uint8(128),
    }
    path = save_graph(tmp_path / "g.onnx", outputs, LOGITS + nodes, constants=constants, check=False)
    with pytest.raises(CheckpointError, match=said):
        Classifier(str(path), labels=labels(*THREE), **PREPROCESSING)
