"""imgclassify models, labels, cache and doctor."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from networks import add_manifest, publish, seeded
from servers import FileServer

from imgclassify import catalog, paths, weights
from imgclassify.cli.commands import doctor
from imgclassify.cli.option_values import complete_model
from imgclassify.engines import openvino_engine
from imgclassify.errors import WeightsError
from imgclassify.graphs import openvino_session

from .conftest import Run

CIFAR_RESNETS = [f"cifar_resnet{layers}" for layers in (20, 32, 44, 56)]


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[FileServer]:
    """A model of the user's own, "mine", on a local server."""
    file, digest = publish(tmp_path, seeded("squeezenet1_1"), "mine")
    server = FileServer(tmp_path)
    add_manifest("squeezenet1_1", "mine", server.url(file.name), digest[:8])
    yield server
    server.close()


def test_list_is_a_table_or_json_filtered_and_sorted(run: Run) -> None:
    table = run("models", "list", "resnet1?*", "--sort", "acc1")
    assert table.status == 0
    head, *rows = table.out.splitlines()
    assert head.split()[:2] == ["model", "weights"]
    assert [row.split()[0] for row in rows] == ["resnet152", "resnet101", "resnet152", "resnet101", "resnet18"]
    listed = json.loads(run("models", "list", "resnet1?*", "--sort", "acc1", "--json").out)
    assert [entry["name"] for entry in listed] == [row.split()[0] for row in rows]
    assert listed[0]["metadata"]["acc1"] == 82.284
    assert len(json.loads(run("models", "list", "--json").out)) == 134


def test_an_architecture_without_weights_is_listed_and_shown_as_one(run: Run) -> None:
    rows = run("models", "list", "cifar*").out.splitlines()[1:]
    assert [row.split() for row in rows] == [[each, "none"] for each in ("cifar_net", *CIFAR_RESNETS)]
    assert "cifar" not in run("models", "list", "--cached").out
    shown = run("models", "show", "cifar_resnet20")
    assert (shown.status, shown.err) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert (facts["weights"], facts["crop_size"], facts["architecture"]) == (
        "none",
        "32",
        "cifar_resnet20 (imgclassify)",
    )
    assert {"url", "sha256", "file"}.isdisjoint(facts)
    told = json.loads(run("models", "show", "cifar_resnet20", "--json").out)
    assert (told["weights"], told["url"], told["path"], told["bytes"], told["cached"]) == (
        "",
        "",
        None,
        None,
        False,
    )


@pytest.mark.parametrize("command", ["pull", "path", "verify", "remove"])
def test_an_architecture_has_no_weights_to_manage(command: str, run: Run) -> None:
    outcome = run("models", command, "cifar_net")
    assert (outcome.status, outcome.out) == (3, "")
    assert outcome.err.startswith("error: cifar_net is an architecture without weights\nhint: give a file")


def test_an_unknown_order_lists_the_catalogs(run: Run) -> None:
    outcome = run("models", "list", "--sort", "age")
    assert outcome.status == 2
    assert all(order in outcome.err for order in catalog.SORT_KEYS)


def test_list_of_nothing_names_the_nearest(run: Run) -> None:
    outcome = run("models", "list", "resnet5O")
    assert outcome.status == 3
    assert "resnet50" in outcome.err


def test_show_tells_all_with_the_licence(run: Run) -> None:
    outcome = run("models", "show", "vit_b_16@IMAGENET1K_SWAG_E2E_V1")
    for part in ("SWAG/blob/main/LICENSE", "384", "bicubic", "85.304", "9ac1b537", "IMAGENET1K_V1"):
        assert part in outcome.out
    shown = json.loads(run("models", "show", "resnet50", "--json").out)
    assert (shown["weights"], shown["preprocess"]["resize_size"]) == ("IMAGENET1K_V2", 232)


def test_pull_verify_path_remove(run: Run, mine: FileServer) -> None:
    location = str(weights.cache_path(catalog.find_model("mine").url))
    before = run("models", "path", "mine")
    assert before.out == f"{location}\n"
    assert "not in the cache" in before.err
    assert run("models", "verify", "mine").status == 3
    with mine:
        pulled = run("models", "pull", "mine")
        assert (pulled.status, pulled.out) == (0, f"{location}\n")
        assert run("models", "pull", "mine").status == 0
        assert len(mine.requests) == 1
    verified = run("models", "verify", "mine")
    assert (verified.status, verified.out.split("\t")[:2]) == (0, ["ok", "mine@IMAGENET1K_V1"])
    assert "mine" in run("models", "verify").out

    with open(location, "r+b") as file:  # noqa: PTH123
        file.seek(1000)
        file.write(b"tampered")
    tampered = run("models", "verify", "mine")
    assert tampered.status == 3
    assert tampered.out == "wrong\tmine@IMAGENET1K_V1\n"

    assert "removed" in run("models", "remove", "mine").err
    assert not Path(location).exists()
    assert "was not in the cache" in run("models", "remove", "mine").err


def test_pull_offline_says_which_file_goes_where(run: Run) -> None:
    outcome = run("models", "pull", "alexnet", "--offline")
    assert outcome.status == 3
    assert "alexnet-owt-7be5be79.pth" in outcome.err
    assert str(weights.cache_path(catalog.find_model("alexnet").url)) in outcome.err


@pytest.mark.parametrize("reference", ["hub:owner/repo/x", "./weights.pth"])
def test_what_has_no_weights_to_pull_is_told(reference: str, run: Run) -> None:
    assert run("models", "pull", reference).status == 2


def test_pull_tries_every_model_and_tells_of_each_that_failed(run: Run, mine: FileServer) -> None:
    add_manifest("squeezenet1_1", "absent", mine.url("absent.pth"), "0" * 64)
    with mine:
        outcome = run("models", "pull", "absent", "mine")
    assert outcome.status == 3
    assert outcome.out == f"{weights.cache_path(catalog.find_model('mine').url)}\n"
    assert "404" in outcome.err
    assert "1 of 2 models could not be pulled" in outcome.err


@pytest.mark.parametrize("command", ["path", "verify", "remove"])
def test_what_is_not_catalogued_is_said_to_lie_elsewhere(command: str, run: Run) -> None:
    outcome = run("models", command, "timm:resnet18.a1_in1k")
    assert outcome.status == 2
    assert "Hugging Face cache" in outcome.err


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A squeezenet1_1 of three classes, and kinds.txt beside it."""
    path = tmp_path / "mine.pth"
    torch.save(seeded("squeezenet1_1", num_classes=3).state_dict(), path)
    (tmp_path / "kinds.txt").write_text("cat\ndog\nbird\n")
    return path


def test_add_use_list_show_remove(run: Run, checkpoint: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    options = ["--arch", "squeezenet1_1", "--labels", "kinds.txt", "--crop-size", "160"]
    expected = run("predict", photo, "-m", checkpoint.name, *options, "--jsonl")
    added = run("models", "add", checkpoint.name, "--name", "birds", *options)
    manifest = catalog.user_models_folder() / "birds.toml"
    assert (added.status, added.out) == (0, f"{manifest}\n")
    assert "-m birds" in added.err

    monkeypatch.chdir("/")
    found = run("predict", photo, "-m", "birds", "--jsonl")
    assert found.status == 0
    assert found.out.replace('"model":"birds"', '"model":"mine.pth"') == expected.out
    assert run("models", "list", "birds").out.splitlines()[1].split()[0] == "birds"
    assert complete_model("bir") == ["birds"]
    shown = json.loads(run("models", "show", "birds", "--json").out)
    assert (shown["path"], shown["bytes"]) == (str(checkpoint), checkpoint.stat().st_size)
    assert (shown["architecture"], shown["num_classes"], shown["changed"]) == ("squeezenet1_1", 3, False)
    assert shown["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert run("models", "verify", "birds").out.split("\t")[0] == "ok"

    checkpoint.write_bytes(checkpoint.read_bytes() + b"x")
    assert "has changed since `models add`" in run("models", "show", "birds").out
    assert json.loads(run("models", "show", "birds", "--json").out)["changed"] is True
    refused = run("predict", photo, "-m", "birds")
    assert (refused.status, refused.out) == (3, "")
    assert "has changed since `models add`" in refused.err

    removed = run("models", "remove", "birds")
    assert removed.status == 0
    assert str(manifest) in removed.err
    assert f"{checkpoint} is kept" in removed.err
    assert not manifest.exists()
    assert checkpoint.exists()


def test_what_is_not_added_prints_nothing_on_stdout(run: Run, checkpoint: Path) -> None:
    outcome = run("models", "add", checkpoint, "--name", "birds", "--arch", "squeezenet1_1")
    assert (outcome.status, outcome.out) == (3, "")
    assert "imagenet1k has 1000 classes, the network has 3" in outcome.err
    assert not (catalog.user_models_folder() / "birds.toml").exists()


def test_show_describes_a_file(run: Run, checkpoint: Path) -> None:
    without = run("models", "show", checkpoint)
    assert without.status == 2
    assert "--arch" in without.err
    options = ["--arch", "squeezenet1_1", "--std", "0.25"]
    shown = json.loads(run("models", "show", checkpoint, *options, "--json").out)
    assert shown["architecture"] == "squeezenet1_1"
    assert (shown["num_classes"], shown["label_set"]) == (3, None)
    assert (shown["path"], shown["bytes"]) == (str(checkpoint), checkpoint.stat().st_size)
    assert shown["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (shown["preprocess"]["resize_size"], shown["preprocess"]["std"]) == (256, [0.25] * 3)
    assert (shown["engines"], shown["features"]) == (["onnxruntime", "torch"], True)
    labels = checkpoint.with_name("kinds.txt")
    table = run("models", "show", checkpoint, *options, "--labels", labels).out
    for part in (f"{labels}, 3 classes", "2.8 MiB", "onnxruntime; torch on a GPU", "0.25, 0.25, 0.25"):
        assert part in table


def test_show_tells_that_features_cannot_be_found(run: Run, tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Mean()).save(str(tmp_path / "mean.pt"))
    options = ["--arch", "resnet18", "--trust", "--json"]
    shown = json.loads(run("models", "show", tmp_path / "mean.pt", *options).out)
    assert (shown["num_classes"], shown["engines"], shown["features"]) == (3, ["torch"], False)
    assert run("models", "show", tmp_path / "mean.pt", "--arch", "resnet18").status == 3


def test_show_tells_what_timm_knows_without_a_network(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    known = timm.get_pretrained_cfg("vit_base_patch16_224.augreg2_in21k_ft_in1k")
    assert known is not None
    shown = json.loads(run("models", "show", "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", "--json").out)
    assert (shown["cached"], shown["path"], shown["sha256"]) == (False, None, None)
    assert shown["url"] == f"https://huggingface.co/{known.hf_hub_id}"
    assert (shown["license"], shown["num_classes"], shown["label_set"]) == (known.license, 1000, "imagenet1k")
    assert shown["preprocess"]["crop_size"] == known.input_size[1]
    assert shown["preprocess"]["resize_size"] == int(known.input_size[1] / known.crop_pct)
    assert (tuple(shown["preprocess"]["mean"]), tuple(shown["preprocess"]["std"])) == (known.mean, known.std)
    assert shown["preprocess"]["interpolation"] == known.interpolation
    assert shown["engines"] == ["torch"]
    table = run("models", "show", "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k").out
    assert "not fetched yet" in table
    assert "imagenet1k, 1000 classes" in table
    unknown = run("models", "show", "timm:resnet18.a9_in1k")
    assert unknown.status == 3
    assert "timm:resnet18.a1_in1k" in unknown.err


def test_show_hashes_the_weights_of_timm_that_are_cached(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Hugging Face client reads its environment only when it is imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--resnet18.a1_in1k"
    blob = b"not read by show"
    digest = hashlib.sha256(blob).hexdigest()
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123")
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / digest).write_bytes(blob)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{digest}")
    shown = json.loads(run("models", "show", "timm:resnet18.a1_in1k", "--json").out)
    assert (shown["cached"], shown["bytes"], shown["sha256"]) == (True, len(blob), digest)
    assert shown["path"] == str(snapshot / "model.safetensors")
    (repository / "blobs" / digest).write_bytes(b"changed")
    wrong = run("models", "show", "timm:resnet18.a1_in1k")
    assert (wrong.status, wrong.out) == (3, "")
    assert digest in wrong.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet50", "--arch", "resnet18"], "these options are for files"),
        (["timm:resnet18.a1_in1k", "--trust"], "these options are for files"),
        (["hub:owner/repo/x"], "only its own code knows"),
    ],
)
def test_what_cannot_be_shown_is_told(arguments: list[str], words: str, run: Run) -> None:
    outcome = run("models", "show", *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert words in outcome.err


def test_a_dangling_link_in_the_cache_is_no_fault(run: Run, mine: FileServer) -> None:
    location = weights.cache_path(catalog.find_model("mine").url)
    location.parent.mkdir(parents=True)
    location.symlink_to("nowhere")
    assert run("cache", "info").status == 0
    assert run("cache", "clear").status == 0
    assert not location.is_symlink()


def test_passwords_in_addresses_are_not_shown(run: Run) -> None:
    add_manifest("squeezenet1_1", "secretive", "https://user:secret@example.org/x.pth", "")
    assert "secret@" not in run("models", "show", "secretive").out
    assert "secret@" not in run("models", "show", "secretive", "--json").out


def test_cache_info_and_clear(run: Run, mine: FileServer) -> None:
    with mine:
        location = Path(run("models", "pull", "mine").out.strip())
    location.with_name(f"{location.name}.partial").write_bytes(b"left behind")
    foreign = location.with_name("somebody-elses.pth")
    foreign.write_bytes(b"x")
    info = json.loads(run("cache", "info", "--json").out)
    verified = paths.verified_folder()
    expected = {
        str(location): ("weights", location.stat().st_size),
        f"{location}.partial": ("broken download", len(b"left behind")),
        f"{location}.lock": ("lock", 0),
        str(verified): ("verified files", sum(file.stat().st_size for file in verified.iterdir())),
    }
    assert {file["path"]: (file["kind"], file["bytes"]) for file in info["files"]} == expected
    assert info["bytes"] == sum(size for _, size in expected.values())
    assert location.name in run("cache", "info").out

    assert set(run("cache", "clear", "--dry-run").out.split()) == set(expected)
    assert all(Path(path).exists() for path in expected)
    cleared = run("cache", "clear")
    assert (cleared.status, set(cleared.out.split())) == (0, set(expected))
    assert list(location.parent.iterdir()) == [foreign]
    assert not paths.cache_folder().exists()
    assert json.loads(run("cache", "info", "--json").out)["files"] == []
    assert "nothing is stored" in run("cache", "info").err


def test_cache_clear_leaves_nothing_of_its_own(run: Run) -> None:
    """Remains of pulls that failed and of a run that was killed, also of models that are in no catalog."""
    checkpoints = paths.torch_hub_folder() / "checkpoints"
    kept = [checkpoints / name for name in ("theirs.pth", "theirs.pth.abc.partial", "theirs.lock")]
    ours = [checkpoints / f"gone.pth.{end}" for end in ("lock", "partial", "rejected-01234567")]
    ours += [paths.prepared_folder() / "0123.lock", paths.inductor_folder() / "fx" / "graph.so"]
    ours += [paths.features_folder() / "0123.features", paths.features_folder() / "0123.features.lock"]
    ours += [paths.verified_folder() / "0123.json", paths.verified_folder() / ".0123.json.7.draft"]
    for file in (*kept, *ours):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if file in ours and file.suffix == ".lock" else b"x" * 2**20)
    table = run("cache", "info").out
    assert [line.split()[-2:] for line in table.splitlines() if "torch compiler" in line] == [["1.0", "MiB"]]
    assert "2 empty" in table
    cleared = run("cache", "clear")
    assert cleared.status == 0
    assert "freed 6.0 MiB" in cleared.err
    assert sorted(checkpoints.iterdir()) == sorted(kept)
    assert not paths.cache_folder().exists()


def test_cache_clear_keeps_what_somebody_else_put_into_the_folder(run: Run) -> None:
    paths.cache_folder().mkdir(parents=True)
    (paths.cache_folder() / "notes.txt").write_text("mine")
    assert run("cache", "clear").status == 0
    assert (paths.cache_folder() / "notes.txt").exists()


def test_two_models_may_share_a_file(run: Run, mine: FileServer) -> None:
    url = catalog.find_model("mine").url
    add_manifest("squeezenet1_1", "twin", url, catalog.find_model("mine").sha256)
    add_manifest("squeezenet1_1", "nameless", "https://example.org/", "")
    with mine:
        run("models", "pull", "mine")
    listed = json.loads(run("cache", "info", "--json").out)["files"]
    assert [file["kind"] for file in listed].count("weights") == 1
    assert run("cache", "clear").status == 0
    assert not weights.cache_path(url).exists()


def test_labels_list_show_search(run: Run, tmp_path: Path) -> None:
    listed = {each["name"]: each["num_classes"] for each in json.loads(run("labels", "list", "--json").out)}
    assert listed == {"cifar10": 10, "imagenet1k": 1000}
    assert "imagenet1k" in run("labels", "list").out
    shown = run("labels", "show", "imagenet1k").out.splitlines()
    assert len(shown) == 1001
    assert "golden retriever" in shown[208]
    [found] = json.loads(run("labels", "search", "n02099601", "--json").out)
    assert (found["class_index"], found["label"]) == (207, "golden retriever")
    assert "golden retriever" in run("labels", "search", "retriever").out
    # Without a terminal, a class is one line.
    assert len(run("labels", "search", "retriever").out.splitlines()) == 1 + 5
    [cougar] = run("labels", "search", "cougar").out.splitlines()[1:]
    assert cougar.split()[1:3] == ["n02125311", "cougar"]
    assert cougar.count("cougar") == 1
    assert all(part in cougar for part in ("puma, catamount", "large American feline resembling a lion"))
    (tmp_path / "own.txt").write_text("cat\ndog\n")
    assert "dog" in run("labels", "show", tmp_path / "own.txt").out


def test_a_search_for_labels_that_finds_nothing_fails_and_names_the_nearest(run: Run) -> None:
    outcome = run("labels", "search", "goldfsh")
    assert (outcome.status, outcome.out) == (1, "")
    assert "'goldfsh'" in outcome.err
    assert "hint: the nearest labels are goldfish" in outcome.err
    assert "Labrador retriever" in run("labels", "search", "my labradoor").err
    far = run("labels", "search", "xyzzyq", "--json")
    assert (far.status, json.loads(far.out)) == (1, [])
    assert "imgclassify labels show imagenet1k" in far.err


def test_list_of_cached_models(run: Run, mine: FileServer) -> None:
    def cached() -> list[str]:
        return [entry["name"] for entry in json.loads(run("models", "list", "--cached", "--json").out)]

    assert cached() == [catalog.EMBEDDED_MODEL]
    with mine:
        run("models", "pull", "mine")
    assert cached() == [catalog.EMBEDDED_MODEL, "mine"]
    assert [line.split()[0] for line in run("models", "list", "--cached").out.splitlines()][1:] == cached()
    none = run("models", "list", "resnet*", "--cached")
    assert (none.status, none.out) == (0, "")
    assert "none of these 8 models are in the cache" in none.err


def test_doctor_finds_nothing_wrong_here(run: Run) -> None:
    outcome = run("doctor")
    assert outcome.status == 0, outcome.out
    for part in (
        "torchvision",
        "operators load",
        "verified",
        "129 models, 5 arch",
        "imagenet1k (1000 classes)",
        "cpu",
    ):
        assert part in outcome.out
    findings = json.loads(run("doctor", "--json").out)
    assert all(finding["ok"] for finding in findings)
    names = [finding["what"] for finding in findings]
    assert sorted(names) == sorted(set(names))
    assert {"onnxruntime", "torch", "torchvision", "timm", "pillow"} <= set(names)


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_doctor_says_what_bfloat16_would_gain(
    has_bfloat16: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_session, "computes_in_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(openvino_engine, "computes_in_bfloat16", lambda: has_bfloat16)
    [row] = [line for line in run("doctor").out.splitlines() if line[3:].startswith("bfloat16 ")]
    assert row.startswith("✓")
    if has_bfloat16:
        assert re.search(r"--dtype auto or bfloat16 computes \d+\.\d times as many images per second", row)
    else:
        assert "this processor does not compute in bfloat16; float32 is faster" in row


def test_doctor_takes_an_installation_without_torch_for_a_whole_one(tmp_path: Path) -> None:
    absent = ("torch", "functorch", "timm")
    site = tmp_path / "site"
    site.mkdir()
    for folder in filter(lambda folder: folder.endswith("-packages"), sys.path):
        for entry in Path(folder).iterdir():
            if not entry.name.startswith(absent) and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
    root = Path(__file__).parents[2]
    # -S leaves out the site-packages of this Python, so that only the links are found.
    command = [sys.executable, "-S", "-m", "imgclassify", "doctor"]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (site, root))), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = [line for line in done.stdout.splitlines() if "torch" in line.split()]
    assert row.startswith("–  torch ")
    assert "not installed (optional). This is a slim installation" in row
    assert "✗" not in done.stdout
    assert "hint: torch: pip install torch torchvision timm for timm:, hub:," in done.stderr


def test_doctor_does_not_tick_a_folder_that_cannot_be_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, but nobody can make a folder in /proc.
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    outcome = run("doctor")
    assert outcome.status == 3
    [row] = [line for line in outcome.out.splitlines() if line[3:].startswith("records ")]
    assert row.startswith("✗")
    assert "/proc/nowhere/imgclassify cannot be made" in row
    assert "hint: records: set XDG_CACHE_HOME" in outcome.err


def test_doctor_says_that_the_default_model_has_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLASSIFY_MODEL", "resnet50")
    assert doctor._check_variable("IMGCLASSIFY_MODEL") == "resnet50"
    monkeypatch.setenv("IMGCLASSIFY_MODEL", "cifar_net")
    with pytest.raises(WeightsError, match="cifar_net is an architecture without weights"):
        doctor._check_variable("IMGCLASSIFY_MODEL")


def test_doctor_names_what_is_wrong_and_its_remedy(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    folder = catalog.user_models_folder()
    folder.mkdir(parents=True)
    (folder / "bad.toml").write_text("colour = 1")
    monkeypatch.setenv("IMGCLASSIFY_MODEL", "nosuch")
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", "ftp://user:secret@example.org")

    def mismatched() -> str:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "_load_torchvision", mismatched)
    outcome = run("doctor")
    assert outcome.status == 3
    assert "torchvision::nms does not exist" in outcome.out
    assert "install the torchvision version that matches the installed torch" in outcome.err
    assert "cannot be made" in outcome.out
    assert "TORCH_HOME" in outcome.err
    assert "bad.toml" in outcome.out
    assert "does not begin with https://" in outcome.out
    assert "secret" not in outcome.out
