"""The formats: what is written reads back as the records; nothing of a name reaches a terminal raw."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs import open_writer

from imgclassify.errors import UsageError, make_printable
from imgclassify.output.formats import FORMATS, format_of_path
from imgclassify.output.records import PREDICTIONS
from imgclassify.output.text_stream import open_text
from imgclassify.results import SCHEMA, ImageFailure, ImageResult, Prediction, RunInfo

RUN = RunInfo(
    version="1.2.3",
    model="tiny",
    architecture="tiny_net",
    weights="V1",
    weights_sha256="ab" * 32,
    preprocess={
        "resize_size": 256,
        "crop_size": [224, 192],
        "crop_mode": "center",
        "interpolation": "bilinear",
        "antialias": True,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
    },
    label_set="mine",
    label_set_sha256="cd" * 32,
    num_classes=3,
    decode_mode="exact",
    engine="torch",
    device="cpu",
    dtype="float32",
    reason="--engine torch was requested",
)
GOOD = ImageResult(
    'dogs/Größe, "x".jpg',
    "tiny",
    640,
    480,
    (Prediction(1, 2, "n00000001", "a dog, large", 0.75), Prediction(2, 0, None, "cat", 0.2)),
)
BAD = ImageResult("bad\nname.jpg", "tiny", None, None, (), ImageFailure("corrupt_image", "broken\x1b[31m data"))
SCHEMA_FILE = Path(__file__).parent.parent / "imgclassify" / "output" / "run.schema.json"


def written(name: str, results: list[ImageResult]) -> str:
    stream = io.StringIO()
    with open_writer(name, stream, RUN, top_k=2) as writer:
        for result in results:
            writer.write(result)
    return stream.getvalue()


@pytest.mark.parametrize("results", [[], [GOOD], [BAD], [GOOD, BAD, GOOD]])
def test_json_is_one_document_of_the_shipped_schema(results: list[ImageResult]) -> None:
    document = json.loads(written("json", results))
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text("utf-8")))
    assert document["schema"] == SCHEMA
    assert document["run"] == RUN.to_dict()
    assert document["results"] == [result.to_dict() for result in results]


@pytest.mark.parametrize(
    "change",
    [
        {"predictions": []},
        {"error": {"type": "corrupt_image", "message": "x"}},
        {"width": -1},
        {"source": None},
        {"extra": 1},
        {"predictions": [{**GOOD.to_dict()["predictions"][0], "probability": 1.5}]},
    ],
)
def test_the_schema_refuses_what_is_no_record(change: dict[str, object]) -> None:
    document = json.loads(written("json", [GOOD]))
    document["results"][0] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text("utf-8")))


def test_the_schemas_error_types_are_those_of_the_error_tree() -> None:
    from imgclassify import errors

    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    kinds = errors.ImageError.__subclasses__()
    types = {kind.type for kind in [*kinds, *(below for kind in kinds for below in kind.__subclasses__())]}
    assert set(schema["$defs"]["error"]["properties"]["type"]["enum"]) == types


def test_jsonl_is_a_record_a_line() -> None:
    lines = written("jsonl", [GOOD, BAD]).splitlines()
    assert [json.loads(line) for line in lines] == [GOOD.to_dict(), BAD.to_dict()]
    assert "Größe" in lines[0]


def test_a_name_that_is_not_utf8_comes_back_as_the_same_bytes() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    result = ImageResult(name, "tiny", 1, 1, GOOD.predictions)
    line = written("jsonl", [result])
    line.encode()
    assert os.fsencode(json.loads(line)["source"]) == b"caf\xe9.jpg"


@pytest.mark.parametrize(("name", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_rows_read_back(name: str, delimiter: str) -> None:
    rows = list(csv.DictReader(io.StringIO(written(name, [GOOD, BAD])), delimiter=delimiter))
    assert [row["source"] for row in rows] == [GOOD.source, BAD.source]
    assert rows[0]["label_1"] == "a dog, large"
    assert float(rows[0]["probability_2"]) == 0.2
    assert (rows[0]["wnid_1"], rows[0]["wnid_2"], rows[0]["class_index_1"]) == ("n00000001", "", "2")
    assert (rows[0]["error_type"], rows[0]["error_message"]) == ("", "")
    assert (rows[1]["label_1"], rows[1]["width"], rows[1]["error_type"]) == ("", "", "corrupt_image")
    assert list(rows[0])[:4] == ["source", "model", "width", "height"]


@pytest.mark.parametrize(("name", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("source", ["a\rb.jpg", "a\nb.jpg", 'a"b\t,c.jpg', "a\r\nb.jpg", "=1+1.jpg"])
def test_any_name_is_one_row_of_its_own(name: str, delimiter: str, source: str) -> None:
    result = ImageResult(source, "tiny", 1, 1, GOOD.predictions)
    text = written(name, [result, GOOD])
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    assert [row["source"] for row in rows] == [source, GOOD.source]
    assert text.endswith("\n")
    assert not text.endswith("\r\n")


def test_the_table_of_one_image_shows_each_rank_with_its_percentage_and_bar() -> None:
    lines = written("table", [GOOD]).splitlines()
    assert lines[0] == 'dogs/Größe, "x".jpg  640×480  tiny'
    assert lines[1].startswith(" 1  a dog, large   75.00 %  ██████████████████████▌")
    assert lines[2].startswith(" 2  cat            20.00 %  ██████")
    assert len(lines) == 3


def test_the_table_of_many_images_has_a_row_each() -> None:
    lines = written("table", [GOOD, BAD]).splitlines()
    assert len(lines) == 2
    assert "a dog, large" in lines[0]
    assert "75.0 %  cat 20.0 %" in lines[0]
    assert "✗ corrupt_image: broken" in lines[1]


def test_a_row_that_is_not_on_a_terminal_is_whole() -> None:
    long = ImageResult("folder/" * 30 + "x.jpg", "tiny", 1, 1, (Prediction(1, 2, None, "dog " * 20 + "big", 0.75),))
    failed = ImageResult(long.source, "tiny", None, None, (), ImageFailure("corrupt_image", "word " * 50 + "end"))
    for result, line in zip([long, failed], written("table", [long, failed]).splitlines(), strict=True):
        assert line.startswith(f"{result.source}  ")
        assert (result.predictions[0].label if result.predictions else "word end") in line


def test_the_table_shows_control_characters_as_escapes() -> None:
    for results in ([BAD], [BAD, GOOD]):
        text = written("table", results)
        assert "\x1b" not in text
        assert "bad\\nname.jpg" in text
        assert "\\x1b[31m" in text


@given(st.text())
def test_printable_text_is_printable_and_what_was_so_is_unchanged(text: str) -> None:
    assert make_printable(text).isprintable()
    if text.isprintable():
        assert make_printable(text) == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.json", "json"), ("a.JSONL", "jsonl"), ("a.ndjson", "jsonl"), ("a.csv", "csv"), ("a.txt", "table")],
)
def test_the_ending_names_the_format(name: str, expected: str) -> None:
    assert format_of_path(Path(name), PREDICTIONS).name == expected
    assert expected in {each.name for each in FORMATS}


@pytest.mark.parametrize("name", ["a", "a.xlsx", "json"])
def test_an_ending_that_names_no_format_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        format_of_path(Path(name), PREDICTIONS)


def test_a_file_appears_whole_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("former")
    with open_text(path) as stream:
        stream.write("new\n")
        assert path.read_text() == "former"
    assert path.read_text() == "new\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_interrupted_run_leaves_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "out.json"

    def interrupted() -> None:
        with open_text(path) as stream, open_writer("json", stream, RUN, top_k=2) as writer:
            writer.write(GOOD)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(path.read_text("utf-8"))["results"] == [GOOD.to_dict()]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize("fault", [UsageError("late"), OSError("the list cannot be read"), RuntimeError("any")])
def test_whatever_ends_a_run_keeps_what_was_written_and_its_own_name(fault: Exception, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    def failing() -> None:
        with open_text(path) as stream, open_writer("jsonl", stream, RUN, top_k=2) as writer:
            writer.write(GOOD)
            raise fault

    with pytest.raises(type(fault)) as raised:
        failing()
    assert raised.value is fault
    assert json.loads(path.read_text("utf-8")) == GOOD.to_dict()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_link_and_the_mode_of_a_file_stay_as_they_were(tmp_path: Path) -> None:
    real = tmp_path / "real.jsonl"
    real.write_text("former")
    real.chmod(0o600)
    (tmp_path / "link.jsonl").symlink_to(real)
    with open_text(tmp_path / "link.jsonl") as stream:
        stream.write("new")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("new", 0o600)
    with open_text(tmp_path / "other.jsonl") as stream:
        stream.write("new")
    (tmp_path / "reference").write_text("")
    assert (tmp_path / "other.jsonl").stat().st_mode == (tmp_path / "reference").stat().st_mode


def test_a_closed_stdout_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(UsageError, match="stdout is closed"), open_text(None):
        pass


def test_a_killed_process_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("former")
    code = f"""
        import sys, time
        from pathlib import Path
        from imgclassify.output.text_stream import open_text
        with open_text(Path({str(path)!r})) as stream:
            stream.write("half a rec")
            stream.flush()
            print("ready", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "former"


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"out\.csv") as error, open_text(tmp_path / "no" / "out.csv"):
        pass
    assert error.value.hint


def test_a_device_is_written_to_and_not_replaced() -> None:
    with open_text(Path("/dev/null")) as stream:
        stream.write("x")
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No space left") as error, open_text(Path("/dev/full")) as stream:
        stream.write("x" * 100_000)
    assert error.value.hint
