"""The table of formats, and records of another kind than predictions: each row works, whichever it is."""

from __future__ import annotations

import io
import json
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import jsonschema
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from imgclassify import embedding as embedding_records
from imgclassify import output as output_package
from imgclassify.errors import UsageError
from imgclassify.output import open_output
from imgclassify.output.file_formats import open_file_format
from imgclassify.output.formats import FORMATS, OutputFormat, find_format, format_of_path, list_formats
from imgclassify.output.json_lines import from_packed_json, to_packed_json
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import ERROR, MODEL, PREDICTIONS, SOURCE, RecordType, Vector
from imgclassify.results import ImageFailure, ImageResult, Prediction, RunInfo


@dataclass(frozen=True)
class Embedding:
    """A record with an array, as a command `embed` would write it."""

    source: str
    model: str
    vector: np.ndarray | None
    error: ImageFailure | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "model": self.model,
            "vector": self.vector,
            "error": self.error.to_dict() if self.error else None,
        }

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        if not isinstance(record, dict) or (record["vector"] is None) == (record["error"] is None):
            raise ValueError("it is no embedding")
        vector, error = record["vector"], record["error"]
        return cls(
            record["source"],
            record["model"],
            None if vector is None else np.asarray(vector, np.float32),
            ImageFailure(**error) if error else None,
        )


EMBEDDINGS: RecordType[Embedding] = RecordType(
    name="test vectors",
    schema="test.embeddings/1",
    from_dict=Embedding.from_dict,
    fields=(SOURCE, MODEL, Vector("vector", dtype="kind"), ERROR),
    setting_names=("kind",),
    must_match=("model", "weights"),
)
DIMENSION = 1280
SETTINGS: dict[str, int | str] = {"kind": "float32"}


def run(**changes: Any) -> RunInfo:
    values: dict[str, Any] = {
        "version": "1", "model": "m", "architecture": "a", "weights": "w", "weights_sha256": "0" * 64,
        "preprocess": {}, "label_set": None, "label_set_sha256": None, "num_classes": 3, "decode_mode": "exact",
        "engine": "torch", "device": "cpu", "dtype": "float32", "reason": "",
    }  # fmt: skip
    return RunInfo(**(values | changes))


def embedding(index: int) -> Embedding:
    if index % 5 == 4:
        return Embedding(f"{index}.jpg", "m", None, ImageFailure("corrupt_image", "damaged"))
    return Embedding(f"{index}.jpg", "m", np.random.default_rng(index).normal(size=DIMENSION).astype(np.float32))


def same(left: Embedding, right: Embedding) -> bool:
    return (left.source, left.error) == (right.source, right.error) and np.array_equal(
        np.array(left.vector), np.array(right.vector)
    )


@pytest.mark.parametrize("each", FORMATS, ids=lambda each: each.name)
def test_each_format_is_registered_whole(each: OutputFormat) -> None:
    assert each.streamable or each.resumable
    assert not (each.file_format and (each.writer or each.reader))
    assert all(callable(each.load(part)) for part in (each.writer, each.reader, each.file_format) if part)
    held = next(kind for kind in (PREDICTIONS, embedding_records.EMBEDDINGS) if each.supports(kind))
    assert find_format(each.name, held) is each
    for extension in each.extensions:
        assert format_of_path(Path(f"x.{extension.upper()}"), held) is each
        assert sum(extension in other.extensions for other in FORMATS) == 1
    assert each.audience
    assert each.shape


def test_a_format_that_cannot_hold_a_vector_is_not_offered() -> None:
    assert {each.name for each in list_formats(EMBEDDINGS)} == {"json", "jsonl", "parquet"}
    assert {each.name for each in list_formats(embedding_records.EMBEDDINGS)} == {"json", "jsonl", "parquet", "npz"}
    with pytest.raises(UsageError, match="unknown format 'csv'") as caught:
        find_format("csv", EMBEDDINGS)
    assert "json, jsonl, parquet" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["jsonl", "parquet"])
def test_a_run_of_vectors_is_resumed_to_the_bit(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"vectors.{name}"
    chosen = format_of_path(path, EMBEDDINGS)
    with open_output(EMBEDDINGS, path, chosen) as output:
        output.begin(run(), SETTINGS)
        for index in range(7):
            output.write(embedding(index))
    journal = tmp_path / f"vectors.{name}.partial"
    assert not path.exists()
    # Four bytes a number make 5.3 characters of base64; as decimal text a number takes some twelve.
    assert journal.stat().st_size < 6 * DIMENSION * 6 + 4000
    with open_output(EMBEDDINGS, path, chosen, resume=True) as output:
        output.begin(run(), SETTINGS)
        for index in range(12):
            assert output.claim_record(f"{index}.jpg") == (index < 7)
        for index in range(7, 12):
            output.write(embedding(index))
        output.complete()
    assert not journal.exists()
    provenance, records = open_file_format(chosen, EMBEDDINGS).load(path)
    assert provenance.settings == SETTINGS
    assert [same(record, embedding(index)) for index, record in enumerate(records)] == [True] * 12
    if name == "parquet":
        table = pyarrow.parquet.read_table(path)
        assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), DIMENSION)
        assert len(table) == 12


def test_a_run_of_other_settings_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "vectors.jsonl"
    chosen = format_of_path(path, EMBEDDINGS)
    with open_output(EMBEDDINGS, path, chosen) as output:
        output.begin(run(), SETTINGS)
        output.write(embedding(0))
    for changed, settings, words in (
        (run(model="other"), SETTINGS, ("'m'", "'other'")),
        (run(), {"kind": "float16"}, ("kind was 'float32'", "'float16'")),
    ):
        with (
            pytest.raises(UsageError) as caught,
            open_output(EMBEDDINGS, path, chosen, resume=True) as output,
        ):
            output.begin(changed, settings)
        assert all(word in str(caught.value) for word in words)


def test_a_journal_of_other_records_is_not_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with open_output(EMBEDDINGS, path, format_of_path(path, EMBEDDINGS)) as output:
        output.begin(run(), SETTINGS)
        output.write(embedding(0))
    with pytest.raises(UsageError):
        open_output(PREDICTIONS, path, format_of_path(path, PREDICTIONS), resume=True)
    assert (tmp_path / "x.jsonl.partial").exists()


def test_vectors_are_numbers_in_json() -> None:
    stream = io.StringIO()
    chosen = find_format("json", EMBEDDINGS)
    assert chosen.writer
    with chosen.load(chosen.writer)(stream, Provenance.from_run(run(), SETTINGS), EMBEDDINGS) as writer:
        writer.write(embedding(0))
        writer.write(embedding(4))
    document = json.loads(stream.getvalue())
    assert document["schema"] == "test.embeddings/1"
    first, failed = document["results"]
    np.testing.assert_array_equal(np.array(first["vector"], np.float32), embedding(0).vector)
    assert (failed["vector"], failed["error"]["type"]) == (None, "corrupt_image")


def test_a_record_says_that_its_crop_is_approximate(tmp_path: Path) -> None:
    prediction = Prediction(1, 7, None, "seven", 0.5)
    exact = ImageResult("a.png", "m", 10, 20, (prediction,))
    strip = ImageResult("b.png", "m", 1, 99999, (prediction,), approximate=True)
    assert "approximate" not in exact.to_dict()
    assert strip.to_dict()["approximate"] is True
    assert [ImageResult.from_dict(each.to_dict()) for each in (exact, strip)] == [exact, strip]
    document = {"schema": PREDICTIONS.schema, "run": run(label_set="x", label_set_sha256="0" * 64).to_dict()}
    document["run"]["preprocess"] = {
        "resize_size": 256, "crop_size": 224, "crop_mode": "center", "interpolation": "bilinear",
        "antialias": True, "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    schema = json.loads((Path(output_package.__file__).parent / "run.schema.json").read_text())
    jsonschema.validate(document | {"results": [exact.to_dict(), strip.to_dict()]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"results": [strip.to_dict() | {"approximate": False}]}, schema)


@pytest.mark.parametrize("name", ["csv", "tsv", "parquet", "sqlite"])
def test_columns_have_no_place_for_it(name: str, tmp_path: Path) -> None:
    strip = ImageResult("b.png", "m", 1, 99999, (Prediction(1, 7, None, "seven", 0.5),), approximate=True)
    file_format = open_file_format(find_format(name, PREDICTIONS), PREDICTIONS)
    path = tmp_path / f"x.{name}"
    provenance = Provenance.from_run(run(), {"top_k": 1})
    file_format.save(path, provenance, [strip])
    file_format.save_sidecar(path, provenance)
    assert list(file_format.load(path)[1]) == [replace(strip, approximate=False)]


@pytest.mark.parametrize("name", ["jsonl", "csv", "tsv", "parquet", "sqlite"])
def test_a_file_of_the_version_before_the_frames_is_resumed(name: str, tmp_path: Path) -> None:
    """Its columns are those of then. After the run, it has those of now, with the values that there are."""
    before = ImageResult("a.png", "m", 10, 20, (Prediction(1, 7, None, "seven", 0.5),))
    animated = replace(before, source="b.gif", frames=12, frame=3, damaged=True)
    former = replace(PREDICTIONS, fields=tuple(f for f in PREDICTIONS.fields if not getattr(f, "added", False)))
    path = tmp_path / f"x.{name}"
    provenance = Provenance.from_run(run(), {"top_k": 1})
    file_format = open_file_format(find_format(name, PREDICTIONS), former)
    file_format.save(path, provenance, [before])
    file_format.save_sidecar(path, provenance)
    if name == "jsonl":
        line = json.loads(path.read_text())
        path.write_text(json.dumps({key: line[key] for key in line if key not in ("frames", "frame")}) + "\n")
    assert name == "parquet" or b"frames" not in path.read_bytes()
    with open_output(PREDICTIONS, path, find_format(name, PREDICTIONS), resume=True) as output:
        output.begin(run(), {"top_k": 1})
        assert output.resumed == 1
        output.write(animated)
        output.complete()
    now = open_file_format(find_format(name, PREDICTIONS), PREDICTIONS)
    assert list(now.load(path)[1]) == [before, animated]


@given(
    st_numpy.arrays(
        st.sampled_from(["<f4", "<f2", "<f8", "|u1", "<i8"]), st_numpy.array_shapes(min_side=0, max_dims=3)
    )
)
def test_a_packed_array_is_the_same_array(array: np.ndarray) -> None:
    line = to_packed_json({"source": "x", "array": array})
    assert b"\n" not in line
    found = from_packed_json(line)["array"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "packed",
    ['["<f4", [2], "AAAA"]', '["<f4", [1], "not base64!"]', '["no type", [1], "AAAAAA=="]', '["<f4"]', "7"],
)
def test_a_damaged_array_is_an_error(packed: str) -> None:
    with pytest.raises(ValueError, match="damaged"):
        from_packed_json(f'{{"source": "x", "array": {{"$array": {packed}}}}}'.encode())


def test_a_database_holds_what_the_record_type_says(tmp_path: Path) -> None:
    """A type with scalars alone has one table besides `run`."""
    kind = RecordType(
        name="sizes",
        schema="test.sizes/1",
        from_dict=Embedding.from_dict,
        fields=(SOURCE, MODEL, ERROR),
        setting_names=(),
        must_match=("model",),
    )
    open_file_format(find_format("sqlite", kind), kind).save(
        tmp_path / "x.sqlite", Provenance.from_run(run(), {}), [embedding(4)]
    )
    with sqlite3.connect(tmp_path / "x.sqlite") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert sorted(tables) == ["images", "run"]
        assert database.execute("SELECT source, error_type FROM images").fetchall() == [("4.jpg", "corrupt_image")]
    database.close()
