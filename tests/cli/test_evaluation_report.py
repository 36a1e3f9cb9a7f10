"""evaluate --report: the page beside the other outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.conftest import Run

import imgclassify.cli.commands.evaluate as command


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of an earlier run, whose truth is in the names of the folders."""
    lines = []
    for source, label, index, probability in (
        ("goldfish/1.jpg", "goldfish", 1, 0.9),
        ("goldfish/2.jpg", "tench", 0, 0.6),
        ("tench/<b>.jpg", "tench", 0, 0.7),
    ):
        [wnid] = [{"tench": "n01440764", "goldfish": "n01443537"}[label]]
        prediction = {"rank": 1, "class_index": index, "wnid": wnid, "label": label, "probability": probability}
        record = {"source": source, "model": "resnet50", "width": 4, "height": 3, "predictions": [prediction]}
        lines.append(json.dumps({**record, "error": None}))
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_page_has_the_figures_of_the_document(run: Run, results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("evaluate", "--from", results, "--json", "--report", page)
    assert done.status == 0, done.err
    document = json.loads(done.out)
    text = page.read_text("utf-8")
    assert f'<data value="{document["metrics"]["acc1"]["value"]}">66.67 %</data>' in text
    assert document["metrics"]["acc1"]["value"] == 2 / 3
    assert "Evaluation of <bdi>resnet50</bdi>" in text


def test_an_earlier_page_is_kept_before_anything_is_computed(
    run: Run, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("earlier")
    monkeypatch.setattr(command, "_evaluate_file", lambda *_: pytest.fail("the evaluation has begun"))
    monkeypatch.setattr(command, "_evaluate_images", lambda *_: pytest.fail("the evaluation has begun"))
    for arguments in (["--from", results], [tmp_path]):
        done = run("evaluate", *arguments, "--report", page)
        assert done.status == 2
        assert "page.html' exists already" in done.err
        assert "add --overwrite to replace it, or choose another --report" in " ".join(done.err.split())
    assert page.read_text() == "earlier"


def test_overwrite_replaces_a_page(run: Run, results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("earlier")
    assert run("evaluate", "--from", results, "--report", page, "--overwrite").status == 0
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("option", ["-o", "--save-logits"])
def test_the_page_and_the_records_are_two_files(run: Run, tmp_path: Path, option: str) -> None:
    file = tmp_path / "one.jsonl"
    done = run("evaluate", tmp_path, option, file, "--report", tmp_path / "." / "one.jsonl")
    assert done.status == 2
    assert "name the same file" in done.err
    assert not file.exists()


@pytest.mark.parametrize("option", ["--resume", "--retry-errors"])
def test_a_resumed_run_is_not_told_to_overwrite(run: Run, tmp_path: Path, option: str) -> None:
    page = tmp_path / "page.html"
    page.write_text("earlier")
    done = run("evaluate", tmp_path, "-o", tmp_path / "records.jsonl", option, "--report", page)
    assert done.status == 2
    hint = " ".join(done.err.split()).partition("hint: ")[2]
    assert hint == "choose another --report, or remove it: --overwrite would replace the records too"
