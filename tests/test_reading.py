"""Results files are read back: the records of every format, and what is said of other files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from outputs import RESUMABLE, open_output

from imgclassify.errors import UsageError
from imgclassify.output.reading import read_record_lines, read_records
from imgclassify.output.records import PREDICTIONS
from imgclassify.results import ImageFailure, ImageResult, Prediction, RunInfo

RUN = RunInfo(
    version="1",
    model="net",
    architecture="net",
    weights="V1",
    weights_sha256=None,
    preprocess={},
    label_set="two",
    label_set_sha256=None,
    num_classes=2,
    decode_mode="exact",
    engine="torch",
    device="cpu",
    dtype="float32",
    reason="",
)
BOTH = (Prediction(1, 1, "n02084071", "dog", 0.75), Prediction(2, 0, None, "cat", 0.25))
RECORDS = [
    ImageResult('a,\n\t"b".jpg', "net", 4, 3, BOTH),
    ImageResult("caf\udce9.jpg", "net", None, None, (), ImageFailure("empty", "the file is empty")),
]


def write(path: Path, name: str) -> Path:
    with open_output(path, name) as output:
        output.begin(RUN, {"top_k": 2})
        for record in RECORDS:
            output.write(record)
        output.complete()
    return path


@pytest.mark.parametrize("name", [*RESUMABLE, "json"])
def test_records_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / f"labels.{name.upper()}", name)
    path.with_name(path.name + ".run.json").unlink(missing_ok=True)  # the sidecar is not needed
    assert list(read_records(path, PREDICTIONS)) == RECORDS


def test_a_document_may_be_formatted_by_another_program(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.json", "json")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")), indent=4))
    assert list(read_records(path, PREDICTIONS)) == RECORDS


@pytest.mark.parametrize("name", [*RESUMABLE, "json"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"[]", b'{"schema": "other"}', b'{"schema": "imgclassify.run/1"}']
)
def test_another_file_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / f"other.{name}"
    path.write_bytes(content)
    if name == "jsonl" and not content:
        assert list(read_records(path, PREDICTIONS)) == []  # no line is a run without images
        return
    with pytest.raises(UsageError, match=r"other\."):
        list(read_records(path, PREDICTIONS))


def test_a_damaged_record_is_told_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.json", "json")
    document = json.loads(path.read_text("utf-8"))
    del document["results"][1]["error"]
    path.write_text(json.dumps(document))
    records = read_records(path, PREDICTIONS)
    assert next(records) == RECORDS[0]
    with pytest.raises(UsageError, match="record 2 is damaged"):
        next(records)


@pytest.mark.parametrize("name", ["labels.txt", "labels", "labels.jpg", "labels.npz"])
def test_a_file_of_no_format_that_can_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(UsageError, match=name) as raised:
        list(read_records(tmp_path / name, PREDICTIONS))
    assert ".csv" in str(raised.value.hint)


def test_a_missing_file_and_one_of_a_stopped_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        list(read_records(tmp_path / "labels.csv", PREDICTIONS))
    (tmp_path / "labels.csv.partial").touch()
    with pytest.raises(UsageError, match="not complete") as raised:
        list(read_records(tmp_path / "labels.csv", PREDICTIONS))
    assert "--resume" in str(raised.value.hint)


def test_lines_of_a_stream_are_records() -> None:
    text = "".join(json.dumps(record.to_dict()) + "\n" for record in RECORDS)
    assert list(read_record_lines(io.StringIO(text), PREDICTIONS)) == RECORDS
    with pytest.raises(UsageError, match="line 3"):
        list(read_record_lines(io.StringIO(text + "{}\n"), PREDICTIONS))
