"""Features and spatial maps, from both engines, against what plain torch code gives for the same weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
import torchvision
from networks import seeded
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from imgclassify import catalog
from imgclassify.catalog import ModelManifest
from imgclassify.engines import FEATURE_MAP, FEATURES, LOGITS
from imgclassify.engines.choice import create_engine
from imgclassify.engines.onnxruntime_engine import OnnxruntimeEngine
from imgclassify.engines.torch_engine import TorchEngine
from imgclassify.errors import CheckpointError, ManifestError, OutputError, UsageError
from imgclassify.graphs.graph import find_graph
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, PreprocessOverrides
from imgclassify.runner import ModelRunner, RunnerOptions

ALL = (LOGITS, FEATURES, FEATURE_MAP)
TOLERANCE = 1e-5
"""The largest difference, as a fraction of the largest value."""

MAPS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "alexnet": lambda network, images: network.features(images),
    "convnext": lambda network, images: network.features(images),
    "densenet": lambda network, images: network.features(images).relu(),
    "efficientnet": lambda network, images: network.features(images),
    "googlenet": lambda network, images: traced(network, "inception5b", images),
    "inception": lambda network, images: traced(network, "Mixed_7c", images),
    "maxvit": lambda network, images: nn.Sequential(network.stem, *network.blocks)(images),
    "mnasnet": lambda network, images: network.layers(images),
    "mobilenetv2": lambda network, images: network.features(images),
    "mobilenetv3": lambda network, images: network.features(images),
    "regnet": lambda network, images: network.trunk_output(network.stem(images)),
    "resnet": lambda network, images: traced(network, "layer4", images),
    "shufflenetv2": lambda network, images: traced(network, "conv5", images),
    "squeezenet": lambda network, images: network.features(images),
    "swin_transformer": lambda network, images: network.permute(network.norm(network.features(images))),
    "vgg": lambda network, images: network.features(images),
}
"""Family → its last spatial map, in torchvision's own code."""
SMALLEST = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet0_5",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3": "mobilenet_v3_small",
    "regnet": "regnet_y_400mf",
    "resnet": "resnet18",
    "shufflenetv2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "swin_transformer": "swin_t",
    "vgg": "vgg11",
    "vision_transformer": "vit_b_16",
}
FLOAT = sorted(torchvision.models.list_models(module=torchvision.models))
WITHOUT_LINEAR_HEAD = ("squeezenet1_0", "squeezenet1_1")
"""A ReLU and the pooling follow their last layer."""


def traced(network: nn.Module, node: str, images: torch.Tensor) -> torch.Tensor:
    return create_feature_extractor(network, {node: "map"}, suppress_diff_warning=True)(images)["map"]


def family(architecture: str) -> str:
    return torchvision.models.get_model_builder(architecture).__module__.rpartition(".")[2]


def crops(count: int, side: int = 224) -> np.ndarray:
    """Noise of several grains, so that the crops differ in their features."""
    rng = np.random.default_rng(side)
    made = []
    for index in range(count):
        block = (1, 8, 32)[index % 3]
        coarse = rng.integers(0, 256, (side // block + 1, side // block + 1, 3), np.uint8)
        made.append(coarse.repeat(block, 0).repeat(block, 1)[:side, :side])
    return np.stack(made)


def normalized(pixels: np.ndarray, manifest: ModelManifest) -> torch.Tensor:
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (manifest.preprocess.mean, manifest.preprocess.std)
    )
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


def assert_close(found: np.ndarray, wanted: np.ndarray, exact: Callable[[], np.ndarray]) -> None:
    """To TOLERANCE, or to what float32 can do: the deepest networks round more.

    Args:
        exact: computes the wanted values in float64.
    """
    if difference(found, wanted) >= TOLERANCE:
        reference = exact()
        rounding = np.abs(wanted - reference).max()
        assert np.abs(found - reference).max() < 3 * rounding < 1e-3 * np.abs(reference).max()


def expected(network: nn.Module, architecture: str, images: torch.Tensor) -> dict[str, np.ndarray]:
    """The outputs by plain torch code: the features are what remains if the last linear layer does nothing."""
    found = {}
    with torch.inference_mode():
        found[LOGITS] = network(images)
        if family(architecture) in MAPS:
            found[FEATURE_MAP] = MAPS[family(architecture)](network, images)
        if architecture in WITHOUT_LINEAR_HEAD:
            found[FEATURES] = found[FEATURE_MAP].mean(dim=(2, 3))
        else:
            name = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
            head = network.get_submodule(name)
            network.set_submodule(name, nn.Identity())
            found[FEATURES] = network(images)
            network.set_submodule(name, head)
    return {name: value.numpy() for name, value in found.items()}


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def build(architecture: str, **options: Any) -> nn.Module:
    if architecture in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": True, "transform_input": True}
    return seeded(architecture, **options)


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name in SMALLEST.values() else pytest.mark.slow) for name in FLOAT],
)
def test_all_engines_give_the_features_of_torchvision(architecture: str, tmp_path: Path) -> None:
    manifest = catalog.find_model(architecture)
    options = {"image_size": manifest.preprocess.crop_size[0]} if family(architecture).startswith("vision") else {}
    network = build(architecture, **options)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    pixels = crops(3, manifest.preprocess.crop_size[0])
    wanted = expected(network, architecture, normalized(pixels, manifest))
    outputs = tuple(name for name in ALL if name in wanted)

    def exact() -> dict[str, np.ndarray]:
        images = normalized(pixels, manifest).double()
        return expected(copy.deepcopy(network).double(), architecture, images)

    loaded = load_network(str(tmp_path / "weights.safetensors"), LoadOptions(arch=architecture, with_labels=False))
    for engine in ("onnxruntime", "openvino", "torch"):
        built = create_engine(
            loaded, engine=engine, device="cpu", dtype="float32", num_images=None, outputs=outputs
        ).engine
        found = built.infer(pixels)
        assert found.keys() == set(outputs)
        for name in outputs:
            assert_close(found[name], wanted[name], lambda name=name: exact()[name])  # type: ignore[misc]
        if architecture in WITHOUT_LINEAR_HEAD:
            with pytest.raises(OutputError, match="linear"):
                built.read_head()
            continue
        head = built.read_head()
        assert difference(found[FEATURES] @ head.weight.T + head.bias, found[LOGITS]) < TOLERANCE


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_a_network_without_a_spatial_map_says_so(engine: str, tmp_path: Path) -> None:
    save_file(seeded("vit_b_32").state_dict(), tmp_path / "weights.safetensors")
    network = load_network(str(tmp_path / "weights.safetensors"), LoadOptions(arch="vit_b_32", with_labels=False))
    with pytest.raises(OutputError, match="no spatial map") as raised:
        create_engine(
            network, engine=engine, device="cpu", dtype="float32", num_images=None, outputs=(FEATURE_MAP,)
        )
    assert raised.value.hint


def test_who_asks_for_logits_alone_gets_the_graph_as_it_is(tmp_path: Path) -> None:
    manifest = catalog.find_model("resnet18")
    graph = find_graph(manifest, manifest.preprocess)
    assert graph is not None
    state_dict = {name: tensor.numpy() for name, tensor in seeded("resnet18").state_dict().items()}
    engine = OnnxruntimeEngine(
        lambda config: graph.open_session(
            state_dict, manifest.preprocess, source_name="it", num_classes=1000, config=config
        ),
        manifest.preprocess,
        name="it",
    )
    assert [output.name for output in engine._session.get_outputs()] == ["logits"]
    assert engine.infer(crops(1)).keys() == {LOGITS}


def test_an_unknown_output_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown output 'tokens'"):
        ModelRunner.load("resnet18", LoadOptions(), RunnerOptions(outputs=("tokens",)))


def test_the_embedded_model_gives_timms_features() -> None:
    """With its real weights, on all engines."""
    loaded = load_network("efficientnet_lite0", LoadOptions(offline=True))
    assert loaded.backends.build_torch is not None
    network = loaded.backends.build_torch().eval()
    pixels = crops(4)
    images = normalized(pixels, catalog.find_model("efficientnet_lite0"))
    with torch.inference_mode():
        feature_map = network.forward_features(images)
        features = network.forward_head(feature_map, pre_logits=True)
    for engine in ("onnxruntime", "openvino", "torch"):
        runner = ModelRunner(loaded, RunnerOptions(engine=engine, device="cpu", outputs=ALL))
        found = runner.engine.infer(pixels)
        assert difference(found[FEATURES], features.numpy()) < TOLERANCE
        assert difference(found[FEATURE_MAP], feature_map.numpy()) < TOLERANCE
        weight, bias = runner.read_head()
        assert (weight.shape, bias.shape) == ((1000, 1280), (1000,))
        assert difference(found[FEATURES] @ weight.T + bias, found[LOGITS]) < TOLERANCE
        [image] = runner.run([pixels[0]])
        assert image.arrays is not None
        assert {name: array.shape for name, array in image.arrays.items()} == {
            LOGITS: (1000,),
            FEATURES: (1280,),
            FEATURE_MAP: (1280, 7, 7),
        }


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (512, 2, 2)),
        ("swin_tiny_patch4_window7_224", (768, 2, 2)),
        ("mobilenetv3_small_050", (288, 2, 2)),
        ("vit_tiny_patch16_224", None),
        ("levit_128s", None),
    ],
)
def test_timms_networks_give_what_timms_methods_give(name: str, shape: tuple[int, ...] | None) -> None:
    """Maps have their channels first, also of networks that compute with channels last."""
    torch.manual_seed(0)
    size = 224 if name.startswith("levit") else 64
    network = timm.create_model(name, num_classes=5, **({} if size == 224 or shape else {"img_size": size})).eval()
    if name.startswith("swin"):
        network = timm.create_model(name, num_classes=5, img_size=size).eval()
    spec = catalog.find_model("resnet18").preprocess
    outputs = ALL if shape else (LOGITS, FEATURES)
    engine = TorchEngine(lambda: network, spec, device="cpu", outputs=outputs)
    pixels = crops(2, size)
    images = normalized(pixels, catalog.find_model("resnet18"))
    with torch.inference_mode():
        last = network.forward_features(images)
        wanted = {LOGITS: network(images), FEATURES: network.forward_head(last, pre_logits=True)}
        if shape:
            wanted[FEATURE_MAP] = last.permute(0, 3, 1, 2) if last.shape[-1] == shape[0] else last
    found = engine.infer(pixels)
    assert found.keys() == set(outputs)
    for output in outputs:
        assert difference(found[output], wanted[output].numpy()) < TOLERANCE
    if shape:
        assert found[FEATURE_MAP].shape[1:] == shape
    else:
        with pytest.raises(OutputError, match="no spatial map"):
            TorchEngine(lambda: network, spec, device="cpu", outputs=ALL).infer(pixels)


def test_a_timm_network_without_a_classifier_gives_features_alone() -> None:
    network = timm.create_model("resnet18", num_classes=0).eval()
    spec = catalog.find_model("resnet18").preprocess
    pixels = crops(2, 64)
    with torch.inference_mode():
        wanted = network(normalized(pixels, catalog.find_model("resnet18"))).numpy()
    engine = TorchEngine(lambda: network, spec, device="cpu", outputs=(FEATURES,))
    found = engine.infer(pixels)
    assert found.keys() == {FEATURES}
    assert difference(found[FEATURES], wanted) < TOLERANCE


class Unnamed(nn.Module):
    """A network of somebody's own: no manifest names its layers, and another linear layer comes last."""

    def __init__(self, *, plain: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10), nn.ReLU())
        self.head = nn.Linear(10, 3)
        self.other = nn.Linear(10, 3)
        self.plain = plain

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.layers(images)
        logits = self.head(features)
        self.other(features)
        return logits if self.plain else logits + self.other(features)


def test_the_head_of_an_unnamed_network_is_the_layer_that_returns_its_logits() -> None:
    torch.manual_seed(0)
    network = Unnamed().eval()
    spec = catalog.find_model("resnet18").preprocess
    engine = TorchEngine(lambda: network, spec, device="cpu", outputs=(FEATURES,))
    pixels = crops(3, 32)
    with torch.inference_mode():
        wanted = network.layers(normalized(pixels, catalog.find_model("resnet18"))).numpy()
    assert difference(engine.infer(pixels)[FEATURES], wanted) < TOLERANCE
    np.testing.assert_array_equal(engine.read_head().weight, network.head.weight.detach().numpy())


def test_features_that_cannot_be_found_are_not_guessed() -> None:
    spec = catalog.find_model("resnet18").preprocess
    engine = TorchEngine(lambda: Unnamed(plain=False), spec, device="cpu", outputs=(FEATURES,))
    with pytest.raises(OutputError, match="cannot be found") as raised:
        engine.infer(crops(1, 32))
    assert raised.value.hint


@pytest.mark.filterwarnings("ignore")  # torch deprecates its quantized tensors with every use
def test_quantized_networks_give_features(tmp_path: Path) -> None:
    """In torch alone, as real numbers."""
    from torchvision.models import quantization

    torch.manual_seed(0)
    network = quantization.resnet18(quantize=True).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    loaded = load_network(str(tmp_path / "weights.pth"), LoadOptions(arch="quantized_resnet18", with_labels=False))
    engine = create_engine(
        loaded, engine="auto", device="auto", dtype="float32", num_images=None, outputs=ALL
    ).engine
    found = engine.infer(crops(2))
    assert found[FEATURES].shape == (2, 512)
    assert difference(found[FEATURE_MAP].mean(axis=(2, 3)), found[FEATURES]) < 0.1  # its pooling rounds to 8 bits


# A user's own graph -----------------------------------------------------------------------------------------

TINY = LoadOptions(
    with_labels=False,
    overrides=PreprocessOverrides(
        resize_size=8, crop_size=(8, 8), interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    ),
)
WEIGHT = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)
MIX = np.random.default_rng(2).standard_normal((5, 3, 3, 3)).astype(np.float32)


def constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def body() -> list[onnx.NodeProto]:
    """A convolution, a ReLU and a pooling: the map is `map`, the features are `pooled`."""
    return [
        helper.make_node("Conv", ["images", "mix"], ["mixed"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["mixed"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["averaged"]),
        helper.make_node("Flatten", ["averaged"], ["pooled"]),
    ]


def save_graph(
    path: Path, nodes: list[onnx.NodeProto], outputs: dict[str, int], **constants: Any
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Saves a graph. Returns crops, and the values of the body for them, computed by torch."""
    graph = helper.make_graph(
        [*body(), *nodes],
        "mine",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", 3, 8, 8))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", width)) for name, width in outputs.items()],
        [constant("mix", MIX), *(constant(name, value) for name, value in constants.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    pixels = crops(3, 8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    feature_map = nn.functional.conv2d(images, torch.from_numpy(MIX), padding=1).relu()
    return pixels, {"map": feature_map.numpy(), "pooled": feature_map.mean(dim=(2, 3)).numpy()}


def run_graph(path: Path, outputs: tuple[str, ...] = ALL) -> Any:
    return create_engine(
        load_network(str(path), TINY),
        engine="auto",
        device="cpu",
        dtype="float32",
        num_images=None,
        outputs=outputs,
    ).engine


HEADS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "gemm": ([helper.make_node("Gemm", ["pooled", "w", "b"], ["y"], transB=1)], {"w": WEIGHT, "b": BIAS}),
    "gemm of a transposed weight": (
        [helper.make_node("Gemm", ["pooled", "w", "b"], ["y"])],
        {"w": WEIGHT.T, "b": BIAS},
    ),
    "matmul and add": (
        [helper.make_node("MatMul", ["pooled", "w"], ["m"]), helper.make_node("Add", ["b", "m"], ["y"])],
        {"w": WEIGHT.T, "b": BIAS},
    ),
    "matmul of a weight transposed in the graph": (
        [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["pooled", "t"], ["y"])],
        {"w": WEIGHT},
    ),
    "1×1 convolution": (
        [
            helper.make_node("Conv", ["averaged", "w", "b"], ["c"]),
            helper.make_node("Flatten", ["c"], ["y"]),
        ],
        {"w": WEIGHT[:, :, None, None], "b": BIAS},
    ),
    "softmax after it": (
        [
            helper.make_node("Gemm", ["pooled", "w", "b"], ["g"], transB=1),
            helper.make_node("Softmax", ["g"], ["y"]),
        ],
        {"w": WEIGHT, "b": BIAS},
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_head_of_a_users_graph_is_found(head: str, tmp_path: Path) -> None:
    nodes, constants = HEADS[head]
    pixels, wanted = save_graph(tmp_path / "mine.onnx", nodes, {"y": 4}, **constants)
    engine = run_graph(tmp_path / "mine.onnx")
    found = engine.infer(pixels)
    assert difference(found[FEATURES], wanted["pooled"]) < TOLERANCE
    assert difference(found[FEATURE_MAP], wanted["map"]) < TOLERANCE
    weight, bias = engine.read_head()
    np.testing.assert_array_equal(weight, WEIGHT)
    np.testing.assert_array_equal(bias, BIAS if "b" in constants else np.zeros(4))
    if "softmax" in head:
        logits = wanted["pooled"] @ WEIGHT.T + BIAS
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert difference(found[LOGITS], probabilities.astype(np.float32)) < TOLERANCE
    else:
        assert difference(wanted["pooled"] @ weight.T + bias, found[LOGITS]) < TOLERANCE


@pytest.mark.parametrize("order", [("y", "embedding"), ("embedding", "y")])
def test_a_second_output_with_a_usual_name_holds_the_features(order: tuple[str, str], tmp_path: Path) -> None:
    """Whatever the order, and although the network's logits come from another value."""
    nodes = [
        helper.make_node("Sigmoid", ["pooled"], ["embedding"]),
        helper.make_node("MatMul", ["pooled", "w"], ["y"]),
    ]
    widths = {"y": 4, "embedding": 5}
    pixels, wanted = save_graph(tmp_path / "mine.onnx", nodes, {name: widths[name] for name in order}, w=WEIGHT.T)
    found = run_graph(tmp_path / "mine.onnx").infer(pixels)
    assert difference(found[FEATURES], 1 / (1 + np.exp(-wanted["pooled"]))) < TOLERANCE
    assert difference(found[LOGITS], wanted["pooled"] @ WEIGHT.T) < TOLERANCE


def test_a_graph_of_features_alone_has_no_logits(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["pooled", "w"], ["image_embeds"])]
    pixels, wanted = save_graph(tmp_path / "mine.onnx", nodes, {"image_embeds": 4}, w=WEIGHT.T)
    runner = ModelRunner(load_network(str(tmp_path / "mine.onnx"), TINY), RunnerOptions(outputs=(FEATURES,)))
    assert runner.num_classes == 0
    found = runner.engine.infer(pixels)
    assert found.keys() == {FEATURES}
    assert difference(found[FEATURES], wanted["pooled"] @ WEIGHT.T) < TOLERANCE


def test_two_heads_that_are_added_have_no_single_layer(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["pooled", "w"], ["one"]),
        helper.make_node("Relu", ["pooled"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["two"]),
        helper.make_node("Add", ["one", "two"], ["y"]),
    ]
    save_graph(tmp_path / "mine.onnx", nodes, {"y": 4}, w=WEIGHT.T)
    with pytest.raises(OutputError, match=re.escape("mine.onnx")) as raised:
        run_graph(tmp_path / "mine.onnx", (FEATURES,))
    assert "second output named 'features'" in str(raised.value.hint)
    assert run_graph(tmp_path / "mine.onnx", (LOGITS,)).infer(crops(1, 8)).keys() == {LOGITS}


def test_features_that_are_no_vectors_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["pooled", "w"], ["y"]),
        helper.make_node("Unsqueeze", ["pooled", "axis"], ["features"]),
    ]
    save_graph(tmp_path / "mine.onnx", nodes, {"y": 4}, w=WEIGHT.T, axis=np.array([1]))
    model = onnx.load(tmp_path / "mine.onnx")
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ("n", 1, 5)))
    onnx.save(model, tmp_path / "mine.onnx")
    with pytest.raises(OutputError, match=re.escape("(4, 1, 5), not (N, D)")):
        run_graph(tmp_path / "mine.onnx", (FEATURES,))


def test_weights_in_another_file_are_found(tmp_path: Path) -> None:
    nodes, constants = HEADS["gemm"]
    pixels, wanted = save_graph(tmp_path / "mine.onnx", nodes, {"y": 4}, **constants)
    model = onnx.load(tmp_path / "mine.onnx")
    onnx.save(model, tmp_path / "mine.onnx", save_as_external_data=True, location="mine.data", size_threshold=0)
    assert (tmp_path / "mine.data").stat().st_size > 0
    found = run_graph(tmp_path / "mine.onnx").infer(pixels)
    assert difference(found[FEATURES], wanted["pooled"]) < TOLERANCE


def test_a_network_that_is_no_classifier_is_still_refused(tmp_path: Path) -> None:
    save_graph(tmp_path / "mine.onnx", [helper.make_node("Identity", ["map"], ["y"])], {})
    model = onnx.load(tmp_path / "mine.onnx")
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 5, "h", "w")))
    onnx.save(model, tmp_path / "mine.onnx")
    with pytest.raises(CheckpointError, match="not an image classifier"):
        run_graph(tmp_path / "mine.onnx", (LOGITS,))


# The manifests ------------------------------------------------------------------------------------------------


def test_every_manifest_of_a_family_names_the_layers_that_are_tested_above() -> None:
    wanted = {name: catalog.find_model(smallest).layers for name, smallest in SMALLEST.items()}
    for manifest in catalog.load_manifests():
        if manifest.provider == "timm":
            assert manifest.layers is None
        elif manifest.provider == "torchvision":  # those of imgclassify are in hub/test_cifar_networks.py
            assert manifest.layers is not None
            assert manifest.layers == wanted[family(manifest.architecture.removeprefix("quantized_"))]


@pytest.mark.parametrize(
    "layers",
    [
        '{ head = "fc" }',
        '{ head = "", feature_map = "" }',
        '{ head = "fc", feature_map = "avgpool:input" }',
        '"fc"',
    ],
)
def test_layers_that_are_not_understood_are_refused(layers: str) -> None:
    text = (Path(__file__).parent.parent / "models" / "alexnet.toml").read_text("utf-8")
    changed, count = re.subn(r"(?m)^layers = .*$", f"layers = {layers}", text)
    assert count == 1
    with pytest.raises(ManifestError, match="layers"):
        catalog.parse_manifests(changed, "mine.toml")


def test_a_layer_that_the_network_lacks_is_told() -> None:
    spec = catalog.find_model("resnet18").preprocess
    with pytest.raises(OutputError, match="nowhere"):
        TorchEngine(
            lambda: seeded("resnet18"),
            spec,
            device="cpu",
            outputs=(FEATURES,),
            layers=catalog.FeatureLayers("nowhere", "avgpool"),
        )
