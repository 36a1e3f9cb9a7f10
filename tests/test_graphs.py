"""Weight-free graphs run by onnxruntime, against the same networks in torch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import seeded
from safetensors.torch import save_file
from torchvision.models import get_model_weights

from imgclassify import catalog, checkpoints, paths
from imgclassify.catalog import ModelManifest
from imgclassify.checkpoints import BATCH_COUNTER_SUFFIX
from imgclassify.checkpoints.fitting import Fit, fit_names
from imgclassify.checkpoints.misfit import Misfit
from imgclassify.errors import CheckpointError, ResourceError
from imgclassify.graphs.graph import BIAS, SCALE, find_graph, normalization_parameters, read_graph
from imgclassify.graphs.session import SessionConfig
from imgclassify.hub.checkpoint_fit import find_wanted

CONFIGS = [SessionConfig(threads=2, single_run=True), SessionConfig(threads=1)]
SMALL = ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "resnet18"]


def crops(count: int, side: int = 224, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def expected(network: torch.nn.Module, manifest: ModelManifest, pixels: np.ndarray) -> np.ndarray:
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (manifest.preprocess.mean, manifest.preprocess.std)
    )
    with torch.inference_mode():
        return network((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()


def opened(
    manifest: ModelManifest, state_dict: Any, *, num_classes: int = 1000, config: SessionConfig = CONFIGS[0]
) -> Any:
    graph = find_graph(manifest, manifest.preprocess)
    assert graph is not None
    return graph.open_session(
        state_dict, manifest.preprocess, source_name="it", num_classes=num_classes, config=config
    )


def arrays(network: torch.nn.Module) -> Any:
    return OrderedDict((name, tensor.numpy()) for name, tensor in network.state_dict().items())


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(found - wanted).max() <= 2e-5 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("config", CONFIGS, ids=["once", "often"])
@pytest.mark.parametrize("architecture", SMALL)
def test_a_graph_answers_as_torch_does(architecture: str, config: SessionConfig) -> None:
    network, manifest = seeded(architecture), catalog.find_model(architecture)
    session = opened(manifest, arrays(network), config=config)
    for count in (1, 3):
        pixels = crops(count, seed=count)
        close(session.run(None, {"crops": pixels})[0], expected(network, manifest, pixels))


@pytest.mark.parametrize("form", ["zip", "older", "safetensors", "half"])
def test_weights_are_taken_from_the_file(form: str, tmp_path: Path) -> None:
    network, manifest = seeded("squeezenet1_1"), catalog.find_model("squeezenet1_1")
    if form == "half":
        network = network.half()
    path = tmp_path / ("net.safetensors" if form == "safetensors" else "net.pth")
    if form == "safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=form != "older")
    session = opened(manifest, checkpoints.open_lazy(path))
    # What lies in the file as the graph wants it is not copied.
    assert len(session.held) == (len(network.state_dict()) if form == "half" else 0)
    pixels = crops(2)
    close(session.run(None, {"crops": pixels})[0], expected(network.float(), manifest, pixels))


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "mobilenet_v3_small", "googlenet"])
def test_another_number_of_classes(architecture: str, tmp_path: Path) -> None:
    options = {"transform_input": True, "init_weights": False} if architecture == "googlenet" else {}
    network, manifest = seeded(architecture, num_classes=7, **options), catalog.find_model(architecture)
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    state_dict = checkpoints.open_lazy(tmp_path / "seven.pth")
    found = fit_names(state_dict, find_wanted(manifest))
    assert isinstance(found, Fit)
    assert found.num_classes == 7
    pixels = crops(2)
    session = opened(manifest, state_dict, num_classes=7)
    answer = session.run(None, {"crops": pixels})[0]
    assert answer.shape == (2, 7)
    network.eval().aux1 = network.aux2 = None  # GoogLeNet's, used in training alone
    close(answer, expected(network, manifest, pixels))


def test_the_preprocessing_given_is_the_one_computed() -> None:
    network = seeded("squeezenet1_1")
    manifest = catalog.find_model("squeezenet1_1")
    from dataclasses import replace

    changed = replace(manifest, preprocess=replace(manifest.preprocess, mean=(0.1, 0.5, 0.9), std=(1.0, 0.3, 0.2)))
    pixels = crops(2)
    close(opened(changed, arrays(network)).run(None, {"crops": pixels})[0], expected(network, changed, pixels))


# ---------------------------------------------------------------------------------------------- what does not fit


def test_names_and_shapes_that_do_not_fit_are_listed() -> None:
    manifest = catalog.find_model("squeezenet1_1")
    state_dict = arrays(seeded("squeezenet1_1"))
    state_dict["features.0.weight"] = np.zeros((64, 3, 5, 5), np.float32)
    del state_dict["features.3.squeeze.bias"]
    state_dict["other.weight"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError) as error:
        opened(manifest, state_dict)
    for part in (
        "'squeezenet1_1'",
        "missing: features.3.squeeze.bias",
        "unexpected: other.weight",
        "features.0.weight 64×3×5×5 where 64×3×3×3 is expected",
    ):
        assert part in str(error.value)


def test_a_checkpoint_without_the_head_lists_what_it_lacks() -> None:
    manifest = catalog.find_model("squeezenet1_1")
    backbone = {name: value for name, value in arrays(seeded("squeezenet1_1")).items() if "classifier" not in name}
    found = fit_names(OrderedDict(backbone), find_wanted(manifest))
    assert isinstance(found, Misfit)
    assert "the head is missing" in found.reason
    assert "missing: classifier.1.weight, classifier.1.bias" in found.reason


@pytest.mark.parametrize("value", [np.zeros(1000, np.int64), np.zeros(1000, bool), None, 3])
def test_numbers_of_another_kind_are_refused(value: Any) -> None:
    state_dict = arrays(seeded("squeezenet1_1"))
    state_dict["classifier.1.bias"] = value
    with pytest.raises(CheckpointError, match=r"classifier\.1\.bias"):
        opened(catalog.find_model("squeezenet1_1"), state_dict)


def test_counts_of_batches_and_auxiliary_heads_may_be_there_or_not() -> None:
    """The first are not in files of torch 0.3, the others in every file of GoogLeNet's."""
    manifest = catalog.find_model("googlenet")
    network = seeded("googlenet", transform_input=True, init_weights=False)
    assert any(name.startswith("aux1.") for name in network.state_dict())
    pixels = crops(1)
    full = arrays(network)
    bare = OrderedDict(
        (name, value)
        for name, value in full.items()
        if not name.endswith(BATCH_COUNTER_SUFFIX) and "aux" not in name
    )
    assert len(bare) < len(full)
    answers = [opened(manifest, state_dict).run(None, {"crops": pixels})[0] for state_dict in (full, bare)]
    np.testing.assert_array_equal(*answers)


def test_a_damaged_graph_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    whole = Path(str(paths.data_folder("models") / "graphs" / "squeezenet1_1-224.onnx")).read_bytes()
    for content in (b"", whole[:1000], b"not a graph", whole.replace(b'"heads"', b'"hands"')):
        (tmp_path / "graph.onnx").write_bytes(content)
        with pytest.raises(ResourceError, match=r"graph\.onnx") as error:
            read_graph(tmp_path / "graph.onnx")
        assert error.value.hint


# ------------------------------------------------------------------------------------------------ what is shipped


def float_models() -> list[ModelManifest]:
    return [manifest for manifest in catalog.load_manifests() if not manifest.options.get("quantize")]


def test_every_float_model_has_its_graph() -> None:
    lacking = [
        manifest.reference for manifest in float_models() if find_graph(manifest, manifest.preprocess) is None
    ]
    assert lacking == []


def test_every_graph_serves_a_model() -> None:
    folder = Path(str(paths.data_folder("models") / "graphs"))
    served = {f"{each.architecture}-{each.preprocess.crop_size[0]}.onnx" for each in float_models()}
    assert {path.name for path in folder.iterdir()} == served


SHIPPED = {f"{each.architecture}-{each.preprocess.crop_size[0]}": each for each in float_models()}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_graph_is_as_the_runtime_takes_it(name: str) -> None:
    path = Path(str(paths.data_folder("models") / "graphs" / f"{name}.onnx"))
    model = onnx.load(path, load_external_data=False)
    graph = read_graph(path)
    external = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer if tensor.data_location == 1}
    assert {key: parameter.shape for key, parameter in graph.parameters.items()} == external
    assert all(parameter.dtype in ("float32", "int64") for parameter in graph.parameters.values())
    assert {SCALE, BIAS} < external.keys()
    assert f"{graph.description['architecture']}-{graph.description['crop_size']}" == name
    heads = graph.description["heads"]
    assert heads
    assert all(external[head][0] == SHIPPED[name].num_classes for head in heads)
    [given], [answer] = model.graph.input, model.graph.output
    assert (given.name, answer.name) == ("crops", "logits")
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sides = [side.dim_value for side in given.type.tensor_type.shape.dim]
    assert sides == [0, graph.description["crop_size"], graph.description["crop_size"], 3]
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("architecture", ["resnet50", "vit_b_16", "googlenet", "densenet121", "swin_t"])
def test_a_graphs_parameters_are_torchvisions(architecture: str) -> None:
    """Names and shapes against the builder itself, with the options that its weights need."""
    manifest = catalog.find_model(architecture)
    graph = find_graph(manifest, manifest.preprocess)
    assert graph is not None
    from torchvision.models import get_model

    with torch.device("meta"):
        network = get_model(architecture, weights=None, **manifest.options)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    unused = set(graph.description["unused"])
    wanted = {
        key: value for key, value in shapes.items() if key not in unused and not key.endswith(BATCH_COUNTER_SUFFIX)
    }
    found = {key: parameter.shape for key, parameter in graph.parameters.items()}
    assert found == wanted | {SCALE: (1, 3, 1, 1), BIAS: (1, 3, 1, 1)}


def test_other_crops_and_options_have_no_graph() -> None:
    from dataclasses import replace

    manifest = catalog.find_model("googlenet")
    for side in ((225, 225), (224, 192)):
        assert find_graph(manifest, replace(manifest.preprocess, crop_size=side)) is None
    other = replace(manifest, options={**manifest.options, "init_weights": True})
    assert find_graph(other, manifest.preprocess) is None
    assert find_graph(replace(manifest, architecture="../../x"), manifest.preprocess) is None


def test_normalization_is_float64s_to_rounding() -> None:
    spec = get_model_weights("resnet50").DEFAULT.transforms()
    given = normalization_parameters(catalog.find_model("resnet50").preprocess)
    levels = np.arange(256)
    exact = (levels[:, None] / 255 - np.array(spec.mean)) / np.array(spec.std)
    found = levels[:, None].astype(np.float32) * given[SCALE].reshape(3) + given[BIAS].reshape(3)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)


def test_neither_torch_nor_onnx_is_imported() -> None:
    code = (
        "import sys; from imgclassify import Classifier; from PIL import Image\n"
        "Classifier(device='cpu').predict(Image.new('RGB', (300, 200)))\n"
        "heavy = {'torch', 'torchvision', 'timm', 'onnx', 'safetensors', 'requests', 'google.protobuf'}\n"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"set\(\)\n", done.stdout)
