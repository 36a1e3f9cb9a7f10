"""File names in the records: the file's own bytes, whatever the locale."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import noise

from imgclassify.output.reading import read_records
from imgclassify.output.records import PREDICTIONS

from .conftest import Run, process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, file names are UTF-8 in every locale")

NAMES = ["caf\xe9.png", "\u732b/k\xe4fer.png", "a b.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(40 + index, 30, seed=index).save(path)
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with locales in encodings that read UTF-8 as other text."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed")
    folder = tmp_path_factory.mktemp("locales")
    for language, encoding in (("en_US", "ISO-8859-1"), ("ja_JP", "EUC-JP"), ("zh_CN", "GB18030")):
        command = ["localedef", "-i", language, "-f", encoding, str(folder / f"{language}.{encoding}")]
        if subprocess.run(command, capture_output=True, check=False).returncode > 1:
            pytest.skip("the sources of locales are not installed")
    return folder


def environment(locale: str, folder: Path | str = "", **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return kept | {"LC_ALL": locale, "LOCPATH": str(folder)} | more


def c_locale() -> dict[str, str]:
    """The locale C, without Python's own remedies."""
    return environment("C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


def sources(lines: bytes) -> set[bytes]:
    return {os.fsencode(json.loads(line)["source"]) for line in lines.splitlines()}


def given(photos: Path) -> list[str]:
    return [str(photos / name) for name in NAMES]


LOCALES = ["C", "en_US.ISO-8859-1", "ja_JP.EUC-JP", "zh_CN.GB18030"]


@pytest.mark.parametrize("locale", LOCALES)
def test_a_source_is_the_bytes_of_the_files_name(photos: Path, locale: str, request: pytest.FixtureRequest) -> None:
    env = c_locale() if locale == "C" else environment(locale, request.getfixturevalue("locales"))
    wanted = {name.encode() for name in given(photos)}
    for arguments, stdin in (
        ([photos], b""),
        (given(photos), b""),
        ([f"{photos}/**/*.png", "--isolate"], b""),
        (["--files-from", "-"], "\n".join(given(photos)).encode()),
    ):
        done = process("predict", *arguments, "--jsonl", env=env, input=stdin)
        assert done.returncode == 0, done.stderr
        assert sources(done.stdout) == wanted


def test_bytes_that_are_no_text_are_kept(photos: Path) -> None:
    name = os.fsencode(photos) + b"/caf\xe9.png"
    shutil.copy(os.fsencode(photos / NAMES[0]), name)
    for env in (c_locale(), environment("C.UTF-8")):
        done = subprocess.run(
            [sys.executable, "-m", "imgclassify", "predict", name, "--jsonl"],
            capture_output=True,
            check=True,
            env=env,
        )
        assert sources(done.stdout) == {name}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "sqlite", "parquet"])
def test_a_run_is_resumed_under_another_locale(photos: Path, suffix: str, tmp_path: Path) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    output = tmp_path / f"out.{suffix}"
    for env in (environment("C.UTF-8"), c_locale(), environment("C.UTF-8")):
        done = process("predict", photos, "-o", output, "--resume", env=env)
        assert done.returncode == 0, done.stderr
        found = [record.source for record in read_records(output, PREDICTIONS)]
        assert sorted(found) == sorted(given(photos))
    if suffix == "sqlite":
        with sqlite3.connect(output) as database:
            rows = database.execute("SELECT source FROM images").fetchall()
        assert {source for (source,) in rows} == set(given(photos))


@pytest.mark.parametrize("options", [["-I"], ["-E"], ["-X", "utf8=0"]], ids=" ".join)
def test_pythons_own_options_lead_to_no_loop(options: list[str]) -> None:
    program = "import sys; sys.argv[0] = 'imgclassify'; from imgclassify.__main__ import main; main()"
    program = f"import sys; sys.path[:0] = {sys.path!r}; {program}"
    done = subprocess.run(
        [sys.executable, *options, "-c", program, "--version"], capture_output=True, check=False, env=c_locale()
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"imgclassify ")


# Files without an extension ---------------------------------------------------------------------------------


@pytest.fixture
def browser_cache(tmp_path: Path) -> Path:
    """Five images without an extension, one with, and a saved page."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for index in range(5):
        noise(30 + index, 30, seed=index).save(folder / f"f_00000{index}", "PNG")
    (folder / "page").write_bytes(b"<!doctype html><title>x</title>")
    return folder


def test_a_folder_of_files_without_extension_says_how_many_and_how_to_take_them(
    run: Run, browser_cache: Path
) -> None:
    done = run("predict", browser_cache)
    assert done.status == 4
    assert "6 skipped (no extension 6)" in done.err
    assert "add --any-name" in done.err
    noise(9, 9).save(browser_cache / "a.png")
    done = run("predict", browser_cache, "--jsonl")
    assert len(done.out.splitlines()) == 1
    assert "6 files without a file extension were left out; --any-name" in done.err


@pytest.mark.parametrize("isolate", [[], ["--isolate"]])
def test_any_name_reads_every_file(run: Run, browser_cache: Path, isolate: list[str]) -> None:
    done = run("predict", browser_cache, "--any-name", "--jsonl", *isolate)
    assert done.status == 1
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [bool(record["predictions"]) for record in records] == [True] * 5 + [False]
    assert records[-1]["error"]["type"] == "not_an_image"
    assert "HTML page" in records[-1]["error"]["message"]
    assert "--any-name looks" not in done.err


def test_a_few_files_without_extension_are_not_mentioned(run: Run, photos: Path) -> None:
    (photos / "LICENSE").write_bytes(b"x")
    assert "--any-name" not in run("predict", photos, "--jsonl").err


# The byte order mark ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_byte_order_mark_is_written_once_and_read_again(
    run: Run, photos: Path, suffix: str, delimiter: str, tmp_path: Path
) -> None:
    marked, plain = tmp_path / f"marked.{suffix}", tmp_path / f"plain.{suffix}"
    for output, option in ((marked, ["--csv-bom"]), (plain, [])):
        assert run("predict", photos / NAMES[0], "-o", output, *option).status == 0
        assert run("predict", photos, "-o", output, *option, "--resume").status == 0
    assert marked.read_bytes() == b"\xef\xbb\xbf" + plain.read_bytes()
    with marked.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter=delimiter))
    assert {row["source"] for row in rows} == set(given(photos))
    assert [each.source for each in read_records(marked, PREDICTIONS)] == [row["source"] for row in rows]


def test_a_byte_order_mark_begins_stdout(run: Run, photos: Path) -> None:
    marked = run("predict", photos, "-f", "csv", "--csv-bom")
    assert marked.out == "\ufeff" + run("predict", photos, "-f", "csv").out


@pytest.mark.parametrize("options", [["--jsonl"], ["-o", "out.parquet"], []], ids=" ".join)
def test_other_formats_have_no_byte_order_mark(
    run: Run, photos: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("predict", photos, *options, "--csv-bom")
    assert done.status == 2
    assert "has no byte order mark" in done.err
    assert "write csv or tsv" in done.err
    assert not list(tmp_path.glob("out*"))
