"""The runner: arrays for each image, in order, from any network, with or without labels."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import noise
from networks import seeded
from PIL import Image
from torchvision.models import ResNet18_Weights

from imgclassify import Classifier
from imgclassify.errors import CorruptImageError, LabelsError, NotAnImageError, UsageError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.images.inputs import ImageInput, NotNeededError
from imgclassify.runner import ImageOutputs, ModelRunner, RunnerOptions
from imgclassify.sources import single_source

WITHOUT_LABELS = LoadOptions(arch="resnet18", with_labels=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of seven classes, for which no label set is given."""
    path = tmp_path_factory.mktemp("weights") / "seven.pth"
    torch.save(seeded("resnet18", num_classes=7).state_dict(), path)
    return path


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        noise(250 + number, 240, seed=number).save(path)
    paths[4].write_bytes(b"no image")
    return paths


def expected_logits(path: Path) -> np.ndarray:
    """torchvision's own transforms and network."""
    pixels = ResNet18_Weights.DEFAULT.transforms()(Image.open(path).convert("RGB"))
    with torch.inference_mode():
        return seeded("resnet18", num_classes=7)(pixels[None])[0].numpy()


def test_an_image_that_need_not_be_decoded_has_neither_outputs_nor_an_error(
    checkpoint: Path, album: list[Path]
) -> None:
    class Known(ImageInput):
        def load_image(self, **_limits: object) -> Image.Image:
            raise NotNeededError

    images = [album[0], Known("known", single_source(str(album[1]))), album[2]]
    first, known, last = ModelRunner.load(str(checkpoint), WITHOUT_LABELS, RunnerOptions()).run(images)
    assert known == ImageOutputs("known")
    for path, output in ((album[0], first), (album[2], last)):
        assert output.arrays is not None
        np.testing.assert_allclose(output.arrays["logits"], expected_logits(path), atol=1e-3)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_logits_come_in_order_with_an_error_in_its_place(checkpoint: Path, album: list[Path], engine: str) -> None:
    runner = ModelRunner.load(str(checkpoint), WITHOUT_LABELS, RunnerOptions(engine=engine, batch_size=3))
    outputs = list(runner.run(album))
    assert [output.source for output in outputs] == [str(path) for path in album]
    for number, (path, output) in enumerate(zip(album, outputs, strict=True)):
        if number == 4:
            assert output.error is not None
            assert (output.error.type, output.arrays) == (NotAnImageError.type, None)
        else:
            assert output.arrays is not None
            assert (output.width, output.height, output.error) == (250 + number, 240, None)
            assert output.arrays.keys() == {"logits"}
            np.testing.assert_allclose(output.arrays["logits"], expected_logits(path), atol=1e-4)
    runner.close()


def test_a_mapped_function_sees_each_image_s_outputs_beside_the_caller(checkpoint: Path, album: list[Path]) -> None:
    runner = ModelRunner.load(str(checkpoint), WITHOUT_LABELS, RunnerOptions(batch_size=3))
    expected = list(runner.run(album))

    def best(outputs: ImageOutputs) -> tuple[str, int, threading.Thread]:
        index = -1 if outputs.arrays is None else int(outputs.arrays["logits"].argmax())
        return outputs.source, index, threading.current_thread()

    mapped = list(runner.map(best, album))
    assert [source for source, _, _ in mapped] == [str(path) for path in album]
    for (_, index, thread), outputs in zip(mapped, expected, strict=True):
        assert thread is not threading.current_thread()
        assert index == (-1 if outputs.arrays is None else int(outputs.arrays["logits"].argmax()))


def test_a_network_without_labels_has_none_in_its_provenance(checkpoint: Path) -> None:
    runner = ModelRunner.load(str(checkpoint), WITHOUT_LABELS, RunnerOptions())
    assert runner.network.labels is None
    assert (runner.run_info.label_set, runner.run_info.label_set_sha256) == (None, None)
    assert runner.num_classes == runner.run_info.num_classes == 7


def test_who_needs_labels_asks_for_them(checkpoint: Path) -> None:
    with pytest.raises(LabelsError, match="1000 classes, the network has 7"):
        Classifier(str(checkpoint), arch="resnet18")


def test_a_file_that_says_nothing_of_labels_runs_without(checkpoint: Path, tmp_path: Path, photo: Path) -> None:
    network = load_network(str(checkpoint), WITHOUT_LABELS)
    assert network.labels is None
    with pytest.raises(UsageError, match="has no class names"):
        load_network(str(tiny_graph(tmp_path)), LoadOptions(overrides=network_overrides()))
    runner = ModelRunner.load(
        str(tiny_graph(tmp_path)), LoadOptions(with_labels=False, overrides=network_overrides()), RunnerOptions()
    )
    output = runner.run_one(photo)
    assert output.arrays is not None
    assert output.arrays["logits"].shape == (3,)


def test_one_image_alone_raises(checkpoint: Path, tmp_path: Path) -> None:
    runner = ModelRunner.load(str(checkpoint), WITHOUT_LABELS, RunnerOptions())
    noise(64, 64).save(tmp_path / "cut.png")
    damaged = bytearray((tmp_path / "cut.png").read_bytes())
    damaged[60:80] = bytes(20)
    (tmp_path / "cut.png").write_bytes(damaged)
    with pytest.raises(CorruptImageError):
        runner.run_one(single_source(str(tmp_path / "cut.png")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"num_images": 0}, "num_images is 0"),
        ({"decode_mode": "best"}, "unknown decode mode 'best'"),
        ({"engine": "tvm"}, "unknown engine 'tvm'"),
        ({"time_limit": 0.0}, "time_limit is 0.0"),
        ({"isolate": True, "decode_mode": "gpu"}, "isolate"),
    ],
)
def test_options_are_refused_before_anything_is_loaded(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ModelRunner.load("no_such_model", LoadOptions(), replace(RunnerOptions(), **changes))


def network_overrides():  # type: ignore[no-untyped-def]
    from imgclassify.hub.network import PreprocessOverrides

    return PreprocessOverrides(
        resize_size=32, crop_size=(32, 32), interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )


def tiny_graph(folder: Path) -> Path:
    """An .onnx file: the mean of each channel."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("ReduceMean", ["images", "axes"], ["logits"], keepdims=0)
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", 3, 32, 32))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("n", 3))],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "tiny.onnx")
    return folder / "tiny.onnx"
