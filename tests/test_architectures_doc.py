"""docs/architectures.md names every torchvision architecture, and its numbers keep what engines.md promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imgclassify import catalog
from imgclassify.catalog import ModelManifest

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
PROMISED = 1e-4
"""The most that probabilities may differ by."""
SHIPPED = [each for each in catalog.load_manifests() if each.provider == "torchvision"]
DEFAULTS = {each.name: each for each in SHIPPED if each.default}
FLOAT, FURTHER, TORCH = "onnxruntime beside torch", "Graphs for other crop sizes", "What runs in torch"


def rows(title: str) -> dict[str, dict[str, str]]:
    """Architecture → heading → text, of the table below a heading of the third level."""
    section = PAGE.read_text("utf-8").partition(f"### {title}\n")[2]
    found = re.match(r"\n*((?:\|.*\n)+)", section)
    assert found, title
    headings, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found[1].splitlines()]
    named = [dict(zip(headings, cells, strict=True)) for cells in lines]
    assert len({row["architecture"] for row in named}) == len(named)
    return {row["architecture"]: row for row in named}


def is_quantized(manifest: ModelManifest) -> bool:
    return bool(manifest.options.get("quantize"))


def test_the_page_lists_the_catalogues_architectures() -> None:
    assert len(DEFAULTS) == 92
    quantized = {name for name, manifest in DEFAULTS.items() if is_quantized(manifest)}
    assert rows(FLOAT).keys() == DEFAULTS.keys() - quantized
    assert rows(TORCH).keys() == quantized


def test_every_crop_size_of_a_float_architecture_is_there() -> None:
    listed = [
        (name.partition("@")[0], row["crop"]) for title in (FLOAT, FURTHER) for name, row in rows(title).items()
    ]
    wanted = {(each.name, str(each.preprocess.crop_size[0])) for each in SHIPPED if not is_quantized(each)}
    assert sorted(listed) == sorted(wanted)
    for title in (FLOAT, TORCH):
        for name, row in rows(title).items():
            assert row["crop"] == str(DEFAULTS[name].preprocess.crop_size[0])


@pytest.mark.parametrize("title", [FLOAT, FURTHER])
def test_answers_are_torchs(title: str) -> None:
    for name, row in rows(title).items():
        assert float(row["probabilities differ by"]) <= PROMISED, name
        assert row["same top-1"] == "yes", name
        assert float(row["largest logit"]) > 1, name


def test_what_runs_in_torch_has_its_reason() -> None:
    assert {row["why"] for row in rows(TORCH).values()} == {"quantized networks run in torch alone"}


def test_every_float_architecture_was_timed() -> None:
    for name, row in rows(FLOAT).items():
        assert int(row["onnxruntime, ms"]) > 0, name
        assert int(row["onnxruntime, MiB"]) > 0, name
