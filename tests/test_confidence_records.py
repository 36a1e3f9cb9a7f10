"""What a record says of its confidence: each format holds it and gives it back."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs import RESUMABLE
from test_output import BAD, GOOD, RUN, SCHEMA_FILE

from imgclassify import output
from imgclassify.errors import UsageError
from imgclassify.output.formats import find_format
from imgclassify.output.reading import read_records
from imgclassify.output.records import OPTIONAL_FIELDS, PREDICTIONS, predictions_with
from imgclassify.results import Answer, ImageResult, RunInfo, Unfamiliarity

every_format = pytest.mark.parametrize("name", RESUMABLE)
CALIBRATION = {
    "temperature": 0.834,
    "origin": "the catalog",
    "source": "an article",
    "images": None,
    "ece_before": 0.07,
    "ece_after": 0.01,
}
SETTINGS = {"top_k": 2, "at_least": "0.9", "sets": "0.95 (raps)"}
SURE = replace(RUN, activation="softmax", calibration=CALIBRATION, unfamiliar="nci")
ODD = ['a, "b"', "c|d", "e\nf", "g;h\ti", "[]", "null", "", " ", "日本", "x\\y", "r\rs", "\x1b[31m"]
LEAF = Answer("leaf", "n00000001", "a dog, large", 0.75)
ROLLUP = Answer("rollup", None, 'pets, "all"\nof them', 0.95)
UNSURE = Answer("unsure", None, None, 0.2)
FULL = [
    replace(GOOD, source=f"{number}.jpg", answer=answer, prediction_set=labels, unfamiliar=unfamiliar)
    for number, (answer, labels, unfamiliar) in enumerate(
        [
            (LEAF, tuple(ODD), Unfamiliarity(0.0, 0.0)),
            (ROLLUP, ("cat",), Unfamiliarity(-1.25e-7, None)),
            (UNSURE, ("",), Unfamiliarity(31.5, 100.0)),
        ]
    )
]
RECORDS = [FULL[0], BAD, *FULL[1:]]


def save(
    path: Path,
    records: list[ImageResult],
    *,
    fields: Collection[str] = OPTIONAL_FIELDS,
    run: RunInfo = SURE,
    settings: dict[str, int | str] = SETTINGS,
    resume: bool = False,
    complete: bool = True,
) -> None:
    record_type = predictions_with(fields)
    chosen = find_format(path.suffix[1:], record_type)
    with output.open_output(
        record_type, path, chosen, resume=resume, retry_errors=False, overwrite=False
    ) as opened:
        wanted = [each for each in records if not opened.claim_record(each.source)]
        opened.begin(run, dict(settings))
        for each in wanted:
            opened.write(each)
        if complete:
            opened.complete()


def bare(record: ImageResult) -> ImageResult:
    return replace(record, answer=None, prediction_set=None, unfamiliar=None)


@every_format
def test_what_is_written_reads_back_equal(name: str, tmp_path: Path) -> None:
    save(tmp_path / f"x.{name}", RECORDS)
    assert list(read_records(tmp_path / f"x.{name}", PREDICTIONS)) == RECORDS


@every_format
@pytest.mark.parametrize("field", OPTIONAL_FIELDS)
def test_a_run_may_have_one_of_the_fields_alone(field: str, name: str, tmp_path: Path) -> None:
    kept = {"answer": "answer", "set": "prediction_set", "unfamiliar": "unfamiliar"}[field]
    records = [replace(bare(each), **{kept: getattr(each, kept)}) for each in RECORDS]
    save(tmp_path / f"x.{name}", records, fields={field})
    assert list(read_records(tmp_path / f"x.{name}", PREDICTIONS)) == records


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
SHARES = st.floats(0, 1)
ANSWERS = st.one_of(
    st.builds(Answer, st.just("unsure"), st.none(), st.none(), SHARES),
    st.builds(
        Answer, st.sampled_from(["leaf", "rollup"]), st.none() | TEXTS.filter(bool), TEXTS.filter(bool), SHARES
    ),
)
STRANGE = st.builds(Unfamiliarity, st.floats(allow_nan=False, allow_infinity=False), st.none() | st.floats(0, 100))


@every_format
def test_any_confidence_reads_back_equal(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")

    @given(st.lists(st.tuples(ANSWERS, st.lists(TEXTS, min_size=1, max_size=4), STRANGE), max_size=3))
    def check(values: list[tuple[Answer, list[str], Unfamiliarity]]) -> None:
        path = folder / f"x.{name}"
        for each in folder.iterdir():
            each.unlink()
        records = [
            replace(GOOD, source=f"{number}.jpg", answer=answer, prediction_set=tuple(texts), unfamiliar=strange)
            for number, (answer, texts, strange) in enumerate(values)
        ]
        save(path, records)
        assert list(read_records(path, PREDICTIONS)) == records

    check()


def test_csv_and_tsv_have_a_column_for_each_value(tmp_path: Path) -> None:
    for name, delimiter in (("csv", ","), ("tsv", "\t")):
        save(tmp_path / f"x.{name}", RECORDS)
        text = (tmp_path / f"x.{name}").read_text("utf-8")
        first, failed, second, third = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        assert [first[f"answer_{part}"] for part in ("kind", "wnid", "label")] == ["leaf", LEAF.wnid, LEAF.label]
        assert (second["answer_label"], float(second["answer_probability"])) == (ROLLUP.label, 0.95)
        assert (third["answer_kind"], third["answer_label"]) == ("unsure", "")
        assert json.loads(first["set"]) == ODD
        assert (float(first["unfamiliar_score"]), second["unfamiliar_percentile"]) == (0, "")
        names = [each for each in failed if each.startswith(("answer", "set", "unfamiliar"))]
        assert len(names) == 7
        assert not any(failed[each] for each in names)


def test_parquet_has_structs_and_a_list(tmp_path: Path) -> None:
    save(tmp_path / "x.parquet", RECORDS)
    rows = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert rows[0]["answer"] == LEAF.to_dict()
    assert rows[0]["set"] == ODD
    assert rows[2]["unfamiliar"] == {"score": -1.25e-7, "percentile": None}
    assert [rows[1][each] for each in OPTIONAL_FIELDS] == [None] * 3


def test_a_database_answers_in_sql(tmp_path: Path) -> None:
    save(tmp_path / "x.sqlite", RECORDS)
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as database:
        found = database.execute(
            "SELECT answer_label, json_extract(\"set\", '$[0]'), unfamiliar_score FROM images ORDER BY id"
        ).fetchall()
    assert found == [
        (LEAF.label, ODD[0], 0.0),
        (None, None, None),
        (ROLLUP.label, "cat", -1.25e-7),
        (None, "", 31.5),
    ]


PLAIN_COLUMNS = [
    *("source", "model", "width", "height", "frames", "frame", "damaged"),
    *("class_index_1", "wnid_1", "label_1", "probability_1"),
    *("class_index_2", "wnid_2", "label_2", "probability_2"),
    *("error_type", "error_message"),
]


def test_a_run_without_the_options_writes_what_it_always_wrote(tmp_path: Path) -> None:
    plain = [bare(each) for each in RECORDS]
    for name in RESUMABLE:
        save(tmp_path / f"x.{name}", plain, fields=(), run=RUN, settings={"top_k": 2})
    assert (tmp_path / "x.csv").read_text("utf-8").splitlines()[0].split(",") == PLAIN_COLUMNS
    assert (tmp_path / "x.tsv").read_text("utf-8").splitlines()[0].split("\t") == PLAIN_COLUMNS
    first = json.loads((tmp_path / "x.jsonl").read_text("utf-8").splitlines()[0])
    assert list(first) == ["source", "model", "width", "height", "frames", "frame", "predictions", "error"]
    assert pyarrow.parquet.read_schema(tmp_path / "x.parquet").names == [
        *("source", "source_bytes", "model", "width", "height", "frames", "frame", "damaged"),
        *("predictions", "error"),
    ]
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as database:
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(images)")]
    assert columns == ["id", *PLAIN_COLUMNS[:7], "error_type", "error_message"]
    assert "calibration" not in RUN.to_dict()


@every_format
def test_a_run_is_gone_on_with(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{name}"
    save(path, RECORDS[:2], complete=False)
    save(path, RECORDS[:3], resume=True)
    save(path, RECORDS, resume=True)
    assert list(read_records(path, PREDICTIONS)) == RECORDS


OTHERS = {
    "at_least": ({"settings": {**SETTINGS, "at_least": "0.8"}}, "at_least was '0.9' and is now '0.8'"),
    "sets": ({"settings": {**SETTINGS, "sets": "0.95 (lac)"}}, "sets was '0.95 (raps)' and is now '0.95 (lac)'"),
    "tree": ({"settings": {**SETTINGS, "tree": "a.csv"}}, "tree was not given and is now 'a.csv'"),
    "temperature": (
        {"run": replace(SURE, calibration=CALIBRATION | {"temperature": 2.0})},
        "calibration.temperature was 0.834 and is now 2.0",
    ),
    "unfamiliar": ({"run": replace(SURE, unfamiliar="gen")}, "unfamiliar was 'nci' and is now 'gen'"),
    "not familiar": (
        {"run": replace(SURE, unfamiliar=None), "fields": ("answer", "set")},
        "unfamiliar was 'nci' and is now not given",
    ),
    "none": (
        {"run": replace(RUN, activation="softmax"), "fields": (), "settings": {"top_k": 2}},
        "at_least was '0.9' and is now not given",
    ),
}


@every_format
@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("other", OTHERS)
def test_runs_of_other_confidence_are_not_mixed(other: str, complete: bool, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{name}"
    save(path, RECORDS, complete=complete)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    changes, words = OTHERS[other]
    with pytest.raises(UsageError) as caught:
        save(path, [*RECORDS, replace(GOOD, source="new.jpg")], resume=True, **changes)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "use the settings that the file was made with" in caught.value.hint
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


@every_format
@pytest.mark.parametrize("complete", [True, False])
def test_a_run_without_confidence_is_not_gone_on_with_by_one_that_has_it(
    complete: bool, name: str, tmp_path: Path
) -> None:
    path, plain = tmp_path / f"x.{name}", [bare(each) for each in RECORDS]
    former = replace(RUN, activation="softmax")
    save(path, plain[:3], fields=(), run=former, settings={"top_k": 2}, complete=complete)
    with pytest.raises(UsageError, match=r"at_least was not given and is now '0\.9'"):
        save(path, RECORDS, resume=True)
    save(path, plain, fields=(), run=former, settings={"top_k": 2}, resume=True)
    assert list(read_records(path, PREDICTIONS)) == plain


def document(*records: ImageResult, run: RunInfo = SURE) -> dict[str, Any]:
    stream = io.StringIO()
    chosen = find_format("json", PREDICTIONS)
    assert chosen.writer
    provenance = output.provenance.Provenance.from_run(run, dict(SETTINGS))
    with chosen.load(chosen.writer)(stream, provenance, predictions_with(OPTIONAL_FIELDS)) as writer:
        for each in records:
            writer.write(each)
    return json.loads(stream.getvalue())


SCHEMA = json.loads(SCHEMA_FILE.read_text("utf-8"))


def test_the_json_document_keeps_to_the_schema_and_reads_back(tmp_path: Path) -> None:
    groups = [{"label": "pets", "wnid": None, "class_indices": [1, 2]}]
    found = document(*RECORDS, run=replace(SURE, groups=groups))
    jsonschema.validate(found, SCHEMA)
    assert found["run"]["calibration"] == CALIBRATION
    assert found["results"][0]["answer"] == LEAF.to_dict()
    assert set(OPTIONAL_FIELDS).isdisjoint(found["results"][1])
    (tmp_path / "x.json").write_text(json.dumps(found))
    assert list(read_records(tmp_path / "x.json", PREDICTIONS)) == RECORDS


INVALID = [
    {"answer": {"kind": "maybe", "wnid": None, "label": "x", "probability": 0.5}},
    {"answer": {"kind": "leaf", "wnid": None, "label": None, "probability": 0.5}},
    {"answer": {"kind": "unsure", "wnid": None, "label": "x", "probability": 0.5}},
    {"answer": {"kind": "leaf", "wnid": None, "label": "x", "probability": 1.5}},
    {"answer": {"kind": "leaf", "wnid": None, "label": "x", "probability": "0.5"}},
    {"answer": {"kind": "leaf", "wnid": 3, "label": "x", "probability": 0.5}},
    {"answer": {"kind": "leaf", "label": "x", "probability": 0.5}},
    {"answer": {"kind": "leaf", "wnid": None, "label": "x", "probability": 0.5, "more": 1}},
    {"answer": ["leaf"]},
    {"answer": "leaf"},
    {"set": "dog"},
    {"set": {"dog": 1}},
    {"set": [1]},
    {"set": [None]},
    {"set": []},
    {"unfamiliar": 0.5},
    {"unfamiliar": {"score": 0.5}},
    {"unfamiliar": {"score": None, "percentile": None}},
    {"unfamiliar": {"score": True, "percentile": None}},
    {"unfamiliar": {"score": 1, "percentile": "5"}},
    {"unfamiliar": {"score": 1, "percentile": 101}},
    {"unfamiliar": {"score": 1, "percentile": -1}},
    {"unfamiliar": {"score": 1, "percentile": 1, "more": 1}},
]


@pytest.mark.parametrize("change", INVALID, ids=str)
def test_what_is_no_confidence_is_refused_by_the_schema_and_by_the_reader(change: dict[str, Any]) -> None:
    found = document(FULL[0])
    found["results"][0] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)
    with pytest.raises(ValueError, match=r"field|list"):
        ImageResult.from_dict(found["results"][0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    for change in (
        {"unfamiliar": {"score": value, "percentile": None}},
        {"answer": {**LEAF.to_dict(), "probability": value}},
    ):
        with pytest.raises(ValueError, match="invalid"):
            ImageResult.from_dict(FULL[0].to_dict() | change)


def test_records_of_earlier_versions_have_no_confidence() -> None:
    earlier = GOOD.to_dict()
    assert set(OPTIONAL_FIELDS).isdisjoint(earlier)
    assert ImageResult.from_dict(earlier) == GOOD
    assert ImageResult.from_dict(earlier | dict.fromkeys(OPTIONAL_FIELDS)) == GOOD
