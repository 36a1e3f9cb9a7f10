"""What is public: the names in the `__all__` of the modules that docs/python.md lists. All else is private."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from inspect import isclass, isfunction
from pathlib import Path

import pytest

import imgclassify

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PUBLIC_MODULES = re.findall(r"^\| `(imgclassify[\w.]*)` \|", (ROOT / "docs" / "python.md").read_text("utf-8"), re.M)


def imports(code: str) -> Iterator[tuple[str, str]]:
    """(module, name) of each `from module import name`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_each_public_name_exists_and_is_documented(module: str) -> None:
    loaded = import_module(module)
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if isclass(value) or isfunction(value):
            in_module = re.search(rf"\b{name}\b", loaded.__doc__)  # as in the tree of errors
            assert in_module or value.__doc__, name
            assert not (value.__doc__ or "").startswith(f"{name}("), name  # a dataclass's own, which says nothing


def test_each_name_of_the_package_is_found_in_its_home() -> None:
    assert set(imgclassify.__all__) == {*imgclassify._HOMES, "__version__"}
    for name, home in imgclassify._HOMES.items():
        assert getattr(imgclassify, name) is getattr(import_module(f"imgclassify.{home}"), name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_docs_use_public_names_alone(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        for module, name in imports(block):
            if module.split(".")[0] == "imgclassify":
                assert module in PUBLIC_MODULES
                assert name in import_module(module).__all__


@pytest.mark.parametrize(
    "front", sorted((ROOT / "imgclassify").glob("*/**/__init__.py")), ids=lambda path: path.parent.name
)
def test_the_front_of_a_room_only_exports(front: Path) -> None:
    kinds = (ast.Expr, ast.ImportFrom, ast.Assign)
    assert not [node for node in ast.parse(front.read_text("utf-8")).body if not isinstance(node, kinds)]


def test_no_module_imports_a_private_name_or_the_packages_front() -> None:
    for path in (ROOT / "imgclassify").rglob("*.py"):
        for module, name in imports(path.read_text("utf-8")):
            if module.split(".")[0] == "imgclassify":
                assert not name.startswith("_") or is_module(f"{module}.{name}") or name == "__version__", path
                assert module != "imgclassify" or is_module(f"imgclassify.{name}"), path
