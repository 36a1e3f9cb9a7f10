"""Which results are written, and groups and counts of classes."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from conftest import noise

from imgclassify import labels
from imgclassify.classifier import Classifier
from imgclassify.errors import UsageError
from imgclassify.output.reading import read_records
from imgclassify.output.records import PREDICTIONS
from imgclassify.result_filter import ResultFilter
from imgclassify.results import ImageFailure, ImageResult, Prediction

from .conftest import Run, process

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
CAT, COFFEE, ROCKET = (str(EXAMPLES / name) for name in ("cat.jpg", "coffee.jpg", "rocket.jpg"))


def result(class_index: int, probability: float) -> ImageResult:
    label = labels.load_labels("imagenet1k")[class_index]
    return ImageResult("a.jpg", "m", 1, 1, (Prediction(1, class_index, label.wnid, label.label, probability),))


# The filter


@pytest.mark.parametrize(
    ("options", "selected"),
    [
        ({"only": ["dog"]}, {151, 268}),
        ({"only": ["dog", "tabby"]}, {151, 268, 281}),
        ({"without": ["animal"]}, {954}),
        ({"only": ["animal"], "without": ["dog"]}, {0, 281}),
        ({"only": ["n02084071"], "without": ["Chihuahua"]}, {268}),
        ({}, {0, 151, 268, 281, 954}),
    ],
)
def test_a_filter_selects_by_the_best_class(options: dict[str, list[str]], selected: set[int]) -> None:
    chosen = ResultFilter.create(labels.load_labels("imagenet1k"), **options)  # type: ignore[arg-type]
    assert {index for index in (0, 151, 268, 281, 954) if chosen.selects(result(index, 0.5))} == selected


def test_a_filter_selects_by_the_best_probability_and_never_leaves_out_a_failure() -> None:
    chosen = ResultFilter.create(labels.load_labels("imagenet1k"), only=["dog"], min_probability=0.5)
    assert [chosen.selects(result(151, p)) for p in (0.4999, 0.5, 1)] == [False, True, True]
    assert chosen.selects(ImageResult("a.jpg", "m", None, None, (), ImageFailure("corrupt_image", "it is broken")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_probability": 80}, "80"),
        ({"only": ["dog"], "without": ["animal"]}, "no class is left"),
        ({"only": ["nonsense"]}, "'nonsense'"),
    ],
)
def test_a_filter_that_cannot_be_is_an_error(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ResultFilter.create(labels.load_labels("imagenet1k"), **options)  # type: ignore[arg-type]


# predict --only, --not, --min-probability


def best(lines: str) -> list[tuple[str, str | None]]:
    records = [json.loads(line) for line in lines.splitlines()]
    return [
        (Path(record["source"]).name, record["predictions"][0]["label"] if record["predictions"] else None)
        for record in records
    ]


def test_only_the_named_classes_are_written_and_the_others_are_counted(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    summary = tmp_path / "summary.json"
    found = run("predict", CAT, COFFEE, ROCKET, broken, "--only", "cat", "--jsonl", "--summary", summary)
    assert [name for name, _ in best(found.out)] == ["cat.jpg", "broken.jpg"]
    assert "2 left out" in found.err
    facts = json.loads(summary.read_bytes())
    assert (found.status, facts["answered"], facts["left_out"], facts["images"]) == (1, 3, 2, 4)


def test_not_and_min_probability(run: Run) -> None:
    everything = best(run("predict", CAT, COFFEE, ROCKET, "--jsonl").out)
    assert best(run("predict", CAT, COFFEE, ROCKET, "--not", "animal", "--jsonl").out) == everything[1:]
    probable = {
        Path(each.source).name
        for each in Classifier().predict([CAT, COFFEE, ROCKET])
        if each.predictions[0].probability >= 0.6
    }
    assert 0 < len(probable) < 3
    found = best(run("predict", CAT, COFFEE, ROCKET, "--min-probability", "0.6", "--jsonl").out)
    assert {name for name, _ in found} == probable


@pytest.mark.parametrize("options", [["--only", "dogg"], ["--only", "crane"], ["--only", "dog", "--not", "dog"]])
def test_a_wrong_name_is_a_usage_error_before_any_record(options: list[str], run: Run) -> None:
    found = run("predict", CAT, "--jsonl", *options)
    assert (found.status, found.out) == (2, "")
    assert "hint: " in found.err


@pytest.mark.parametrize("output_format", ["csv", "jsonl", "parquet", "sqlite"])
def test_a_resumed_run_knows_what_was_left_out(output_format: str, run: Run, tmp_path: Path) -> None:
    target = tmp_path / f"cats.{output_format}"
    arguments = ["--only", "cat", "-o", target]
    run("predict", CAT, COFFEE, *arguments)
    left_out = tmp_path / f"{target.name}.left-out.jsonl"
    assert best(left_out.read_text())[0][0] == "coffee.jpg"
    before = target.read_bytes()
    again = run("predict", CAT, COFFEE, *arguments, "--resume")
    assert (again.status, target.read_bytes()) == (0, before)
    assert "2 resumed" in again.err
    more = run("predict", CAT, COFFEE, ROCKET, *arguments, "--resume")
    assert (more.status, "1 left out" in more.err) == (0, True)
    assert [name for name, _ in best(left_out.read_text())] == ["coffee.jpg", "rocket.jpg"]

    undisturbed = tmp_path / f"undisturbed.{output_format}"
    run("predict", CAT, COFFEE, ROCKET, "--only", "cat", "-o", undisturbed)
    kept, expected = (list(read_records(path, PREDICTIONS)) for path in (target, undisturbed))
    assert kept == expected
    if output_format in ("csv", "jsonl"):
        assert target.read_bytes() == undisturbed.read_bytes()

    other = run("predict", CAT, "--only", "dog", "-o", target, "--resume")
    assert other.status == 2
    assert "only was 'cat' and is now 'dog'" in other.err
    none = run("predict", CAT, "-o", target, "--resume")
    assert "only was 'cat' and is now not given" in none.err
    left_out.unlink()
    lost = run("predict", CAT, *arguments, "--resume")
    assert lost.status == 2
    assert f"'{left_out.name}', with the images that were left out, is missing" in lost.err


def test_a_stopped_run_knows_what_was_left_out(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    target = tmp_path / "cats.csv"
    arguments = ["--only", "cat", "-o", target]
    stopped = run("predict", COFFEE, broken, CAT, *arguments, "--fail-fast")
    assert stopped.status == 1
    assert not target.exists()
    finished = run("predict", COFFEE, broken, CAT, *arguments, "--resume")
    assert "resumed" in finished.err
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert [Path(row["source"]).name for row in rows] == ["broken.jpg", "cat.jpg"]
    assert [name for name, _ in best((tmp_path / "cats.csv.left-out.jsonl").read_text())] == ["coffee.jpg"]


# predict --group


def test_groups_are_predicted(run: Run) -> None:
    found = run("predict", CAT, "--group", "dog,cat", "--json", "-k", "9")
    document = json.loads(found.out)
    [record] = document["results"]
    assert [each["label"] for each in record["predictions"]] == ["cat", "other", "dog"]
    assert sum(each["probability"] for each in record["predictions"]) == pytest.approx(1, abs=1e-5)
    groups = document["run"]["groups"]
    assert [each["label"] for each in groups] == ["dog", "cat", "other"]
    assert groups[0]["class_indices"] == list(range(151, 269))
    only = run("predict", CAT, COFFEE, "--group", "dog,cat", "--only", "other", "--jsonl")
    assert best(only.out) == [("coffee.jpg", "other")]


def test_a_run_with_other_groups_is_not_resumed(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "groups.csv"
    assert run("predict", CAT, "--group", "dog,cat", "-o", target).status == 0
    assert run("predict", CAT, "--group", "dog,cat", "-o", target, "--resume").status == 0
    for groups, now in (("dog,bird", "dog (118), bird (59)"), ("cat,dog", "cat (7), dog (118)")):
        other = run("predict", CAT, "--group", groups, "-o", target, "--resume")
        assert other.status == 2
        assert f"groups was [dog (118), cat (7), other (875)] and is now [{now}, other (" in other.err


# predict --count


def test_what_is_not_seen_is_told_also_of_one_image(run: Run, tmp_path: Path) -> None:
    assert "1 image in" in run("predict", CAT, "--only", "dog", "--jsonl").err
    assert "1 failed" in run("predict", tmp_path / "none.jpg", "-o", tmp_path / "o.csv").err
    assert run("predict", CAT, "--jsonl").err == ""


def test_group_may_be_given_several_times(run: Run) -> None:
    found = json.loads(run("predict", CAT, "--group", "dog,cat", "--group", "bird", "--json").out)
    assert [each["label"] for each in found["run"]["groups"]] == ["dog", "cat", "bird", "other"]
    wrong = run("predict", CAT, "--group", "dog,cat", "--only", "bird")
    assert "hint: the labels are dog, cat, other" in wrong.err


def test_counts_alone_have_no_output(run: Run, tmp_path: Path) -> None:
    for option in ([], ["-o", os.devnull, "-f", "jsonl"]):
        run("predict", CAT, "--count", "--summary", tmp_path / "summary.json", *option)
        assert json.loads((tmp_path / "summary.json").read_bytes())["output"] is None


def test_labels_are_counted_instead_of_written(run: Run) -> None:
    found = run("predict", CAT, COFFEE, CAT, "--count", "--json")
    cat, coffee = (label for _, label in best(run("predict", CAT, COFFEE, "--jsonl").out))
    assert [(each["label"], each["count"]) for each in json.loads(found.out)] == [(cat, 2), (coffee, 1)]
    table = run("predict", CAT, COFFEE, CAT, "--count").out.splitlines()
    assert [line.split(maxsplit=3) for line in table] == [
        ["images", "share", "label"],
        ["2", "66.7", "%", cat],
        ["1", "33.3", "%", coffee],
    ]


def test_counts_beside_records_cover_a_resumed_run_and_leave_out_what_is_filtered(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "records.csv"
    arguments = ["--count", "--json", "-o", target, "--group", "cat,cup", "--not", "cup"]
    first = run("predict", CAT, COFFEE, *arguments)
    assert [(each["label"], each["count"]) for each in json.loads(first.out)] == [("cat", 1), ("other", 1)]
    assert target.read_text().startswith("source,")
    for _ in range(2):
        again = run("predict", CAT, COFFEE, ROCKET, *arguments, "--resume")
        assert [(each["label"], each["count"]) for each in json.loads(again.out)] == [("other", 2), ("cat", 1)]


@pytest.mark.parametrize("options", [["--jsonl"], ["-f", "csv"], ["-o", "-"]])
def test_counts_and_records_do_not_share_stdout(options: list[str], run: Run) -> None:
    found = run("predict", CAT, "--count", *options)
    assert (found.status, found.out) == (2, "")


def test_counting_an_album_that_fails_wholly_prints_nothing(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "whole.png")
    (tmp_path / "whole.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    done = process("predict", tmp_path, "--count", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, [])


# labels search --under, labels tree


def test_the_classes_under_a_node_are_found(run: Run) -> None:
    found = json.loads(run("labels", "search", "--under", "dog", "--json").out)
    assert [each["class_index"] for each in found] == list(range(151, 269))
    retrievers = json.loads(run("labels", "search", "retriever", "--under", "dog", "--json").out)
    assert [each["class_index"] for each in retrievers] == [205, 206, 207, 208, 209]


def test_the_tree_is_printed(run: Run) -> None:
    lines = run("labels", "tree", "dog", "--depth", "1").out.splitlines()
    assert lines[1].split() == ["118", "n02084071", "dog"]
    assert "63  n02087122    hunting dog" in lines[3]
    document = json.loads(run("labels", "tree", "dog", "--json").out)
    assert (document["num_classes"], document["children"][1]["name"]) == (118, "hunting dog")


@pytest.mark.parametrize("command", [["tree", "dogg"], ["search", "--under", "dogg"]])
def test_an_unknown_node_is_status_1_with_the_nearest(command: list[str], run: Run) -> None:
    found = run("labels", *command)
    assert (found.status, found.out) == (1, "")
    assert "did you mean dog?" in found.err
    assert run("labels", "search").status == 2


@pytest.mark.parametrize("output_format", ["csv", "jsonl", "parquet", "sqlite"])
def test_what_is_left_of_a_damaged_image_is_answered_marked_and_resumed(
    output_format: str, run: Run, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "a.jpg", tmp_path / "b.jpg"
    noise(200, 150).save(whole)
    cut.write_bytes(whole.read_bytes()[:-900])
    target = tmp_path / f"records.{output_format}"
    found = run("predict", whole, cut, "--decode-damaged", "-o", target)
    assert found.status == 0
    assert [record.damaged for record in read_records(target, PREDICTIONS)] == [False, True]
    before = target.read_bytes()
    again = run("predict", whole, cut, "--decode-damaged", "-o", target, "--resume")
    assert (again.status, "2 resumed" in again.err, target.read_bytes()) == (0, True, before)
    without = run("predict", whole, cut, "-o", target, "--resume")
    assert (without.status, "decode_damaged was 'yes' and is now not given" in without.err) == (2, True)
    strict = run("predict", whole, cut, "-o", target, "--overwrite")
    assert strict.status == 1
    assert [bool(record.error) for record in read_records(target, PREDICTIONS)] == [False, True]
    later = run("predict", whole, cut, "--decode-damaged", "-o", target, "--retry-errors")
    assert (later.status, "decode_damaged was not given and is now 'yes'" in later.err) == (2, True)


def test_vectors_of_damaged_images_are_marked_too(run: Run, tmp_path: Path) -> None:
    cut = tmp_path / "b.png"
    noise(200, 150).save(cut)
    cut.write_bytes(cut.read_bytes()[:-900])
    assert run("embed", cut).status == 1
    found = run("embed", cut, "--decode-damaged", "--isolate")
    assert found.status == 0
    assert json.loads(found.out)["damaged"] is True


def test_a_damaged_image_is_previewed(run: Run, tmp_path: Path) -> None:
    cut = tmp_path / "b.gif"
    noise(200, 150).save(cut)
    cut.write_bytes(cut.read_bytes()[:-900])
    assert run("preview", cut).status == 1
    overlay = tmp_path / "overlay.png"
    found = run("preview", cut, "--decode-damaged", "--json", "--overlay", overlay)
    assert (found.status, json.loads(found.out)["damaged"]) == (0, True)
    assert overlay.exists()
