"""Plugins: the package of docs/plugins.md, built and installed, adds a format and a kind of reference."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import seeded

from imgclassify.errors import UnavailableError
from imgclassify.output.formats import PLUGIN_GROUP, OutputFormat
from imgclassify.plugins import load_plugins

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text("utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package installed in it."""
    pytest.importorskip("pip", reason="the package is installed with pip")
    project = tmp_path_factory.mktemp("imgclassify-lab")
    (project / "pyproject.toml").write_text(block("toml"))
    (project / "imgclassify_lab.py").write_text(block("python"))
    target = tmp_path_factory.mktemp("site-packages")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", target, project], check=True)
    return target


@pytest.fixture
def environment(site_packages: Path, tmp_path: Path) -> dict[str, str]:
    torch.save(seeded("resnet18").state_dict(), tmp_path / "orchids.pth")
    path = os.pathsep.join([str(site_packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "LAB_MODELS": str(tmp_path)}


def run(*arguments: str | Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imgclassify", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_a_package_adds_a_format(environment: dict[str, str], photo: Path, tmp_path: Path) -> None:
    done = run("predict", photo, "-f", "markdown", environment=environment)
    assert done.returncode == 0, done.stderr
    header, rule, row = done.stdout.splitlines()
    assert (header, rule) == ("| image | label |", "|---|---|")
    assert row.startswith(f"| {photo} | ")
    done = run("predict", photo, "-o", tmp_path / "labels.md", environment=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "labels.md").read_text().splitlines() == [header, rule, row]


def test_a_format_of_a_package_is_resumed_only_if_it_can_be(environment: dict[str, str], photo: Path) -> None:
    done = run("predict", photo, "-o", "labels.md", "--resume", environment=environment)
    assert done.returncode == 2
    assert "a run that writes markdown to 'labels.md' cannot be resumed" in done.stderr


def test_a_package_adds_a_kind_of_reference(environment: dict[str, str], photo: Path, tmp_path: Path) -> None:
    done = run("predict", photo, "-m", "lab:orchids", "--jsonl", environment=environment)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["model"] == "lab:orchids"
    done = run(
        "predict", photo, "-m", tmp_path / "orchids.pth", "--arch", "resnet18", "--jsonl", environment=environment
    )
    assert record["predictions"] == json.loads(done.stdout)["predictions"]


def test_hints_and_help_know_what_packages_add(environment: dict[str, str], photo: Path) -> None:
    done = run("predict", photo, "-f", "toml", environment=environment)
    assert done.returncode == 2
    assert "unknown format 'toml'" in done.stderr
    assert "markdown" in done.stderr
    done = run("predict", photo, "-m", "zoo:orchids", environment=environment)
    assert done.returncode == 3
    assert "lab:NAME" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:FORMAT", "No module named 'no_such_module'"),
        ("json:dumps", "it is a function"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    metadata = tmp_path / "broken_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{PLUGIN_GROUP}]\nbroken = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins.cache_clear()
    try:
        with pytest.raises(UnavailableError, match="broken-plugin") as caught:
            load_plugins(PLUGIN_GROUP, OutputFormat)
    finally:
        load_plugins.cache_clear()
    assert value in str(caught.value)
    assert reason in str(caught.value)
    assert "pip uninstall broken-plugin" in str(caught.value.hint)
