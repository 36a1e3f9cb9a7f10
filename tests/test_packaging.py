"""The wheel and the sdist: built, installed in an environment of their own, and used from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return folder


def test_the_wheel_carries_the_data_and_no_tests(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "models/resnet.toml",
        "models/efficientnet_lite.toml",
        "models/features/efficientnet_lite0.json",
        "labels/imagenet1k.tsv",
        "labels/imagenet1k.tree.tsv",
    ):
        assert f"imgclassify/_data/{name}" in names
    schemas = {"imgclassify/output/run.schema.json", "imgclassify/evaluation/evaluation.schema.json"}
    assert {"imgclassify/py.typed", *schemas} <= names
    templates = {path.name for path in (ROOT / "imgclassify" / "report" / "templates").iterdir()}
    assert {f"imgclassify/report/templates/{name}" for name in templates} <= names
    assert "evaluation.html.jinja" in templates
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "tools/", "examples/"))]


def test_the_sdist_holds_what_builds_and_tests_it(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "models/resnet.toml", "labels/imagenet1k.tsv", "tests/conftest.py", "LICENSE"):
        assert name in names


def test_the_installed_wheel_answers_from_another_folder(built: Path, tmp_path: Path) -> None:
    """In an environment that holds the wheel; its dependencies are borrowed, since torch alone is gigabytes."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    packages = Path(paths["purelib"])
    [wheel] = built.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", packages, wheel], check=True
    )
    # A plain path line: the borrowed folder's own .pth files, among them an editable install, are not followed.
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*arguments: str) -> str:
        return subprocess.run(
            [python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    where = run("-c", "import imgclassify; print(imgclassify.__file__)")
    assert Path(where.strip()).is_relative_to(packages)
    document = json.loads(run("-m", "imgclassify", "predict", str(ROOT / "examples" / "coffee.jpg"), "--json"))
    assert document["results"][0]["predictions"][0]["label"] == "espresso"
    assert len(json.loads(run("-m", "imgclassify", "models", "list", "--json"))) == 134
    assert "imagenet1k" in run("-m", "imgclassify", "labels", "list")


def test_the_data_folder_of_a_checkout_needs_its_pyproject(tmp_path: Path) -> None:
    """A stray models/ folder beside an installed package is not taken for the catalog."""
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    code += "from imgclassify import catalog; catalog.load_manifests()"
    (tmp_path / "imgclassify").symlink_to(ROOT / "imgclassify")
    (tmp_path / "models").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ResourceError: the models/ folder that ships with imgclassify is missing" in done.stderr


def test_a_slim_installation_has_everything_but_torch_torchvision_and_timm() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    heavy = re.compile(r"(torch|torchvision|timm)\b")
    wanted = [each for each in project["dependencies"] if not heavy.match(each)]
    assert len(wanted) == len(project["dependencies"]) - 3
    lines = (ROOT / "requirements-slim.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted
