"""hub: repositories through torch.hub, from folders and from its cache; never without the user's word."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import noise
from networks import probabilities
from torchvision.models import get_model_weights

from imgclassify import Classifier, paths
from imgclassify.errors import (
    CheckpointError,
    DownloadError,
    OfflineError,
    UnknownModelError,
    UntrustedCodeError,
    UsageError,
)
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions

HUBCONF = """
print("chatter at import")
open({ran!r}, "w").close()
dependencies = ["torch"]
import torch
from torchvision.models import resnet18

def with_weights(pretrained=False, **options):
    print("chatter of the entrypoint")
    assert pretrained, "asked for random weights"
    torch.manual_seed(5)
    return resnet18(**options)

def without_the_argument():
    torch.manual_seed(5)
    return resnet18()

def raises(pretrained=False):
    raise ZeroDivisionError("a fault of the repository")

def no_network(pretrained=False):
    return "just text"

def fetches(pretrained=False):
    import urllib.request
    urllib.request.urlopen("http://127.0.0.1:9/weights.pth")

def leaves(pretrained=False):
    raise SystemExit(0)

class Talkative(torch.nn.Module):
    def forward(self, images):
        print("chatter of the network")
        return images.mean(dim=(2, 3)).repeat(1, 334)[:, :1000]

def talkative(pretrained=False):
    return Talkative()

class Broken(torch.nn.Module):
    def forward(self, images, more):
        return images

def broken(pretrained=False):
    return Broken()

def features(pretrained=False):
    return torch.nn.Identity()
"""


def write_repository(folder: Path) -> Path:
    """Gives the file whose existence shows that the repository's code ran."""
    folder.mkdir(parents=True)
    ran = folder / "ran"
    (folder / "hubconf.py").write_text(HUBCONF.format(ran=str(ran)))
    return ran


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_repository(tmp_path / "repository")


TRUSTED: dict[str, Any] = {"trust": True, "arch": "resnet18", "top_k": 1000, "device": "cpu"}


@pytest.mark.parametrize("entrypoint", ["with_weights", "without_the_argument"])
def test_a_trusted_folder_answers_and_keeps_its_chatter_off_stdout(
    entrypoint: str, ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = Classifier(f"hub:./repository/{entrypoint}", **TRUSTED)
    torch.manual_seed(5)
    from torchvision.models import resnet18

    image = noise(300, 200, seed=3)
    expected = probabilities(resnet18().eval(), get_model_weights("resnet18").DEFAULT.transforms()(image))
    for prediction in classifier.predict(image).predictions:
        assert prediction.probability == pytest.approx(float(expected[prediction.class_index]), abs=1e-5)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "chatter at import" in captured.err


@pytest.mark.parametrize("reference", ["hub:./repository/with_weights", "hub:owner/repo/x", "hub:owner/repo:v1/x"])
def test_without_trust_no_code_runs_and_no_socket_opens(
    reference: str, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket was opened"))
    with pytest.raises(UntrustedCodeError) as error:
        load_network(reference, LoadOptions(arch="resnet18"))
    assert "--trust" in str(error.value.hint)
    assert not ran.exists()


@pytest.mark.parametrize(("reference", "offline"), [("hub:owner/repo/x", True), ("hub:owner/repo:v1.2/x", False)])
def test_a_repository_in_torch_hubs_cache_needs_no_network(
    reference: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket was opened"))
    folder = "owner_repo_main" if offline else "owner_repo_v1.2"
    write_repository(paths.torch_hub_folder() / folder)
    reference = reference.replace("/x", "/with_weights")
    assert Classifier(reference, offline=offline, **TRUSTED).run.model == reference


def test_a_networks_chatter_stays_off_the_results(ran: Path) -> None:
    noise(9, 9).save("photo.png")
    options = ["-m", "hub:./repository/talkative", "--trust", "--arch", "resnet18", "--device", "cpu"]
    command = [sys.executable, "-m", "imgclassify", "predict", "photo.png", "photo.png", "--jsonl", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == ["photo.png", "photo.png"]
    assert "chatter of the network" in done.stderr


def test_asking_a_network_for_its_classes_prints_nothing_on_stdout(
    ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Classifier("hub:./repository/talkative", **TRUSTED)
    captured = capsys.readouterr()
    assert (captured.out, "chatter of the network" in captured.err) == ("", True)


def test_offline_holds_for_the_repositorys_code_too(ran: Path) -> None:
    with pytest.raises(OfflineError, match=r"would connect to \('127\.0\.0\.1', 9\)"):
        Classifier("hub:./repository/fetches", offline=True, **TRUSTED)
    with pytest.raises(DownloadError, match="Connection refused"):
        Classifier("hub:./repository/fetches", **TRUSTED)


def test_arch_may_be_timms(ran: Path) -> None:
    options = {**TRUSTED, "arch": "timm:resnet18.a1_in1k"}
    assert Classifier("hub:./repository/with_weights", **options).run.preprocess["crop_mode"] == "center"


def test_offline_says_where_the_repository_belongs() -> None:
    with pytest.raises(OfflineError, match="owner/repo:v1") as error:
        load_network("hub:owner/repo:v1/x", LoadOptions(arch="resnet18", trust=True, offline=True))
    assert str(paths.torch_hub_folder() / "owner_repo_v1") in str(error.value.hint)


@pytest.mark.parametrize(
    ("entrypoint", "kind", "complaint"),
    [
        ("missing", UnknownModelError, "no entrypoint 'missing'"),
        ("raises", CheckpointError, "ZeroDivisionError: a fault of the repository"),
        ("no_network", CheckpointError, "returns a str, not a network"),
        ("features", CheckpointError, "not an image classifier"),
        ("leaves", CheckpointError, "SystemExit: 0"),
        ("broken", CheckpointError, "cannot process crops of 224×224: .*missing 1 required"),
    ],
)
def test_faults_of_the_repository_are_told_in_a_sentence(
    entrypoint: str, kind: type[Exception], complaint: str, ran: Path
) -> None:
    with pytest.raises(kind, match=complaint):
        Classifier(f"hub:./repository/{entrypoint}", **TRUSTED)


@pytest.mark.parametrize("reference", ["hub:resnet18", "hub:owner/resnet18", "hub:a/b/c/resnet18", "hub:/"])
def test_malformed_references_show_the_form(reference: str) -> None:
    with pytest.raises(UsageError, match="malformed") as error:
        load_network(reference, LoadOptions(arch="resnet18", trust=True))
    assert "entrypoint" in str(error.value.hint)


def test_a_folder_without_hubconf_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError) as error:
        load_network(f"hub:{tmp_path}/x", LoadOptions(arch="resnet18", trust=True))
    assert "hubconf.py" in str(error.value.hint)


def test_preprocessing_is_not_guessed(ran: Path) -> None:
    with pytest.raises(UsageError) as error:
        load_network("hub:./repository/with_weights", LoadOptions(trust=True))
    assert "--arch" in str(error.value.hint)
    assert not ran.exists()
