"""`models prepare`: exported once, checked, kept whole, and used without torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import noise
from networks import add_manifest, publish, seeded

from imgclassify import Classifier, paths
from imgclassify.errors import (
    CheckpointError,
    OutputError,
    UnavailableError,
    UntrustedCodeError,
    UsageError,
    WeightsError,
)
from imgclassify.graphs import timm_features
from imgclassify.hub import export_cache, local_file
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, PreprocessOverrides
from imgclassify.hub.reference import ModelReference
from imgclassify.runner import load_runner

ARCH = "timm:test_resnet.r160_in1k"

HUBCONF = """
dependencies = ["torch"]
import torch

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.convolution = torch.nn.Conv2d(3, 8, 3)
        self.head = torch.nn.Linear(8, 1000)
        self.unused = torch.nn.Parameter(torch.ones(3))

    def forward(self, images):
        features = self.convolution(images).relu().mean(dim=(2, 3))
        return {answer}

def small(pretrained=False):
    return Small()

class Branches(Small):
    def forward(self, images):
        if images.mean() > 0.3:
            return super().forward(images)
        return super().forward(images) * 2

def branches(pretrained=False):
    return Branches()
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A user's own weights of a small timm network."""
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=1000)
    with torch.no_grad():
        network.get_classifier().weight.normal_(std=0.3)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def prepare(reference: str | Path, options: LoadOptions) -> Path:
    return export_cache.prepare_model(ModelReference.parse(str(reference)), options)


def key(reference: str, options: LoadOptions) -> str:
    return export_cache.cache_folder_of(ModelReference.parse(reference), options).name


def repository(folder: Path, answer: str = "self.head(features) * 9") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hubconf.py").write_text(HUBCONF.format(answer=answer))
    return f"hub:{folder}/small"


def answers(model: str, **options: Any) -> dict[int, float]:
    classifier = Classifier(model, top_k=1000, device="cpu", **options)
    result = classifier.predict(noise(300, 200, seed=3))
    return {prediction.class_index: prediction.probability for prediction in result.predictions}


def same(found: dict[int, float], wanted: dict[int, float]) -> None:
    assert next(iter(found)) == next(iter(wanted))
    assert max(abs(found[index] - probability) for index, probability in wanted.items()) <= 1e-5


def test_a_prepared_checkpoint_answers_as_torch_does_and_in_onnxruntime(checkpoint: Path) -> None:
    wanted = answers(str(checkpoint), arch=ARCH)
    place = prepare(checkpoint, LoadOptions(arch=ARCH))
    assert place.is_relative_to(paths.cache_folder())
    same(answers(str(checkpoint), arch=ARCH), wanted)
    run = Classifier(str(checkpoint), arch=ARCH, device="cpu").run
    assert (run.engine, run.reason) == ("onnxruntime", "--device cpu was requested")
    same(answers(str(checkpoint), arch=ARCH, engine="torch"), wanted)


def test_a_prepared_network_gives_timms_features_without_torch(checkpoint: Path) -> None:
    prepare(checkpoint, LoadOptions(arch=ARCH))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    outputs = {}
    for engine in ("onnxruntime", "torch"):
        runner = load_runner(
            checkpoint,
            arch=ARCH,
            device="cpu",
            engine=engine,
            outputs=("features", "feature_map"),
            with_labels=False,
        )
        outputs[engine] = runner.engine.infer(pixels)
    network = timm.create_model("test_resnet", num_classes=1000).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    spec = runner.network.preprocess
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        last = network.forward_features((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
        wanted = {"feature_map": last, "features": network.forward_head(last, pre_logits=True)}
    for found in outputs.values():
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value.numpy(), atol=1e-5 * float(value.abs().max()))


def test_features_that_differ_from_timms_are_computed_in_torch(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a network whose head begins with a norm."""
    timms_own = timm_features.timm_outputs
    monkeypatch.setattr(
        export_cache, "timm_outputs", lambda *given: {name: 2 * each for name, each in timms_own(*given).items()}
    )
    prepare(checkpoint, LoadOptions(arch=ARCH))
    options: dict[str, Any] = {"arch": ARCH, "device": "cpu", "outputs": ("features",), "with_labels": False}
    run = load_runner(checkpoint, **options).run_info
    assert run.engine == "torch"
    assert "does not compute the features" in run.reason
    with pytest.raises(OutputError, match="prepared graph"):
        load_runner(checkpoint, engine="onnxruntime", **options)
    assert Classifier(checkpoint, arch=ARCH, device="cpu").run.engine == "onnxruntime"


def test_it_is_used_without_torch_and_timm(checkpoint: Path) -> None:
    prepare(checkpoint, LoadOptions(arch=ARCH))
    code = (
        "import sys; from imgclassify import Classifier; from PIL import Image\n"
        "classifier = Classifier(sys.argv[1], arch=sys.argv[2], device='cpu')\n"
        "classifier.predict(Image.new('RGB', (300, 200)))\n"
        "assert classifier.run.engine == 'onnxruntime'\n"
        "assert not {'torch', 'timm', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(checkpoint), ARCH], check=True)


def test_another_crop_size_of_a_catalogued_model(tmp_path: Path) -> None:
    file, digest = publish(tmp_path, seeded("squeezenet1_1"), "squeezenet")
    add_manifest("squeezenet1_1", "mine", file.as_uri(), digest)
    wanted = answers("mine", crop_size=192)
    prepare("mine", LoadOptions(overrides=PreprocessOverrides(crop_size=(192, 192))))
    same(answers("mine", crop_size=192), wanted)
    classifier = Classifier("mine", crop_size=192, device="cpu")
    assert classifier.run.engine == "onnxruntime"
    # The preprocessing and the labels given now are taken, not those of then.
    assert answers("mine", crop_size=192, mean=0.9) != wanted
    assert Classifier("mine", crop_size=160, device="cpu").run.engine == "torch"


def test_a_repository_is_run_once_and_its_code_not_any_more(tmp_path: Path) -> None:
    reference = repository(tmp_path / "repository")
    with pytest.raises(UntrustedCodeError):
        prepare(reference, LoadOptions(arch="resnet18"))
    wanted = answers(reference, arch="resnet18", trust=True)
    prepare(reference, LoadOptions(arch="resnet18", trust=True))
    same(answers(reference, arch="resnet18"), wanted)
    # With other code it is another network.
    repository(tmp_path / "repository", "self.head(features) * 4")
    with pytest.raises(UntrustedCodeError):
        answers(reference, arch="resnet18")


def test_repositories_that_differ_in_their_weights_or_their_place_are_two(tmp_path: Path) -> None:
    keys = set()
    for name in ("one", "other"):
        reference = repository(tmp_path / name / "net")
        for weights in (b"some", b"others"):
            (tmp_path / name / "net" / "w.pth").write_bytes(weights)
            keys.add(key(reference, LoadOptions(arch="resnet18")))
    assert len(keys) == 4


def test_an_edited_manifest_is_another_model(tmp_path: Path) -> None:
    file, digest = publish(tmp_path, seeded("squeezenet1_1"), "squeezenet")
    add_manifest("squeezenet1_1", "mine", file.as_uri(), digest)
    options = LoadOptions(overrides=PreprocessOverrides(crop_size=(192, 192)))
    before = key("mine", options)
    assert key("mine", options) == before
    add_manifest("squeezenet1_1", "mine", file.as_uri(), digest, num_classes="999")
    assert key("mine", options) != before


def test_a_network_whose_graph_would_answer_otherwise_is_not_kept(tmp_path: Path) -> None:
    reference = repository(tmp_path / "repository").replace("/small", "/branches")
    with pytest.raises(CheckpointError):
        prepare(reference, LoadOptions(arch="resnet18", trust=True))
    assert kept() == []


def test_a_graph_that_answers_otherwise_is_not_kept(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_cache, "MAX_DIFFERENCE", -1.0)
    with pytest.raises(CheckpointError, match="differs from torch"):
        prepare(checkpoint, LoadOptions(arch=ARCH))
    assert kept() == []


def kept() -> list[str]:
    return sorted(path.name for path in paths.prepared_folder().iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("reference", ["efficientnet_lite0", "resnet50"])
def test_what_has_a_graph_needs_no_preparing(reference: str, tmp_path: Path) -> None:
    if reference == "resnet50":
        file, digest = publish(tmp_path, seeded("squeezenet1_1"), "squeezenet")
        add_manifest("squeezenet1_1", "mine", file.as_uri(), digest)
        reference = "mine"
    with pytest.raises(UsageError, match="does not need to be prepared"):
        prepare(reference, LoadOptions())


def test_other_weights_under_the_same_name_are_another_network(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(checkpoint, LoadOptions(arch=ARCH))
    state_dict = torch.load(checkpoint, weights_only=True)
    state_dict["fc.weight"] = state_dict["fc.weight"].flip(0)
    torch.save(state_dict, checkpoint)
    assert Classifier(str(checkpoint), arch=ARCH, device="cpu").run.engine == "torch"
    assert "has changed since" in caplog.text
    wanted = answers(str(checkpoint), arch=ARCH, engine="torch")
    prepare(checkpoint, LoadOptions(arch=ARCH))
    same(answers(str(checkpoint), arch=ARCH), wanted)


@pytest.mark.parametrize("name", ["graph.onnx", "parameters.safetensors", "network.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_one_is_noticed_and_made_anew(
    name: str, damage: str, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = prepare(checkpoint, LoadOptions(arch=ARCH))
    content = bytearray((place / name).read_bytes())
    if damage == "gone":
        (place / name).unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        (place / name).write_bytes(content[:-9] if damage == "cut" else content)
    assert Classifier(str(checkpoint), arch=ARCH, device="cpu").run.engine == "torch"
    assert "is not used" in caplog.text
    assert prepare(checkpoint, LoadOptions(arch=ARCH)) == place
    assert Classifier(str(checkpoint), arch=ARCH, device="cpu").run.engine == "onnxruntime"


def test_a_record_of_any_other_form_is_passed_over(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = prepare(checkpoint, LoadOptions(arch=ARCH))
    record = json.loads((place / "network.json").read_text())
    odd = [{**record, key: value} for key in record for value in ([], {}, 3, None, "x")]
    for content in ("[]", "3", "[" * 100_000, "\0", *map(json.dumps, odd)):
        (place / "network.json").write_text(content)
        [entry] = export_cache.list_prepared()
        found = export_cache.find_prepared(ModelReference.parse(str(checkpoint)), LoadOptions(arch=ARCH))
        assert (found is None) == ("is not used" in caplog.text)
        caplog.clear()
        if "sha256" not in content:
            assert (entry.valid, found) == (False, None)


PREPARE = "import sys; from imgclassify.hub import export_cache; from imgclassify.hub.network import LoadOptions; \
from imgclassify.hub.reference import ModelReference; \
print(export_cache.prepare_model(ModelReference.parse(sys.argv[1]), LoadOptions(arch=sys.argv[2])))"


def preparing(checkpoint: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE, str(checkpoint), ARCH]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_prepare_the_same_one_after_the_other(checkpoint: Path) -> None:
    both = [preparing(checkpoint) for _ in range(2)]
    output = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert output[0][0] == output[1][0]
    assert len(kept()) == 1
    assert Classifier(str(checkpoint), arch=ARCH, device="cpu").run.engine == "onnxruntime"


def test_a_killed_preparation_leaves_nothing_in_the_way(checkpoint: Path) -> None:
    process = preparing(checkpoint)
    deadline = time.monotonic() + 120
    while not list(paths.prepared_folder().glob("*.partial/graph.onnx")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert any(name.endswith(".partial") for name in kept())
    assert Classifier(str(checkpoint), arch=ARCH, device="cpu").run.engine == "torch"
    place = prepare(checkpoint, LoadOptions(arch=ARCH))
    assert kept() == [place.name]
    assert Classifier(str(checkpoint), arch=ARCH, device="cpu").run.engine == "onnxruntime"


def test_a_cache_that_cannot_be_written_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"file/imgclassify/prepared") as error:
        prepare(checkpoint, LoadOptions(arch=ARCH))
    assert "XDG_CACHE_HOME" in str(error.value.hint)
    assert Classifier(str(checkpoint), arch=ARCH, device="cpu").run.engine == "torch"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_cache_that_became_read_only_is_used_all_the_same(checkpoint: Path) -> None:
    place = prepare(checkpoint, LoadOptions(arch=ARCH))
    folders = [place, paths.prepared_folder(), paths.cache_folder() / "verified"]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert Classifier(str(checkpoint), arch=ARCH, device="cpu").run.engine == "onnxruntime"
        assert prepare(checkpoint, LoadOptions(arch=ARCH)) == place
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_the_exporter_is_asked_for_where_it_is_missing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UnavailableError) as error:
        prepare(checkpoint, LoadOptions(arch=ARCH))
    assert "pip install onnx onnxscript" in str(error.value.hint)


def test_entries_tell_what_is_there_and_go_when_removed(checkpoint: Path) -> None:
    place = prepare(checkpoint, LoadOptions(arch=ARCH))
    [entry] = export_cache.list_prepared()
    assert (entry.folder, entry.reference, entry.arch, entry.valid) == (place, str(checkpoint), ARCH, True)
    assert entry.bytes == sum(file.stat().st_size for file in place.iterdir())
    record = json.loads((place / "network.json").read_text())
    record["asked"]["versions"]["torch"] = "0.1"
    (place / "network.json").write_text(json.dumps(record))
    [entry] = export_cache.list_prepared()
    assert not entry.valid
    export_cache.remove_prepared(entry)
    assert list(export_cache.list_prepared()) == []
    assert list(paths.prepared_folder().iterdir()) == []


def test_parameters_are_torchs_to_the_bit(checkpoint: Path) -> None:
    from safetensors.numpy import load_file

    place = prepare(checkpoint, LoadOptions(arch=ARCH))
    found = load_file(place / "parameters.safetensors")
    theirs = torch.load(checkpoint, weights_only=True)
    assert len(found) > 10
    for name, array in found.items():
        np.testing.assert_array_equal(array, theirs[name].numpy())


def test_hub_load_asks_nobody_else_for_what_is_prepared(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(checkpoint, LoadOptions(arch=ARCH))
    monkeypatch.setattr(local_file.FileLoader, "load_network", None)
    assert load_network(str(checkpoint), LoadOptions(arch=ARCH)).backends.open_session is not None
