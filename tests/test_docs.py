"""The docs are true: examples print what they show, references are complete, generated pages are fresh."""

from __future__ import annotations

import ast
import io
import os
import re
import struct
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from imgclassify import errors
from imgclassify.catalog import parse_manifests
from imgclassify.cli.commands import doctor
from imgclassify.errors import ImageError, UnsupportedImageError
from imgclassify.images.decoding import decode_image
from imgclassify.images.tiff import layout
from imgclassify.sources import IMAGE_FORMATS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODELS = (ROOT / "docs" / "models.md").read_text("utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_files_and_functions_that_the_guide_names_exist() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| .+ \| (`[a-z_]+(?:/[a-z_]+)*\.py`.*) \|$", guide, re.MULTILINE)
    assert len(rows) > 15
    for row in rows:
        files, _, functions = row.partition(": ")
        sources = [(ROOT / "imgclassify" / file).read_text("utf-8") for file in re.findall(r"`(\S+\.py)`", files)]
        for function in re.findall(r"`(\w+)`", functions):
            assert any(f"def {function}(" in source for source in sources), row


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme] == []


@pytest.mark.parametrize("tool", ["make_docs.py", pytest.param("make_labels.py", marks=pytest.mark.needs_torch)])
def test_generated_files_are_fresh(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_docstrings_explain_parameters_that_are_there() -> None:
    for path in (ROOT / "imgclassify").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", ast.get_docstring(node) or "", re.M | re.S)
                explained = re.findall(r"^    (\w+)(?:, (\w+))*:", section[1], re.M) if section else []
                known = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
                assert {name for names in explained for name in names if name} <= known, f"{path} {node.name}"


def test_the_readmes_example_prints_what_it_shows() -> None:
    command, _, shown = blocks(ROOT / "README.md", "")[0].partition("\n")
    assert command.startswith("$ imgclassify ")
    done = subprocess.run(
        [sys.executable, "-m", *command.removeprefix("$ ").split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONUTF8": "1"},
    )
    # The last digit may differ between processors.
    number = re.compile(r"\d+\.\d+")
    assert number.sub("#", done.stdout) == number.sub("#", shown)
    for found, expected in zip(number.findall(done.stdout), number.findall(shown), strict=True):
        assert float(found) == pytest.approx(float(expected), abs=0.02)


def test_every_option_in_the_readme_and_docs_exists() -> None:
    forms = re.findall(r"^\| `(-.*?)` \|", (ROOT / "docs" / "cli.md").read_text("utf-8"), re.MULTILINE)
    known = set(re.findall(r"--[\w-]+", " ".join(forms)))
    foreign = {
        "--check",
        "--no-cache-dir",
        "--rm",
        "--user",
        "--write",
        "--install-completion",
        "--force-reinstall",
        "--no-deps",
        "--version",
        "--help",
    }
    for page in PAGES:
        used = set(re.findall(r"(?<![\w-])(--[a-z][\w-]+)", page.read_text("utf-8")))
        assert used - known - foreign == set(), page.name


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("README.md", "espresso"),
        ("docs/python.md", "espresso"),
        ("docs/embed.md", "(1280, 7, 7)"),
        ("docs/duplicates.md", "(451, 300)"),
        ("docs/sort.md", "rocket.jpg link removed"),
    ],
)
def test_python_examples_run(page: str, printed: str) -> None:
    code = "\n".join(blocks(ROOT / page, "python"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


def test_the_manifest_in_the_docs_parses_and_each_key_is_described() -> None:
    [manifest] = parse_manifests(blocks(ROOT / "docs" / "models.md", "toml")[0], "docs/models.md")
    assert manifest.name == "birds"
    table = MODELS.partition("## Models of your own")[2]
    described = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert described == {
        "name", "weights", "default", "architecture", "provider", "url", "sha256", "num_classes", "label_set",
        "preprocess", "options", "rename", "layers", "metadata", "file", "gflops", "activation", "output_name",
        "checkpoint_key", "calibration",
    }  # fmt: skip


def test_every_error_type_and_exit_status_is_documented() -> None:
    images = (ROOT / "docs" / "images.md").read_text("utf-8").partition("## Errors")[2]
    described = set(re.findall(r"^\| `(\w+)` \|", images, re.MULTILINE))
    kinds = errors.ImageError.__subclasses__()
    assert described == {
        kind.type for kind in [*kinds, *(below for kind in kinds for below in kind.__subclasses__())]
    }
    statuses = (ROOT / "docs" / "exit-status.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| (\d+) \|.*\| `(\w+)` \|$", statuses, re.MULTILINE))
    assert listed == {str(int(status)): status.name for status in errors.ExitStatus}


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"^[│├└─ ]+(\w+Error)\b(?: +(\d+))?", errors.__doc__ or "", re.MULTILINE)
    defined = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ImgclassifyError)
    }
    assert {name for name, _ in drawn} | {"ImgclassifyError"} == set(defined)
    for name, status in drawn:
        if status:
            assert int(defined[name].exit_status) == int(status)


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The first table under a heading: the first cell of each row → the other cells."""
    text = (ROOT / "docs" / page).read_text("utf-8").partition(f"\n{heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines, heading
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[0].splitlines()[2:]]
    return {first: others for first, *others in rows}


def test_the_table_of_formats_is_that_of_the_code() -> None:
    rows = table("images.md", "## Formats")
    assert {name.split(",")[0]: tuple(cells[0].split()) for name, cells in rows.items()} == IMAGE_FORMATS
    opened_with = {name: packages for name, cells in rows.items() if (packages := _installed(" ".join(cells)))}
    assert opened_with == {"HEIC, HEIF": ["pillow-heif"], "JPEG XL": ["pillow-jxl-plugin"], "DICOM": ["pydicom"]}
    assert len(rows) == 12  # "Only these twelve formats"


def _installed(text: str) -> list[str]:
    return re.findall(r"`pip install ([\w-]+)`", text)


def test_every_extra_is_described_and_each_package_of_one_is_proposed_rightly() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    described = {name.strip("`") for name in table("install.md", "## Extras")}
    assert described == extras.keys() - {"dev", "benchmarks"}
    packages = {re.split("[><=]", each)[0] for name in described for each in extras[name]}
    assert set(_installed((ROOT / "docs" / "images.md").read_text("utf-8"))) <= packages
    assert {names[0] for names in doctor._EXTRAS} == packages - {"transformers"}


def _is_supported(code: int, bits: int) -> bool:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "TIFF")
    content = stream.getvalue()
    for tag, old, new in ((258, 8, bits), (259, 1, code)):
        entry = struct.pack("<HHI", tag, 3, 1)  # of one SHORT
        assert entry + struct.pack("<H", old) in content
        content = content.replace(entry + struct.pack("<H", old), entry + struct.pack("<H", new))
    try:
        decode_image(io.BytesIO(content + bytes(128)))
    except UnsupportedImageError:
        return False
    except ImageError:  # the data is none, but it was tried
        return True
    return True


@pytest.mark.parametrize("code", [*layout.COMPRESSION_NAMES, 65000])
def test_the_table_of_tiffs_says_which_compressions_are_read(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, str] = {}
    for first, others in table("images.md", "### TIFF").items():
        said |= dict.fromkeys(re.split(r"[,;] (?:and )?| and ", first), others[0])
    name = layout.COMPRESSION_NAMES.get(code, "any other compression")
    term = max((each for each in said if f"{name} ".startswith(f"{each} ")), key=len, default=None)
    assert term, f"{name} is not in the table"
    if "where it can be" in said[term]:
        return
    bits = 4 if name == "ThunderScan" else 1 if "CCITT" in name else 8
    monkeypatch.setattr(layout, "find_spec", lambda _name: None)  # as if imagecodecs were not installed
    needs_extra = said[term].startswith("read with `pip install imagecodecs`")
    assert _is_supported(code, bits) == (said[term].startswith("read") and not needs_extra)
    if find_spec("imagecodecs"):
        monkeypatch.setattr(layout, "find_spec", find_spec)
        assert _is_supported(code, bits) == said[term].startswith("read")
        deep = needs_extra or name in said[term].partition(";")[2]
        assert _is_supported(code, 16) == (said[term] == "read" or deep)
