"""Outputs that a stopped run goes on with: what is there stays, and each source has its record once."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs import RESUMABLE, file_format, open_output
from test_output import BAD, GOOD, RUN

from imgclassify.errors import UsageError
from imgclassify.output.formats import FORMATS
from imgclassify.output.resume_index import _CLAIM, ResumeIndex
from imgclassify.results import ImageResult

every_format = pytest.mark.parametrize("name", RESUMABLE)
TEXT_FORMATS = {each.name for each in FORMATS if each.reader}
"""Formats whose provenance is in a file of its own."""

ODD_NAMES = [
    "plain.jpg",
    "new\nline.jpg",
    'quo"te,comma;semi.jpg',
    "carriage\rreturn.jpg",
    "tab\there.jpg",
    "=1+1.jpg",
    "-dash.jpg",
    "@at.jpg",
    "\x1b[31mred.jpg",
    "[red]markup[/red].jpg",
    "caf\udce9.jpg",
    "photos.zip!dogs/rex.jpg",
    " spaces .jpg ",
    "日本.jpg",
]


def good(source: str) -> ImageResult:
    return replace(GOOD, source=source)


def bad(source: str) -> ImageResult:
    return replace(BAD, source=source)


def run(path: Path, name: str, results: Iterable[ImageResult], *, stop: bool = False, retry: bool = False) -> int:
    """What a run does with an output: asks for each source, and writes those that it has not; how many."""
    written = 0
    with open_output(path, name, resume=True, retry_errors=retry) as output:
        pending = [result for result in results if not output.claim_record(result.source)]
        output.begin(RUN, {"top_k": 2})
        for result in pending:
            output.write(result)
            written += 1
        if not stop:
            output.complete()
    return written


def read(path: Path, name: str) -> list[ImageResult]:
    """By the format's own reader; `test_*_reads_back_by_other_hands` holds the files against others."""
    return list(file_format(name).load(path)[1])


# A file when it is complete ---------------------------------------------------------------------------------


@every_format
def test_a_file_appears_when_its_run_is_complete(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{name}"
    with open_output(path, name) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(GOOD)
        assert not path.exists()
        assert output.unfinished == tmp_path / f"out.{name}.partial"
        output.write(BAD)
        output.complete()
        assert output.unfinished is None
    assert read(path, name) == [GOOD, BAD]
    beside = {f"out.{name}.run.json"} if name in TEXT_FORMATS else set()
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name} | beside


@every_format
def test_any_name_and_any_record_comes_back(name: str, tmp_path: Path) -> None:
    results = [make(source) for source in ODD_NAMES for make in (good, bad)]
    run(tmp_path / "out", name, results)
    assert read(tmp_path / "out", name) == results


@every_format
def test_a_stopped_run_leaves_the_former_file_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{name}"
    run(path, name, [GOOD])
    former = path.read_bytes()
    with open_output(path, name, overwrite=True) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(BAD)
    assert path.read_bytes() == former
    assert run(path, name, [BAD]) == 0  # the stopped run is continued, not the former file
    assert read(path, name) == [BAD]


@every_format
def test_a_new_run_replaces_the_former_file_if_it_may(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{name}"
    run(path, name, [GOOD])
    former = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="exists already") as raised:
        open_output(path, name)
    assert raised.value.hint
    assert "--overwrite" in raised.value.hint
    assert "--resume" in raised.value.hint
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == former
    with open_output(path, name, overwrite=True) as output:
        assert output.resumed == 0
        output.begin(RUN, {"top_k": 2})
        output.write(BAD)
        output.complete()
    assert read(path, name) == [BAD]


def test_what_a_link_points_to_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("former")
    (tmp_path / "real.csv").chmod(0o600)
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with pytest.raises(UsageError, match="exists already"):
        open_output(tmp_path / "link.csv", "csv")
    with open_output(tmp_path / "link.csv", "csv", overwrite=True) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(GOOD)
        output.complete()
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").stat().st_mode & 0o777 == 0o600
    assert "former" not in (tmp_path / "real.csv").read_text("utf-8")


# By other hands ---------------------------------------------------------------------------------------------


def test_a_jsonl_file_is_a_record_a_line(tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl", "jsonl", [GOOD, BAD])
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [GOOD.to_dict(), BAD.to_dict()]


def test_a_csv_file_reads_back_with_the_csv_module(tmp_path: Path) -> None:
    run(tmp_path / "out.csv", "csv", [good(name) for name in ODD_NAMES] + [BAD])
    with (tmp_path / "out.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["source"] for row in rows] == [*ODD_NAMES, BAD.source]
    assert [row["error_type"] for row in rows] == [""] * len(ODD_NAMES) + ["corrupt_image"]
    assert rows[0]["label_1"] == "a dog, large"


def test_a_sqlite_file_has_images_and_predictions_indexed(tmp_path: Path) -> None:
    run(tmp_path / "out.sqlite", "sqlite", [GOOD, BAD, good("caf\udce9.jpg")])
    database = sqlite3.connect(tmp_path / "out.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    joined = "SELECT source, label FROM images JOIN predictions ON image_id = id WHERE rank = 1"
    assert database.execute(joined).fetchall() == [(GOOD.source, "a dog, large"), (b"caf\xe9.jpg", "a dog, large")]
    failed = database.execute("SELECT source, error_type FROM images WHERE error_type IS NOT NULL").fetchall()
    assert failed == [(BAD.source, "corrupt_image")]
    plan = database.execute("EXPLAIN QUERY PLAN SELECT * FROM predictions WHERE label = 'cat'").fetchall()
    assert "INDEX predictions_label" in plan[0][-1]
    plan = database.execute("EXPLAIN QUERY PLAN SELECT * FROM images WHERE source = 'x'").fetchall()
    assert "INDEX images_source" in plan[0][-1]
    (provenance,) = database.execute("SELECT provenance FROM run").fetchone()
    assert json.loads(provenance)["run"] == RUN.to_dict()
    database.close()


def test_a_parquet_file_is_written_in_row_groups_as_they_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgclassify.output.parquet.ROW_GROUP", 2)
    run(tmp_path / "out.parquet", "parquet", [good("a"), bad("b"), good("c"), good("d"), good("caf\udce9")])
    file = pyarrow.parquet.ParquetFile(tmp_path / "out.parquet")
    assert file.num_row_groups == 3
    table = file.read()
    assert table["source"].to_pylist() == ["a", "b", "c", "d", "caf\\udce9"]
    assert table["source_bytes"].to_pylist() == [None, None, None, None, b"caf\xe9"]
    assert table["predictions"].to_pylist()[0] == GOOD.to_dict()["predictions"]
    assert table["error"].to_pylist()[:2] == [None, BAD.to_dict()["error"]]


def test_text_files_have_their_provenance_beside_them(tmp_path: Path) -> None:
    run(tmp_path / "out.csv", "csv", [GOOD])
    beside = json.loads((tmp_path / "out.csv.run.json").read_text("utf-8"))
    assert beside == {"schema": "imgclassify.output/1", "run": RUN.to_dict(), "top_k": 2}


# Going on ---------------------------------------------------------------------------------------------------


@every_format
def test_a_stopped_run_is_gone_on_with(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{name}"
    results = [good("a"), bad("b"), good("c"), good("d")]
    assert run(path, name, results[:2], stop=True) == 2
    assert run(path, name, results[:3], stop=True) == 1
    with open_output(path, name, resume=True) as output:
        assert (output.resumed, output.resumed_failed) == (3, 1)
    assert run(path, name, results) == 1
    assert read(path, name) == results
    assert not path.with_name(path.name + ".partial").exists()


@every_format
def test_a_complete_output_is_gone_on_with_and_its_order_kept(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{name}"
    run(path, name, [good("b"), bad("d")])
    assert run(path, name, [good("a"), good("b"), good("c"), bad("d")], stop=True) == 2
    assert read(path, name) == [good("b"), bad("d")]
    run(path, name, [good("a"), good("b"), good("c"), bad("d")])
    assert read(path, name) == [good("b"), bad("d"), good("a"), good("c")]


@every_format
def test_nothing_to_add_leaves_the_file_untouched(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{name}"
    run(path, name, [GOOD, BAD])
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert run(path, name, [GOOD, BAD]) == 0
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert not path.with_name(path.name + ".partial").exists()


@every_format
def test_failed_ones_are_tried_again_in_their_place(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{name}"
    run(path, name, [bad("a"), good("b"), bad("c"), bad("d")])
    with open_output(path, name, resume=True, retry_errors=True) as output:
        assert (output.resumed, output.resumed_failed) == (1, 0)
    names = [good("a"), good("b"), bad("c"), good("d")]
    assert run(path, name, names, retry=True) == 3
    assert read(path, name) == names
    assert run(path, name, [good(each.source) for each in names], retry=True) == 1
    assert read(path, name) == [good(each.source) for each in names]


def test_a_retry_that_is_stopped_loses_no_record(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path, "jsonl", [bad("a"), bad("b"), bad("c"), good("d")])
    run(path, "jsonl", [bad("a"), good("b")], retry=True, stop=True)
    # What was not reached keeps its failure; plain resuming does not try it again.
    assert run(path, "jsonl", [good("a"), good("b"), good("c"), good("d")], stop=True) == 0
    assert run(path, "jsonl", [good("a"), good("b"), good("c"), good("d")], retry=True, stop=True) == 2
    run(path, "jsonl", [])
    assert read(path, "jsonl") == [good("a"), good("b"), good("c"), good("d")]


def test_a_failed_source_that_is_not_named_again_keeps_its_record(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path, "jsonl", [bad("a"), good("b")])
    run(path, "jsonl", [good("c")], retry=True)
    assert read(path, "jsonl") == [bad("a"), good("b"), good("c")]


def test_a_source_named_twice_is_answered_twice(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert run(path, "jsonl", [good("a"), good("b")], stop=True) == 2
    assert run(path, "jsonl", [good("a"), good("a"), good("b"), good("a")]) == 2
    assert Counter(each.source for each in read(path, "jsonl")) == {"a": 3, "b": 1}


def test_one_more_of_a_failed_source_after_a_retry_is_one_more_record(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path, "jsonl", [bad("a")], stop=True)
    run(path, "jsonl", [bad("a")], retry=True, stop=True)
    run(path, "jsonl", [good("a"), good("a")])
    assert read(path, "jsonl") == [bad("a"), good("a")]


STEPS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=8),
        st.integers(0, 8),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(STEPS)
def test_any_number_of_stops_and_retries_answers_each_name_as_often_as_it_is_named(steps: list[tuple]) -> None:
    """Held against a model of lists: a slot a time that a name was asked for, failed or not."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        slots: list[list] = []  # [name, failed]
        for names, stop_after, complete, retry in steps:
            taken: set[int] = set()
            written = 0
            open_slots = [index for index, (_, failed) in enumerate(slots) if retry and failed]
            with open_output(path, "jsonl", resume=True, retry_errors=retry) as output:
                # As the feeding thread does, all names are asked for before the last results are written.
                pending = []
                for name, fails in names:
                    answered = output.claim_record(name)
                    index = next(
                        (
                            index
                            for index, slot in enumerate(slots)
                            if slot[0] == name and index not in taken and index not in open_slots
                        ),
                        None,
                    )
                    assert answered == (index is not None)
                    if index is None:
                        pending.append((name, fails))
                    else:
                        taken.add(index)
                output.begin(RUN, {"top_k": 2})
                for name, fails in pending[:stop_after]:
                    output.write(bad(name) if fails else good(name))
                    written += 1
                    again = next((index for index in open_slots if slots[index][0] == name), None)
                    if again is None:
                        slots.append([name, fails])
                    else:
                        open_slots.remove(again)
                        slots[again][1] = fails
                if complete and stop_after >= len(pending):
                    output.complete()
        run(path, "jsonl", [])
        assert [[each.source, each.error is not None] for each in read(path, "jsonl")] == slots


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "top_k", "words"),
    [
        ({"model": "other"}, 2, "model was 'tiny' and is now 'other'"),
        ({"weights": "V2"}, 2, "weights.name was 'V1' and is now 'V2'"),
        ({"weights_sha256": "cd" * 32}, 2, "weights.sha256"),
        ({"preprocess": RUN.preprocess | {"resize_size": 232}}, 2, "preprocess.resize_size was 256 and is now 232"),
        ({"label_set": "others"}, 2, "label_set was 'mine' and is now 'others'"),
        ({"label_set_sha256": "00" * 32}, 2, "label_set_sha256"),
        ({"decode_mode": "fast"}, 2, "decode was 'exact' and is now 'fast'"),
        ({"dtype": "float16"}, 2, "dtype was 'float32' and is now 'float16'"),
        ({"activation": "sigmoid", "multi_label": True}, 2, "multi_label was not given and is now True"),
        ({}, 3, "top_k was 2 and is now 3"),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_records_of_another_kind_are_never_added(
    change: dict, top_k: int, words: str, complete: bool, tmp_path: Path
) -> None:
    path = tmp_path / "out.csv"
    run(path, "csv", [GOOD], stop=not complete)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with (
        pytest.raises(UsageError, match="cannot resume") as raised,
        open_output(path, "csv", resume=True) as output,
    ):
        output.begin(replace(RUN, **change), {"top_k": top_k})
    assert words in str(raised.value)
    assert raised.value.hint
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_another_engine_device_or_version_is_no_other_kind(tmp_path: Path) -> None:
    run(tmp_path / "out.csv", "csv", [GOOD], stop=True)
    with open_output(tmp_path / "out.csv", "csv", resume=True) as output:
        output.begin(replace(RUN, engine="onnxruntime", device="cuda:0", version="9", reason="so"), {"top_k": 2})
        assert output.resumed == 1


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_an_output_of_a_version_that_did_not_write_the_activation_is_resumed(
    activation: str, stop: bool, tmp_path: Path
) -> None:
    run(tmp_path / "out.csv", "csv", [GOOD], stop=stop)
    with open_output(tmp_path / "out.csv", "csv", resume=True) as output:
        output.begin(replace(RUN, activation=activation), {"top_k": 2})
        assert output.resumed == 1


def test_another_activation_is_another_kind(tmp_path: Path) -> None:
    with open_output(tmp_path / "out.csv", "csv") as output:
        output.begin(replace(RUN, activation="softmax"), {"top_k": 2})
        output.write(GOOD)
    with (
        open_output(tmp_path / "out.csv", "csv", resume=True) as output,
        pytest.raises(UsageError, match="activation was 'softmax' and is now 'none'"),
    ):
        output.begin(replace(RUN, activation="none"), {"top_k": 2})


@every_format
def test_a_stopped_runs_records_are_not_overwritten_unasked(name: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, name, [GOOD], stop=True)
    with pytest.raises(UsageError, match="holds the records of a stopped run") as raised:
        open_output(path, name)
    assert raised.value.hint
    assert "--resume" in raised.value.hint
    assert run(path, name, [GOOD]) == 0


@every_format
def test_a_stopped_runs_records_are_discarded_when_asked_but_not_before_the_model_is_there(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    run(path, name, [good("a"), good("b")], stop=True)
    partial = (tmp_path / "out.partial").read_bytes()
    with open_output(path, name, overwrite=True):
        pass  # the model cannot be loaded
    assert (tmp_path / "out.partial").read_bytes() == partial
    with open_output(path, name, overwrite=True) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(good("c"))
        output.complete()
    assert read(path, name) == [good("c")]
    assert not (tmp_path / "out.partial").exists()


def test_to_keep_and_to_replace_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--overwrite cannot be combined with --resume"):
        open_output(tmp_path / "out.csv", "csv", resume=True, overwrite=True)


@every_format
@pytest.mark.parametrize("resume", [False, True])
def test_an_empty_file_is_no_result(name: str, resume: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.touch()
    with open_output(path, name, resume=resume) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(GOOD)
        output.complete()
    assert read(path, name) == [GOOD]


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    with open_output(tmp_path / "out.csv", "csv"):
        code = f"""
            from pathlib import Path
            from outputs import open_output
            open_output(Path({str(tmp_path / "out.csv")!r}), "csv", resume=True)
        """
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
        process = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment
        )
        assert "another imgclassify is writing" in process.stderr
    open_output(tmp_path / "out.csv", "csv").__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["table", "json"])
def test_what_cannot_be_read_back_cannot_be_resumed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be resumed"):
        open_output(tmp_path / "out", name, resume=True)
    with pytest.raises(UsageError, match="cannot be resumed"):
        open_output(None, "jsonl", resume=True)


@pytest.mark.parametrize("name", ["parquet", "sqlite"])
@pytest.mark.parametrize("place", [None, Path("-"), Path("/dev/null")])
def test_files_that_need_seeking_go_to_no_pipe(name: str, place: Path | None) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot be written to"):
        open_output(place, name)


def test_parquet_without_the_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgclassify.output.formats.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="extra package") as raised:
        open_output(tmp_path / "out.parquet", "parquet")
    assert raised.value.hint == "pip install pyarrow"


@pytest.mark.parametrize("place", ["no/out.csv", "/proc/out.csv"])
def test_a_place_that_cannot_be_written_is_told_at_once(place: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*out\.csv"):
        open_output(tmp_path / place, "csv")


def test_a_database_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE precious (x)")
    database.commit()
    database.close()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not a database of imgclassify"):
            open_output(path, "sqlite", overwrite=overwrite)


def test_a_database_that_is_being_written_to_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.sqlite"
    run(path, "sqlite", [GOOD])
    other = sqlite3.connect(path)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("UPDATE images SET model = 'other'")
    with pytest.raises(UsageError, match="written to by another program"):
        open_output(path, "sqlite", overwrite=True)
    other.close()
    open_output(path, "sqlite", overwrite=True).__exit__(None, None, None)


@every_format
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_complete_output_that_is_damaged_is_refused_in_words(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, name, [good(str(index)) for index in range(50)])
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 1])
    else:
        path.write_bytes(b"\xff\x00garbage" * 100)
    with pytest.raises(UsageError) as raised:
        open_output(path, name, resume=True)
    assert raised.value.hint


@pytest.mark.parametrize("name", sorted(TEXT_FORMATS & set(RESUMABLE)))
def test_a_sidecar_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, name, [GOOD])
    (tmp_path / "out.run.json").unlink()
    with pytest.raises(UsageError, match=r"without 'out\.run\.json', which .* model and settings") as raised:
        open_output(path, name, resume=True)
    assert raised.value.hint
    assert "put 'out.run.json' back" in raised.value.hint


# Faults of the disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "torn", [b'{"source": "c", "mod', b"\0" * 100, b"\n\n", b'{"source": "c"}\n', b"\xff\xfe\n"]
)
def test_a_torn_last_line_is_dropped_and_the_rest_kept(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path, "jsonl", [good("a"), bad("b")], stop=True)
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(partial.read_bytes() + torn)
    assert run(path, "jsonl", [good("a"), bad("b"), good("c")]) == 1
    assert read(path, "jsonl") == [good("a"), bad("b"), good("c")]


def test_a_journal_cut_anywhere_keeps_all_whole_records_before(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    results = [good("a"), bad("b\nc"), good("caf\udce9")]
    run(path, "jsonl", results, stop=True)
    partial = tmp_path / "out.jsonl.partial"
    whole = partial.read_bytes()
    for length in range(len(whole)):
        path.unlink(missing_ok=True)
        partial.write_bytes(whole[:length])
        kept = max(whole[:length].count(b"\n") - 1, 0)
        assert run(path, "jsonl", results) == len(results) - kept
        assert read(path, "jsonl") == results


def test_a_damaged_line_in_the_middle_costs_its_own_record_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    results = [good("a"), good("b"), good("c")]
    run(path, "jsonl", results, stop=True)
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(partial.read_bytes().replace(b'"source":"b"', b'"source";"b"'))
    assert run(path, "jsonl", results) == 1
    assert read(path, "jsonl") == [good("a"), good("c"), good("b")]


def test_a_record_of_another_model_in_the_journal_counts_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    results = [good("a"), good("b")]
    run(path, "jsonl", results, stop=True)
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(partial.read_bytes().replace(b'"b","model":"tiny"', b'"b","model":"tinx"'))
    assert run(path, "jsonl", results) == 1
    assert read(path, "jsonl") == results


@pytest.mark.parametrize("content", [b"my own notes\n", b'{"schema": "other"}\n', b"[]\n", b"x" * 10])
def test_a_file_that_is_no_journal_is_left_alone(content: bytes, tmp_path: Path) -> None:
    partial = tmp_path / "out.csv.partial"
    partial.write_bytes(content)
    for resume in (False, True):
        with pytest.raises(UsageError, match="is not an unfinished output"):
            open_output(tmp_path / "out.csv", "csv", resume=resume)
    assert partial.read_bytes() == content


def test_a_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond a limit."""
    code = f"""
        import resource, signal
        from pathlib import Path
        from test_resumable import RUN, good
        from imgclassify.errors import UsageError
        from outputs import open_output
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with open_output(Path({str(tmp_path / "out.csv")!r}), "csv") as output:
            output.begin(RUN, {{"top_k": 2}})
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            try:
                for index in range(1000):
                    output.write(good(str(index)))
            except UsageError as error:
                print(index, error)
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=True
    )
    written, _, message = process.stdout.partition(" ")
    assert "File too large" in message
    assert (tmp_path / "out.csv.partial").read_bytes().endswith(b"\n")
    with open_output(tmp_path / "out.csv", "csv", resume=True) as output:
        assert output.resumed == int(written) > 0


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_an_output_folder_that_is_gone_ends_the_run(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgclassify.output.journal.SYNC_SECONDS", -1.0)
    folder = tmp_path / "folder"
    folder.mkdir()
    with open_output(folder / "out.csv", "csv") as output:
        output.begin(RUN, {"top_k": 2})
        output.write(GOOD)
        if how == "removed":
            (folder / "out.csv.partial").unlink()
            folder.rmdir()
        else:
            folder.rename(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="moved or removed"):
            output.write(BAD)
    if how == "moved":
        with open_output(tmp_path / "elsewhere" / "out.csv", "csv", resume=True) as output:
            assert output.resumed == 2


def test_a_process_killed_while_the_file_is_written_whole_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    code = f"""
        import os, signal
        from pathlib import Path
        from test_resumable import RUN, good
        from outputs import open_output
        Path.replace = lambda draft, target: os.kill(os.getpid(), signal.SIGKILL)
        with open_output(Path({str(path)!r}), "csv") as output:
            output.begin(RUN, {{"top_k": 2}})
            output.write(good("a"))
            output.complete()
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    assert run(path, "csv", [good("a")]) == 0
    assert read(path, "csv") == [good("a")]
    assert {entry.name for entry in tmp_path.iterdir()} == {"out.csv", "out.csv.run.json"}


@pytest.mark.parametrize("step", ["replace", "write_text"])
@every_format
def test_a_disk_that_fails_while_the_file_is_written_whole_loses_nothing(
    step: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the steps by which an output gets its place."""
    path = tmp_path / "out"
    run(path, name, [good("a"), good("b")])
    with open_output(path, name, resume=True) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(good("c"))
        with monkeypatch.context() as patched:

            def fail(self: Path, *arguments: object, **options: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patched.setattr(Path, step, fail)
            failed = step == "replace" or name in TEXT_FORMATS
            with pytest.raises(UsageError) if failed else nullcontext() as raised:
                output.complete()
    if failed:
        assert "free some space" in raised.value.hint
    assert run(path, name, [good("a"), good("b"), good("c")]) == 0
    assert read(path, name) == [good("a"), good("b"), good("c")]
    assert {entry.name for entry in tmp_path.iterdir()} <= {"out", "out.run.json"}


@every_format
def test_a_read_only_output_is_gone_on_with_and_stays_read_only(name: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    run(path, name, [good("a")])
    path.chmod(0o440)
    run(path, name, [good("a"), good("b")])
    assert path.stat().st_mode & 0o777 == 0o440
    assert read(path, name) == [good("a"), good("b")]


def test_the_names_of_earlier_records_are_given_back(tmp_path: Path) -> None:
    run(tmp_path / "out.csv", "csv", [good(name) for name in ODD_NAMES])
    with open_output(tmp_path / "out.csv", "csv", resume=True) as output:
        assert list(output.earlier_sources()) == ODD_NAMES
    with open_output(tmp_path / "new.csv", "csv", resume=True) as output:
        assert list(output.earlier_sources()) == []


def test_who_may_not_read_the_output_may_not_read_its_records_either(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("former")
    path.chmod(0o600)
    with open_output(path, "csv", overwrite=True) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(GOOD)
        assert (tmp_path / "out.csv.partial").stat().st_mode & 0o777 == 0o600
        output.complete()
    with open_output(path, "csv", resume=True) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(BAD)
        assert (tmp_path / "out.csv.partial").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("length", [200, 246, 247, 250])
@every_format
def test_a_long_name_is_written_or_refused_at_once(name: str, length: int, tmp_path: Path) -> None:
    path = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
    beside = name in TEXT_FORMATS
    if length + len(".run.json" if beside else ".partial") > 255:
        with pytest.raises(UsageError, match="too long"):
            open_output(path, name)
        return
    output = open_output(path, name)
    with output:
        output.begin(RUN, {"top_k": 2})
        output.write(GOOD)
        output.complete()
    assert read(path, name) == [GOOD]


@every_format
def test_an_outputs_own_name_may_be_of_any_bytes(name: str, tmp_path: Path) -> None:
    run(tmp_path / "caf\udce9", name, [GOOD])
    assert run(tmp_path / "caf\udce9", name, [GOOD, BAD]) == 1
    assert read(tmp_path / "caf\udce9", name) == [GOOD, BAD]


def test_a_field_of_any_length_is_gone_on_with(tmp_path: Path) -> None:
    url = "http://x/" + "a" * 200_000
    run(tmp_path / "out.csv", "csv", [good(url)])
    assert run(tmp_path / "out.csv", "csv", [good(url)]) == 0


def test_columns_and_tables_of_ones_own_are_not_lost(tmp_path: Path) -> None:
    run(tmp_path / "out.csv", "csv", [GOOD])
    text = (tmp_path / "out.csv").read_text("utf-8").replace("error_message\n", "error_message,mine\n")
    (tmp_path / "out.csv").write_text(text, "utf-8")
    with pytest.raises(UsageError, match="columns"):
        open_output(tmp_path / "out.csv", "csv", resume=True)
    run(tmp_path / "out.sqlite", "sqlite", [GOOD])
    database = sqlite3.connect(tmp_path / "out.sqlite")
    database.execute("CREATE TABLE mine (x)")
    database.close()
    for resume in (False, True):
        with pytest.raises(UsageError, match="further tables"):
            open_output(tmp_path / "out.sqlite", "sqlite", resume=resume)


def test_records_of_another_model_than_the_file_beside_says_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl", "jsonl", [GOOD])
    beside = tmp_path / "out.jsonl.run.json"
    beside.write_text(beside.read_text("utf-8").replace('"model": "tiny"', '"model": "large"'), "utf-8")
    with pytest.raises(UsageError, match="'tiny', but the sidecar names 'large'"):
        open_output(tmp_path / "out.jsonl", "jsonl", resume=True)


def test_the_name_of_a_stopped_runs_records_is_no_output(tmp_path: Path) -> None:
    run(tmp_path / "out.csv", "csv", [GOOD], stop=True)
    with pytest.raises(UsageError, match="stopped run's records"):
        open_output(tmp_path / "out.csv.partial", "csv")
    assert run(tmp_path / "out.csv", "csv", [GOOD]) == 0


def test_a_folder_in_the_outputs_place_is_told_at_once(tmp_path: Path) -> None:
    for name in ("csv", "json"):
        with pytest.raises(UsageError, match="directory"):
            open_output(tmp_path, name)


def test_what_failed_and_what_is_there_is_counted_over_all_runs(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    run(path, "jsonl", [bad("a"), bad("b"), good("c")])
    with open_output(path, "jsonl", resume=True, retry_errors=True) as output:
        output.begin(RUN, {"top_k": 2})
        output.write(good("a"))
        output.write(bad("d"))
        assert (output.count, output.failed, output.resumed) == (4, 2, 1)


# The index -------------------------------------------------------------------------------------------------


def test_the_names_of_records_are_not_in_memory() -> None:
    """In a process of its own: what remembers 200,000 names of 200 characters takes less than half their size."""
    code = """
        import resource
        from test_resumable import GOOD
        from dataclasses import replace
        from imgclassify.output.resume_index import _CLAIM, ResumeIndex
        ResumeIndex([(0, GOOD)])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        index = ResumeIndex((0, replace(GOOD, source=f"{index:0200d}")) for index in range(200_000))
        assert index.count() == 200_000
        assert index.claim(f"{7:0200d}") and not index.claim(f"{7:0200d}") and not index.claim("other")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=True
    )
    assert int(process.stdout) * 1024 < 20_000_000


def test_a_name_given_ten_thousand_times_takes_no_longer_than_others() -> None:
    index = ResumeIndex((0, good("same")) for _ in range(10_000))
    plan = index._database.execute("EXPLAIN QUERY PLAN " + _CLAIM, (b"same",)).fetchall()
    assert not any("TEMP B-TREE" in step[-1] for step in plan)
    assert sum(index.claim("same") for _ in range(10_001)) == 10_000


def test_a_full_folder_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    index = ResumeIndex([])
    index._database.close()
    index._database = sqlite3.connect(
        "file::memory:?mode=ro", uri=True
    )  # any operation fails as a full disk's does
    with pytest.raises(UsageError, match="temporary files") as raised:
        index.add(0, GOOD)
    assert "SQLITE_TMPDIR" in str(raised.value.hint)
    index._database.close()
