"""The commands of docs/recipes.md, typed as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
RECIPES = re.findall(
    r"^```sh\n(.*?)^```$", (ROOT / "docs" / "recipes.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)
OTHER_PROGRAMS = ("jq", "sqlite3")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the recipes name, and `imgclassify` on the PATH."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "photos" / "more").mkdir(parents=True)
    for name in ("cat.jpg", "coffee.jpg", "rocket.jpg"):
        shutil.copy(EXAMPLES / name, folder / "photos" / name)
    shutil.copy(EXAMPLES / "cat.jpg", folder / "dog.jpg")
    shutil.copy(EXAMPLES / "coffee.jpg", folder / "photos" / "more" / "again.jpg")
    for path, name in (("labelled/espresso/1.jpg", "coffee.jpg"), ("byname/n07920052_espresso.jpg", "coffee.jpg")):
        (folder / path).parent.mkdir(parents=True)
        shutil.copy(EXAMPLES / name, folder / path)
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(num_classes=3).state_dict(), folder / "mine.pth")
    (folder / "classes.txt").write_text("ant\nbee\nwasp\n")
    program = folder / "bin" / "imgclassify"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imgclassify "$@"\n')
    program.chmod(0o755)
    return folder


def test_the_page_has_recipes() -> None:
    assert len(RECIPES) > 10


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.splitlines()[0][:60])
def test_a_recipe_works_as_it_is_written(recipe: str, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "home")
    environment = {
        **os.environ,
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "IMGCLASSIFY_OFFLINE": "1",
    }
    lines = recipe.splitlines()
    assert lines
    for line in lines:
        if any(re.search(rf"\b{program} ", line) and not shutil.which(program) for program in OTHER_PROGRAMS):
            continue  # this machine does not have the program
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path / "home",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), f"{line}\n{done.stdout}{done.stderr}"
        assert done.stdout or "-o " in line or "--into" in line or "--retry-errors" in line, line
