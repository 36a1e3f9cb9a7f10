"""The fuzz targets, for as long as a test may take, and that they find what there is to be found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import AVAILABLE_FORMATS
from fuzz import harness, images
from fuzz.harness import FindingError, Input, Target
from fuzz.mutations import mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def pictures() -> Iterator[Target]:
    target = images.target()
    yield target
    target.close()


_WITHOUT_FIELDS = ("PPM", "JPEGXL", "video matroska", "video mpegts")


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(given_input=mutated(images.seeds(), fields=images.fields, repair=images.repair))
def test_no_mutated_image_crashes_or_hangs_a_decoder(pictures: Target, given_input: Input) -> None:
    pictures.attempt(given_input)


def test_every_seed_is_answered_and_every_format_has_one(pictures: Target) -> None:
    seeds = images.seeds()
    assert {pictures.attempt(Input(kind, content)) for kind, content in seeds.items()} == {"answered"}
    videos = {"video"} if find_spec("av") else set()
    assert {kind.split()[0] for kind in seeds} == {*AVAILABLE_FORMATS, "MPO", *videos}


def test_every_format_but_some_has_fields_and_they_lie_in_the_file() -> None:
    for kind, content in images.seeds().items():
        fields = images.fields(content)
        assert bool(fields) == (not kind.startswith(_WITHOUT_FIELDS)), kind
        assert all(field.position + field.width <= len(content) for field in fields)


def test_a_repaired_png_is_read_past_its_changed_chunk(pictures: Target) -> None:
    changed = bytearray(images.seeds()["PNG 0"])
    changed[19] += 1  # the width
    assert pictures.attempt(Input("PNG", bytes(changed))) == "corrupt_image"
    assert images.repair(bytes(changed)) != changed
    assert images.repair(images.seeds()["PNG 1"]) == images.seeds()["PNG 1"]


# The loop ---------------------------------------------------------------------------------------------------


def brittle(given_input: Input) -> str:
    """Code under test that fails over two things."""
    if given_input.content.count(b"\xff") > 1:
        raise FindingError("two bytes of 255")
    if b"\0" in given_input.content:
        raise ZeroDivisionError("a zero")
    return "fine"


def target() -> Target:
    return Target("brittle", mutated({"one": b"abc" * 9, "two": b"12345"}), brittle, peak_bytes=lambda: 2**20)


def test_the_loop_keeps_each_finding_with_its_input(tmp_path: Path) -> None:
    figures = harness.run(target(), seconds=4, seed=3, folder=tmp_path)
    assert figures.tried.total() == figures.outcomes.total() > 20
    assert set(figures.tried) == {"one", "two"}
    assert {"two bytes of 255", "ZeroDivisionError: a zero", "fine"} == set(figures.outcomes)
    assert len(figures.findings) == figures.outcomes.total() - figures.outcomes["fine"]
    for words, path in figures.findings:
        with pytest.raises((FindingError, ZeroDivisionError), match=words.rpartition(": ")[2]):
            brittle(Input("", path.read_bytes()))
    assert figures.peak_bytes == 2**20
    assert f"{len(figures.findings)} findings" in str(figures)


def test_the_same_seed_makes_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ROUND", 50)

    def inputs(seed: int) -> list[Input]:
        seen: list[Input] = []
        figures = harness.Figures(seed)
        recording = Target("recording", target().inputs, lambda given_input: seen.append(given_input) or "seen")
        harness._round(recording, seed, float("inf"), figures, Path(os.devnull).parent / "none")
        return seen

    assert inputs(5) == inputs(5)
    assert inputs(5) != inputs(6)


@given(st.data())
def test_a_mutation_may_be_anything_but_is_made_from_a_seed(data: st.DataObject) -> None:
    given_input = data.draw(mutated({"letters": b"abcdefgh"}, most=1))
    assert given_input.kind == "letters"
