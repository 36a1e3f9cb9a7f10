"""Networks as weight-free graphs, and the graphs that ship, held against torch, torchvision and onnx's reader."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import namedtuple
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from torch import nn

from imgclassify.errors import CheckpointError, UnavailableError
from imgclassify.graphs.export import export_graph
from imgclassify.hub import cifar_networks

REPOSITORY = Path(__file__).parent.parent
GRAPHS = REPOSITORY / "models" / "graphs"
NAMES = sorted(path.name for path in GRAPHS.iterdir())
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EMBEDDED = "tf_efficientnet_lite0-224.onnx"
OWN = {f"cifar_{name}-32.onnx" for name in ("net", "resnet20", "resnet32", "resnet44", "resnet56")}
"""Architectures that no library builds: tests/hub/test_cifar_networks.py compares them with references."""
FAMILIES = [
    "alexnet-224.onnx",
    "convnext_tiny-224.onnx",
    "densenet121-224.onnx",
    "efficientnet_b0-224.onnx",
    "efficientnet_v2_s-384.onnx",
    "googlenet-224.onnx",
    "inception_v3-299.onnx",
    "maxvit_t-224.onnx",
    "mnasnet0_5-224.onnx",
    "mobilenet_v2-224.onnx",
    "mobilenet_v3_small-224.onnx",
    "regnet_x_400mf-224.onnx",
    "regnet_y_400mf-224.onnx",
    "resnet50-224.onnx",
    "resnext50_32x4d-224.onnx",
    "swin_t-224.onnx",
    "swin_v2_t-256.onnx",
    "vgg11_bn-224.onnx",
    "vit_b_32-224.onnx",
    "wide_resnet50_2-224.onnx",
    EMBEDDED,
]


@cache
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_graphs", REPOSITORY / "tools" / "make_graphs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metadata(model: onnx.ModelProto) -> dict[str, Any]:
    [entry] = model.metadata_props
    assert entry.key == "imgclassify"
    return json.loads(entry.value)


def external(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


def check(model: onnx.ModelProto) -> None:
    """onnx's own check of every node and shape; parameters as inputs, since they have no values."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for name, tensor in external(copy).items():
        copy.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        copy.graph.initializer.remove(tensor)
    onnx.checker.check_model(copy, full_check=True)


def logits(graph: bytes, network: nn.Module, crops: np.ndarray) -> np.ndarray:
    """What onnxruntime answers with the network's own parameters in the graph."""
    given = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (MEAN, STD))
    given["normalize.scale"] = (1 / (255 * std)).astype(np.float32)
    given["normalize.bias"] = (-mean / std).astype(np.float32)
    names = list(external(onnx.ModelProto.FromString(graph)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(given[name].copy(order="C")) for name in names]
    options.add_external_initializers(names, values)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"crops": crops})[0]


def expected(network: nn.Module, crops: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(((crops / 255 - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        output = network.eval()(images)
    return getattr(output, "logits", output).numpy()


def crops(count: int, size: int) -> np.ndarray:
    """Coarse random images with noise: neither flat nor noise alone."""
    generator = np.random.default_rng(count)
    side = -(-size // 16)
    coarse = generator.integers(20, 236, (count, side, side, 3)).repeat(16, axis=1).repeat(16, axis=2)
    coarse = coarse[:, :size, :size]
    return (coarse + generator.integers(-20, 20, coarse.shape)).astype(np.uint8)


def assert_answers_like(network: nn.Module, graph: bytes, size: int) -> None:
    for count in (1, 3):
        wanted = expected(network, crops(count, size))
        assert np.ptp(wanted) > 0
        answer = logits(graph, network, crops(count, size))
        np.testing.assert_allclose(answer, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))


# ------------------------------------------------------------------------------------------------ shipped


def num_classes(file_name: str) -> int:
    return 10 if file_name in OWN else 1000


def build(file_name: str, num_classes: int) -> nn.Module:
    """The network of a shipped graph, by its builder's own interface and from the graph's metadata alone."""
    details = metadata(onnx.load(GRAPHS / file_name, load_external_data=False))
    torch.manual_seed(0)
    options = {"num_classes": num_classes, **details["options"]}
    if details["provider"] == "imgclassify":
        return cifar_networks.create_network(details["architecture"], **options)
    if details["provider"] == "timm":
        return timm.create_model(details["architecture"], **options)
    return torchvision.models.get_model(details["architecture"], weights=None, **options)


def shapes(file_name: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Of the state_dict; nothing is written to the parameters, which have gigabytes."""
    fillers = {name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")}
    with patch.multiple(nn.init, **{name: lambda tensor, *_, **__: tensor for name in fillers}):
        network = build(file_name, num_classes)
    return {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }


def seeded(file_name: str, num_classes: int) -> nn.Module:
    """With parameters none of which is zero, as fresh batch norms, biases and some heads are."""
    network = build(file_name, num_classes)
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim < 2 or not tensor.any():
                tensor += torch.empty_like(tensor).uniform_(-0.05, 0.05)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
    return network.eval()


def test_there_is_a_graph_for_each_architecture_and_crop_size_and_no_other_file() -> None:
    wanted = {EMBEDDED}
    for architecture in torchvision.models.list_models(module=torchvision.models):
        for weights in torchvision.models.get_model_weights(architecture):
            if weights.meta["categories"] is not None:
                wanted.add(f"{architecture}-{weights.transforms().crop_size[0]}.onnx")
    assert set(NAMES) == wanted | OWN


@pytest.mark.parametrize("file_name", NAMES)
def test_a_shipped_graph_has_the_agreed_form(file_name: str) -> None:
    model = onnx.load(GRAPHS / file_name, load_external_data=False)
    details = metadata(model)
    size = details["crop_size"]
    assert file_name == f"{details['architecture']}-{size}.onnx"
    [given], [answer] = model.graph.input, model.graph.output
    assert given == onnx.helper.make_tensor_value_info("crops", onnx.TensorProto.UINT8, ("n", size, size, 3))
    assert answer == onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ("n", "classes"))
    parameters = external(model)
    assert list(parameters["normalize.scale"].dims) == list(parameters["normalize.bias"].dims) == [1, 3, 1, 1]
    for tensor in parameters.values():
        assert [(entry.key, entry.value) for entry in tensor.external_data] == [("location", file_name)]
        assert not tensor.raw_data
        assert not tensor.float_data
    assert details["heads"]
    assert all(parameters[name].dims[0] == num_classes(file_name) for name in details["heads"])
    assert parameters.keys().isdisjoint(details["unused"])
    check(model)
    assert not model.graph.value_info
    assert not model.producer_version  # another release of torch makes no difference
    assert not any(node.name or node.doc_string or node.metadata_props or node.domain for node in model.graph.node)


@pytest.mark.parametrize("file_name", NAMES)
def test_the_parameters_of_a_shipped_graph_are_the_builders(file_name: str) -> None:
    model = onnx.load(GRAPHS / file_name, load_external_data=False)
    details = metadata(model)
    parameters = external(model)
    wanted, others = shapes(file_name, num_classes(file_name)), shapes(file_name, 7)
    assert set(details["unused"]) <= wanted.keys()
    for name in details["unused"]:
        del wanted[name]
    found = {name: tuple(tensor.dims) for name, tensor in parameters.items() if not name.startswith("normalize.")}
    assert found == wanted
    assert details["heads"] == [name for name in wanted if wanted[name] != others[name]]


def test_only_auxiliary_heads_are_unused() -> None:
    unused = {
        name.partition("-")[0]: {parameter.partition(".")[0] for parameter in details["unused"]}
        for name in NAMES
        if (details := metadata(onnx.load(GRAPHS / name, load_external_data=False)))["unused"]
    }
    assert unused == {"googlenet": {"aux1", "aux2"}, "inception_v3": {"AuxLogits"}}


@pytest.mark.parametrize(
    "file_name",
    [
        "squeezenet1_1-224.onnx",
        "shufflenet_v2_x0_5-224.onnx",
        *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES),
    ],
)
@pytest.mark.parametrize("num_classes", [1000, 7])
def test_a_shipped_graph_answers_like_torch_for_any_number_of_classes(file_name: str, num_classes: int) -> None:
    graph = tool().with_classes((GRAPHS / file_name).read_bytes(), num_classes)
    network = seeded(file_name, num_classes)
    assert_answers_like(network, graph, metadata(onnx.ModelProto.FromString(graph))["crop_size"])


@pytest.mark.parametrize(
    "names",
    [
        ["squeezenet1_1-224"],
        pytest.param([Path(name).stem for name in FAMILIES], marks=pytest.mark.slow),
    ],
    ids=["one", "families"],
)
def test_a_shipped_graph_made_anew_is_unchanged(names: list[str]) -> None:
    """Fails with a torchvision or timm whose network is another, and with a torch whose exporter writes another
    graph. Then make them anew, and see in the slow tests that they answer as before."""
    command = [sys.executable, str(REPOSITORY / "tools" / "make_graphs.py"), "--check", "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_tool_says_which_graph_differs_or_is_not_wanted_and_check_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("alexnet-224.onnx", "alexnet-64.onnx"):
        (tmp_path / name).write_bytes(b"old")
    monkeypatch.setattr(tool(), "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_graphs.py", "--check", "--only", "alexnet"])
    assert tool().main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "differs: models/graphs/alexnet-224.onnx",
        "not wanted: models/graphs/alexnet-64.onnx",
    ]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "alexnet-224.onnx": b"old",
        "alexnet-64.onnx": b"old",
    }
    monkeypatch.setattr(sys, "argv", ["make_graphs.py", "--only", "alexnet-224"])
    assert tool().main() == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "alexnet-224.onnx": (GRAPHS / "alexnet-224.onnx").read_bytes()
    }


# ------------------------------------------------------------------------------------------------ export


class Small(nn.Module):
    """Has all that makes a state_dict differ from a graph."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convolution = nn.Conv2d(3, 4, 3, bias=False)
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.training_only = nn.Linear(4, 5)
        self.kept = nn.Buffer(torch.full((4,), 2.0))
        self.hidden = nn.Buffer(torch.arange(4.0), persistent=False)
        self.plain = torch.tensor([1.0, 2.0, 4.0, 8.0])
        self.head = nn.Linear(4, 5)

    def forward(self, images: torch.Tensor) -> Any:
        pooled = self.convolution(images).relu().mean((2, 3))
        mixed = self.norm(self.second(self.first(pooled).relu()))
        logits = self.head(mixed * self.kept + self.hidden * self.plain)
        return namedtuple("Answers", "logits extra")(logits, self.training_only(mixed)) if self.training else logits


def small_graph(network: nn.Module, size: int = 24) -> bytes:
    return export_graph(
        network, crop_size=size, file_name="small.onnx", heads=["training_only.weight", "head.weight"]
    )


def test_a_network_of_any_making_answers_like_torch() -> None:
    assert_answers_like(Small(), small_graph(Small()), 24)


def test_each_parameter_keeps_its_name_and_leaves_its_values_behind() -> None:
    model = onnx.ModelProto.FromString(small_graph(Small()))
    check(model)
    shapes = {name: tuple(tensor.dims) for name, tensor in external(model).items()}
    state_dict = Small().state_dict()
    # Of two names of one tensor, either may stand in the graph.
    tied = {"first.weight", "second.weight"}
    [shown] = tied & shapes.keys()
    unused = [*sorted(tied - {shown}), "training_only.weight", "training_only.bias"]
    assert shapes == {
        "normalize.scale": (1, 3, 1, 1),
        "normalize.bias": (1, 3, 1, 1),
        **{
            name: tuple(tensor.shape)
            for name, tensor in state_dict.items()
            if name not in unused and name != "norm.num_batches_tracked"
        },
    }
    assert metadata(model) == {"crop_size": 24, "heads": ["head.weight"], "unused": unused}


def test_the_same_network_gives_the_same_bytes_whatever_its_weights_and_their_layout() -> None:
    laid_otherwise = Small(1).to(memory_format=torch.channels_last).requires_grad_(False)
    assert not laid_otherwise.convolution.weight.is_contiguous()
    assert small_graph(laid_otherwise) == small_graph(Small(0).train())


def test_what_the_caller_says_stands_in_the_metadata() -> None:
    graph = export_graph(
        Small(), crop_size=16, file_name="x.onnx", metadata={"architecture": "small", "options": {"é": 1}}
    )
    found = metadata(onnx.ModelProto.FromString(graph))
    assert (found["architecture"], found["options"], found["crop_size"]) == ("small", {"é": 1}, 16)


def test_attention_is_written_in_standard_operators() -> None:
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patches = nn.Conv2d(3, 16, 8, 8)
            self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.query = nn.Linear(16, 48)
            self.head = nn.Linear(16, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.encoder(self.patches(images).flatten(2).mT)
            query, key, value = self.query(tokens).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
            return self.head(mixed.transpose(1, 2).reshape(tokens.shape).mean(1))

    network = Attentive().requires_grad_(False)
    assert_answers_like(network, small_graph(network), 24)
    assert torch.backends.mha.get_fastpath_enabled()


def test_nothing_is_printed_and_no_warning_raised(capfd: pytest.CaptureFixture[str]) -> None:
    small_graph(Small())
    with pytest.raises(CheckpointError):
        small_graph(Branching())
    assert capfd.readouterr() == ("", "")


class Head(nn.Module):
    """Five logits from the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(images.mean((2, 3)))


class Branching(Head):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images) if images.sum() > 0 else super().forward(-images)


class FixedBatch(Head):
    def forward(self, images: torch.Tensor) -> Any:
        return self.head(images.mean((2, 3)).reshape(2, 3))


class Several(Head):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images), images


class FeatureMap(Head):
    def forward(self, images: torch.Tensor) -> Any:
        return images


class Random(Head):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images) + torch.rand(5)


class Clashing(Head):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.ones(5))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching(), "data-dependent"),
        (FixedBatch(), "only the number of images"),
        (Several(), "one tensor of float32 logits"),
        (FeatureMap(), "one tensor of float32 logits"),
        (Random(), "random numbers"),
        (Clashing(), "a parameter 'logits'"),
        (Head().to(torch.bfloat16), "head.weight is bfloat16"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_a_graph_is_refused_with_the_reason_and_a_remedy(network: nn.Module, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        small_graph(network)
    assert str(caught.value).isprintable()
    assert caught.value.hint == "use it with --engine torch"


@pytest.mark.filterwarnings("ignore")
def test_compiled_and_quantized_networks_are_refused() -> None:
    with pytest.raises(CheckpointError, match="TorchScript"):
        small_graph(nn.Sequential(torch.jit.script(Head())))
    quantized = torchvision.models.quantization.shufflenet_v2_x0_5(quantize=True)
    with pytest.raises(CheckpointError, match="quantized"):
        small_graph(quantized)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_exporter_the_extra_to_install_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnavailableError, match=missing) as caught:
        small_graph(Head())
    assert caught.value.hint == "pip install onnx onnxscript"
