"""Runs that nobody watches: stopped, killed, resumed, told of; with real processes and real signals."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import pytest
from conftest import noise
from outputs import file_format
from servers import FileServer, trickled

from imgclassify.classifier import Classifier
from imgclassify.results import ImageResult

from .conftest import ALBUM, Run, process

MANY = 120


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images, every tenth of them broken."""
    folder = tmp_path_factory.mktemp("many")
    for index in range(MANY):
        path = folder / f"{index // 40}" / f"{index:04}.jpg"
        path.parent.mkdir(exist_ok=True)
        noise(48, 40, seed=index).save(path, quality=80)
        if index % 10 == 7:
            path.write_bytes(path.read_bytes()[:200])
    return folder


def names(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*.jpg"))]


@contextmanager
def started(*arguments: str | Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", "imgclassify", *map(str, arguments)],
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def sources(path: Path) -> list[str]:
    return [json.loads(line)["source"] for line in path.read_text("utf-8").splitlines()]


# Signals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated"), (signal.SIGHUP, 129, b"terminal")],
)
def test_a_signal_lets_what_is_in_flight_finish_and_leaves_what_can_be_resumed(
    number: int, status: int, words: bytes, many: Path, tmp_path: Path
) -> None:
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with started("predict", many, "-o", output, "--summary", tmp_path / "s.json") as running:
        wait_for(lambda: lines(partial) > 3)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    assert running.returncode == status
    assert words in err
    assert b"with --resume to continue" in err
    assert not output.exists()
    kept = lines(partial) - 1
    assert partial.read_bytes().endswith(b"\n")
    summary = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert summary["status"] == status
    assert summary["answered"] + sum(summary["failed"].values()) == kept < MANY
    done = process("predict", many, "-o", output, "--resume", "--summary", tmp_path / "s.json")
    assert done.returncode == 1
    assert sources(output) == names(many)
    summary = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert (summary["resumed"], summary["images"]) == (kept, MANY - kept)


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with FileServer(files={"a.jpg": bytes(5000)}) as server:
        server.always = trickled(1, 0.5)
        with started("predict", server.url("a.jpg"), "-o", tmp_path / "out.csv", "-v") as running:
            assert running.stderr
            running.stderr.readline()  # the model is loaded
            time.sleep(0.5)
            running.send_signal(signal.SIGINT)
            assert b"to stop at once" in running.stderr.readline()
            running.send_signal(signal.SIGINT)
            begun = time.monotonic()
            assert running.wait(timeout=30) == 130
            assert time.monotonic() - begun < 4  # the grace of a single signal is longer


def test_what_is_in_flight_is_waited_for(tmp_path: Path) -> None:
    """An image that is on its way from a server when the signal comes has its record."""
    stream = io.BytesIO()
    noise(48, 40).save(stream, "JPEG")
    with FileServer(files={"a.jpg": stream.getvalue()}) as server:
        server.always = trickled(len(stream.getvalue()) // 4, 0.5)
        with started("predict", server.url("a.jpg"), "-o", tmp_path / "out.jsonl", "-v") as running:
            assert running.stderr
            running.stderr.readline()  # the model is loaded
            wait_for(lambda: bool(server.requests))
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=30) == 130
    [_, record] = (tmp_path / "out.jsonl.partial").read_text("utf-8").splitlines()
    assert json.loads(record)["predictions"]


def test_a_signal_while_the_output_is_written_whole_leaves_the_records(tmp_path: Path, photo: Path) -> None:
    code = f"""
        import sys, time
        from imgclassify.output import file_formats as forms
        def save(self, path, provenance, results):
            print("finishing", file=sys.stderr, flush=True)
            time.sleep(60)
        forms.TextFileFormat.save = save
        sys.argv[1:] = ["predict", {str(photo)!r}, "-o", {str(tmp_path / "out.csv")!r}]
        from imgclassify.cli.main import main
        main()
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE) as running:
        assert running.stderr
        while b"finishing" not in running.stderr.readline():
            pass
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 143
        assert b"with --resume to continue" in running.stderr.read()
    assert [entry.name for entry in tmp_path.iterdir() if "out" in entry.name] == ["out.csv.partial"]
    assert process("predict", photo, "-o", tmp_path / "out.csv", "--resume").returncode == 0


def test_an_ignored_signal_stays_ignored(many: Path, tmp_path: Path) -> None:
    """As nohup has it."""
    with subprocess.Popen(
        [sys.executable, "-m", "imgclassify", "predict", str(many), "-o", str(tmp_path / "out.csv")],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as running:
        wait_for(lambda: lines(tmp_path / "out.csv.partial") > 3)
        running.send_signal(signal.SIGHUP)
        assert running.wait(timeout=60) == 1
    assert (tmp_path / "out.csv").exists()


def test_a_stopped_run_takes_no_names_that_come_later(photo: Path, tmp_path: Path) -> None:
    """The list on stdin is open, and silent."""
    output = tmp_path / "out.jsonl"
    with started("predict", "--files-from", "-", "-o", output, stdin=subprocess.PIPE) as running:
        assert running.stdin
        running.stdin.write(f"{photo}\n".encode())
        running.stdin.flush()
        wait_for(lambda: lines(tmp_path / "out.jsonl.partial") == 2)
        running.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert running.wait(timeout=30) == 130
        assert time.monotonic() - begun < 4


def test_a_run_goes_on_when_nobody_reads_its_stderr(many: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify", "predict", many, "-o", tmp_path / "out.jsonl", "-v"],
        stderr=writer,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert sources(tmp_path / "out.jsonl") == names(many)


# Kills ------------------------------------------------------------------------------------------------------


KILLS = 30


def records(path: Path) -> list[ImageResult]:
    return list(file_format(path.suffix.removeprefix(".")).load(path)[1])


def test_runs_killed_again_and_again_answer_each_file_once(many: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, from the first import to the last rename, at least KILLS times. Each run is gone
    on with until it comes to its end, and held against one that nobody disturbed, record for record."""
    arguments = ["predict", str(many), "--batch-size", "1"]  # the last digits depend on the batch
    begun = time.monotonic()
    assert process(*arguments, "-o", tmp_path / "whole.jsonl").returncode == 1
    seconds = time.monotonic() - begun
    expected = records(tmp_path / "whole.jsonl")
    assert len(expected) == MANY
    generator = random.Random(KILLS)
    formats = cycle(["jsonl", "csv", "sqlite", "parquet"])
    workers = cycle(["threads", "processes", "processes:3"])
    kills = in_its_midst = 0
    while kills < KILLS:
        output = tmp_path / f"out.{next(formats)}"
        partial = output.with_name(output.name + ".partial")
        while not output.exists():
            with started(*arguments, "--workers", next(workers), "-o", output, "--resume", "-q") as running:
                try:
                    running.wait(timeout=generator.uniform(0, seconds))
                except subprocess.TimeoutExpired:
                    running.kill()
                    kills += running.wait() == -signal.SIGKILL
            in_its_midst += 1 < lines(partial) < MANY
        assert records(output) == expected
        output.unlink()
        output.with_name(output.name + ".run.json").unlink(missing_ok=True)
        assert [entry.name for entry in tmp_path.iterdir() if "out" in entry.name] == []
    assert in_its_midst > 0


def test_a_killed_run_leaves_the_records_that_were_seen(many: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.csv.partial"
    with started("predict", many, "-o", tmp_path / "out.csv") as running:
        wait_for(lambda: lines(partial) > 10)
        running.kill()
    found = [json.loads(line)["source"] for line in partial.read_text("utf-8").splitlines()[1:]]
    assert found == names(many)[: len(found)]
    assert len(found) >= 10


# Resuming ---------------------------------------------------------------------------------------------------


def test_a_run_with_other_settings_is_refused_by_name(run: Run, album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    assert run("predict", album, "-o", output).status == 1
    before = output.read_bytes()
    for settings, words in (
        (["-k", "3"], "top_k was 5 and is now 3"),
        (["--resize-size", "300"], "preprocess.resize_size was 256 and is now 300"),
        (["--fast-decode"], "decode was 'exact' and is now 'fast'"),
    ):
        done = run("predict", album, "-o", output, "--resume", *settings)
        assert done.status == 2
        assert words in done.err
    own = tmp_path / "labels.txt"
    own.write_text("\n".join(f"class {index}" for index in range(1000)))
    assert "label_set was 'imagenet1k'" in run("predict", album, "-o", output, "--resume", "--labels", own).err
    assert output.read_bytes() == before
    assert run("predict", album, "-o", output, "--resume").status == 1  # as a whole, one of them failed


def test_labels_that_were_changed_in_place_are_noticed(run: Run, photo: Path, tmp_path: Path) -> None:
    own = tmp_path / "labels.txt"
    own.write_text("\n".join(f"thing{index:03}x" for index in range(1000)))
    assert run("predict", photo, "-o", tmp_path / "out.csv", "--labels", own).status == 0
    own.write_text("\n".join(f"thing{999 - index:03}x" for index in range(1000)))
    done = run("predict", photo, "-o", tmp_path / "out.csv", "--labels", own, "--resume")
    assert (done.status, "label_set_sha256" in done.err) == (2, True)


def test_failed_ones_are_tried_again_when_asked(run: Run, album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert run("predict", album, "-o", output).status == 1
    noise(50, 50).save(album / "m.jpg")
    assert run("predict", album, "-o", output, "--resume").status == 1
    done = run("predict", album, "-o", output, "--retry-errors", "--summary", tmp_path / "s.json")
    assert done.status == 0
    results = records(output)
    assert [result.source for result in results] == [str(album / name) for name in ALBUM]
    assert all(result.error is None for result in results)
    assert json.loads((tmp_path / "s.json").read_text("utf-8"))["images"] == 1


def test_images_that_are_new_are_added(run: Run, album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    run("predict", album, "-o", output)
    noise(50, 50).save(album / "new.jpg")
    run("predict", album, "-o", output, "--resume")
    assert [result.source for result in records(output)] == [str(album / name) for name in [*ALBUM, "new.jpg"]]


@pytest.fixture
def expected_images(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """For how many images each run has chosen its engine and device."""
    numbers: list[int | None] = []
    load = Classifier.__init__

    def spy(self: Classifier, *arguments: object, num_images: int | None = None, **options: object) -> None:
        numbers.append(num_images)
        load(self, *arguments, num_images=num_images, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "__init__", spy)
    return numbers


def test_a_resumed_run_chooses_by_the_number_of_all_its_images(
    expected_images: list[int | None], run: Run, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["predict", album, "-o", tmp_path / "out.csv"]
    run(*arguments, "--max-errors", "1")  # stops at the third of five
    run(*arguments, "--resume")
    noise(50, 50).save(album / "new.jpg")
    run(*arguments, "--resume")
    run(*arguments, "--retry-errors")
    monkeypatch.setattr("imgclassify.cli.run.LOOK_AHEAD", 5)  # an undisturbed run would not have counted six
    run(*arguments, "--resume")
    assert expected_images == [5, 5, 6, 6, None]


def test_a_resumed_run_stays_on_the_gpu_that_it_began_on(
    expected_images: list[int | None], run: Run, album: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    run("predict", album, "-o", output)
    provenance = output.with_name(output.name + ".run.json")
    former = json.loads(provenance.read_text("utf-8"))
    former["run"]["device"] = "cuda:0"
    provenance.write_text(json.dumps(former))
    run("predict", album, "-o", output, "--resume")
    assert expected_images == [5, None]


def test_a_run_is_begun_where_there_is_none_to_resume(run: Run, photo: Path, tmp_path: Path) -> None:
    assert run("predict", photo, "-o", tmp_path / "out.csv", "--resume").status == 0
    assert len(records(tmp_path / "out.csv")) == 1


def test_a_stopped_run_is_not_begun_anew_unasked(run: Run, many: Path, photo: Path, tmp_path: Path) -> None:
    with started("predict", many, "-o", tmp_path / "out.csv") as running:
        wait_for(lambda: lines(tmp_path / "out.csv.partial") > 3)
        running.kill()
    done = run("predict", photo, "-o", tmp_path / "out.csv")
    assert done.status == 2
    assert "--resume" in done.err


def test_resuming_needs_a_file_that_can_be_read_back(run: Run, photo: Path, tmp_path: Path) -> None:
    assert "cannot be resumed" in run("predict", photo, "--resume").err
    assert "cannot be resumed" in run("predict", photo, "--resume", "-o", tmp_path / "out.json").err
    assert run("predict", photo, "--resume", "--jsonl").status == 2


def test_a_resume_with_nothing_new_says_why_its_status_is_1(run: Run, album: Path, tmp_path: Path) -> None:
    arguments = ["predict", album, "-o", tmp_path / "out.csv"]
    run(*arguments)
    done = run(*arguments, "--resume")
    assert done.status == 1
    assert "0 images in " in done.err
    assert "5 resumed (1 failed before)" in done.err
    assert "the exit status is 1 because 1 image failed before; --retry-errors tries it again" in done.err
    only = ["predict", album / "m.jpg", "-o", tmp_path / "only.csv"]
    run(*only)
    assert "1 resumed (1 failed before)" in run(*only, "--resume").err
    noise(50, 50).save(album / "m.jpg")
    assert "before" not in run(*arguments, "--retry-errors").err
    assert "before" not in run(*arguments, "--resume").err


def test_a_resume_without_a_known_name_says_so_before_it_starts(
    run: Run, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("predict", album.name, "-o", "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    for place, sources in ((tmp_path, f"./{album.name}"), (tmp_path, str(album)), (album, ".")):
        monkeypatch.chdir(place)
        # A model that does not exist: the run does not start.
        done = run("predict", sources, "-o", tmp_path / "out.csv", "--resume", "-m", "no_such_model")
        assert done.status == 3
        first = done.err.splitlines()[0]
        assert first.startswith("warning: no image of this run (5) is among the 5 earlier records")
        assert f"'{album.name}/a.jpg' there, but names are compared as given" in first
    assert (tmp_path / "out.csv").read_bytes() == before
    # Lists from a pipe, of which only the first name is known.
    done = run(
        *("predict", "--files-from", "-", "-o", tmp_path / "out.csv", "--resume", "-m", "no_such_model"),
        stdin=os.fsencode(album / "a.jpg"),
    )
    assert "warning: no image of this run (the first 1) is among the 5 earlier records" in done.err


def test_images_that_are_new_or_tried_again_are_no_mismatch(run: Run, album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    noise(50, 50).save(tmp_path / "other.jpg")
    run("predict", album, "-o", output)
    assert "among" not in run("predict", album / "m.jpg", "-o", output, "--retry-errors").err
    done = run("predict", tmp_path / "other.jpg", "-o", output, "--resume")
    assert "no image of this run (1) is among the 5 earlier records, so all are processed: " in done.err
    assert "warning" not in done.err
    noise(50, 50).save(album / "new.jpg")
    assert "among" not in run("predict", album, "-o", output, "--resume").err


@pytest.mark.parametrize("name", ["out.csv", "out.json", "out.txt"])
def test_a_complete_output_is_replaced_only_when_asked(name: str, run: Run, photo: Path, tmp_path: Path) -> None:
    output = tmp_path / name
    assert run("predict", photo, "-o", output).status == 0
    before = output.read_bytes()
    refused = run("predict", photo, "-o", output, "-k", "1", "-m", "no_such_model")
    assert (refused.status, "exists already" in refused.err) == (2, True)  # before the model is looked for
    assert "--overwrite" in refused.err
    assert ("--resume" in refused.err) == (name == "out.csv")
    assert output.read_bytes() == before
    assert run("predict", photo, "-o", output, "-k", "1", "--overwrite").status == 0
    assert len(output.read_bytes()) < len(before)
    assert run("predict", photo, "-o", output, "--overwrite", "--resume").status == 2


def test_what_holds_no_result_is_written_to(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.json").touch()
    assert run("predict", photo, "-o", tmp_path / "empty.json").status == 0
    for _ in range(2):
        assert run("predict", photo, "-o", "/dev/null", "-f", "csv").status == 0


def test_after_a_stopped_replacement_the_way_to_go_on_is_told(run: Run, many: Path, tmp_path: Path) -> None:
    arguments = ["predict", many, "-o", tmp_path / "out.csv"]
    run(*arguments)
    done = run(*arguments, "--overwrite", "--fail-fast")
    assert "8 records are in" in done.err
    assert "with --resume instead of --overwrite to continue" in done.err
    again = run(*arguments, "--overwrite", "--fail-fast")
    assert "8 records are in" in again.err
    assert run(*arguments, "--resume").status == 1
    assert len(records(tmp_path / "out.csv")) == MANY


def test_a_folder_without_images_says_what_can_be_opened(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "vids"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.CR2", "d.txt"):
        (folder / name).touch()
    commands = ["predict", "embed", "compare efficientnet_lite0", "duplicates --stage bytes"]
    for command in commands:
        done = run(*command.split(), folder)
        assert done.status == 4
        assert f"no image in {str(folder)!r}: 4 skipped (.mp4 2, .cr2 1, .txt 1)" in done.err
        assert "error: no image was found" in done.err
        assert "--any-name to develop camera RAW files, .cr2" in done.err
        needed = "pip install rawpy (extra imgclassify[raw])"
        assert (needed in done.err) == (find_spec("rawpy") is None)
        assert "--fps 1` classifies frames of videos, .mp4" in done.err
        needed = "pip install av (extra imgclassify[video])"
        assert (needed in done.err) == (find_spec("av") is None)
        assert "imgclassify doctor" in done.err
    (folder / "c.CR2").unlink()
    assert "camera RAW" not in run("predict", folder).err


# Stopping at failures, and what is told ---------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "failures"), [(["--fail-fast"], 1), (["--max-errors", "3"], 3)])
def test_too_many_failures_stop_a_run_that_can_be_resumed(
    flags: list[str], failures: int, run: Run, many: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    done = run("predict", many, "-o", output, *flags, "--summary", tmp_path / "s.json")
    assert done.status == 1
    summary = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert (summary["stopped"], summary["failed"]) == ("max_errors", {"truncated_image": failures})
    assert summary["answered"] == 10 * failures - 3 - (failures - 1)
    assert "with --resume to continue" in done.err
    assert run("predict", many, "-o", output, "--resume").status == 1
    assert sources(output) == names(many)


def test_the_summary_accounts_for_every_file(run: Run, album: Path, tmp_path: Path) -> None:
    (album / "sub" / "empty.png").write_bytes(b"")
    (album / ".hidden.jpg").write_bytes(b"")
    done = run("predict", album, "--exclude", "z.*", "-o", tmp_path / "o.csv", "--summary", tmp_path / "s.json")
    assert "5 images in" in done.err
    assert "3 answered, 2 failed (" in done.err
    summary = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert summary["schema"] == "imgclassify.summary/1"
    assert summary["failed"] == {"truncated_image": 1, "empty": 1}
    assert summary["skipped"] == {"hidden": 1, "not_an_image_name": 1, "excluded": 1}
    assert summary["skipped_extensions"] == {".txt": 1}
    assert "3 skipped (.txt 1, " in done.err
    assert (summary["status"], summary["stopped"], summary["images"], summary["answered"]) == (1, None, 5, 3)
    assert summary["run"]["model"] == "efficientnet_lite0"
    # Seconds are told to the thousandth.
    assert summary["images_per_second"] * summary["seconds"] == pytest.approx(5, rel=0.1)


def test_a_summary_that_cannot_be_written_is_told_before_the_run(run: Run, photo: Path, tmp_path: Path) -> None:
    done = run("predict", photo, "--summary", tmp_path / "no" / "s.json")
    assert (done.status, done.out) == (2, "")
    assert "s.json" in done.err


@pytest.mark.parametrize("place", ["out.csv", "out.csv.partial", "out.csv.run.json", "link.csv"])
def test_a_summary_never_takes_the_place_of_the_records(place: str, run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "out.csv")
    done = run("predict", photo, "-o", tmp_path / "out.csv", "--summary", tmp_path / place)
    assert (done.status, "is used for the records" in done.err) == (2, True)


def test_a_summary_goes_to_a_device_or_a_link_and_replaces_neither(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("former")
    (tmp_path / "link").symlink_to(tmp_path / "s.json")
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR)
    for place in ("link", "pipe"):
        assert run("predict", photo, "--summary", tmp_path / place).status == 0
    assert json.loads((tmp_path / "s.json").read_text("utf-8"))["answered"] == 1
    assert json.loads(os.read(descriptor, 65536))["answered"] == 1
    os.close(descriptor)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()
    assert run("predict", photo, "--summary", tmp_path).status == 2


def test_a_network_that_prints_where_nobody_reads_ends_no_run(many: Path, tmp_path: Path) -> None:
    code = f"""
        import sys
        from imgclassify.runner import ModelRunner
        infer = ModelRunner._infer
        def chatty(self, *arguments):
            print("hello")
            return infer(self, *arguments)
        ModelRunner._infer = chatty
        sys.argv[1:] = ["predict", {str(many)!r}, "-o", {str(tmp_path / "out.jsonl")!r}]
        from imgclassify.cli.main import main
        main()
    """
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert len(sources(tmp_path / "out.jsonl")) == MANY


def test_a_fault_is_in_the_summary(run: Run, photo: Path, tmp_path: Path) -> None:
    done = run("predict", photo, "-m", "no_such_model", "--summary", tmp_path / "s.json")
    assert done.status == 3
    summary = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert summary["status"] == 3
    assert "no_such_model" in summary["stopped"]


def test_off_a_terminal_a_plain_line_now_and_then_says_how_far_it_is(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setattr("imgclassify.cli.progress.PLAIN_SECONDS", 0.02)
    monkeypatch.setattr("imgclassify.cli.run.LOOK_AHEAD", 1)  # so that it has to be counted
    done = run("predict", many, "-o", tmp_path / "out.csv")
    assert re.search(rf"^\d+ of {MANY} images, [\d.]+/s, \d+ failed, [\d.]+ s left$", done.err, re.MULTILINE)
    assert "\x1b" not in done.err
    quiet = run("predict", many, "-o", tmp_path / "out.csv", "--overwrite", "-q")
    assert quiet.err == ""


# Pipes ------------------------------------------------------------------------------------------------------


def test_names_are_answered_while_they_are_still_being_found(many: Path) -> None:
    wanted = names(many)
    with started(
        "predict", "-0", "--files-from", "-", "--jsonl", stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as running:
        assert running.stdin
        assert running.stdout
        for name in wanted[:3]:
            running.stdin.write(name.encode() + b"\0")
            assert json.loads(running.stdout.readline())["source"] == name
        running.stdin.close()
        assert running.wait(timeout=60) == 0


def test_selected_files_of_a_folder_and_no_more(run: Run, album: Path) -> None:
    out = run("predict", album, "--jsonl", "--include", "*.jpg", "--no-recursive").out
    assert [json.loads(line)["source"] for line in out.splitlines()] == [f"{album}/a.jpg", f"{album}/m.jpg"]


def test_hostile_names_reach_no_terminal_and_break_no_record(tmp_path: Path, run: Run) -> None:
    hostile = ["new\nline.png", "\x1b[31mred.png", "[red]markup.png", "-dash.png", "=1+1.png", 'a",b.png']
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in hostile:
        (folder / name).write_bytes(b"no picture")
    expected = sorted(str(folder / name) for name in hostile)
    table = run("predict", folder, "-v")
    assert "\x1b" not in table.out + table.err
    assert "[red]markup.png" in table.out
    assert len(table.out.splitlines()) == len(hostile)
    rows = list(csv.DictReader(io.StringIO(run("predict", folder, "-f", "csv").out)))
    assert [row["source"] for row in rows] == expected
    assert [json.loads(line)["source"] for line in run("predict", folder, "--jsonl").out.splitlines()] == expected
    dash = subprocess.run(
        [sys.executable, "-m", "imgclassify", "predict", "--jsonl", "--", "-dash.png"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert json.loads(dash.stdout)["source"] == "-dash.png"
