import bz2
import gzip
import importlib
import inspect
import io
import lzma
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import formatdate
from functools import cache, partial
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import (
    FileServer,
    announced,
    encoded,
    endless,
    endless_chunks,
    held,
    hung_up,
    raw,
    redirected,
    reset,
    status,
    trickled,
    truncated,
)

from imgclassify import sources
from imgclassify.errors import (
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUnreadableError,
    NotAFileError,
    UsageError,
)
from imgclassify.http import client
from imgclassify.sources import Selection, expand, expansion, read_names, tars, urls, zips
from imgclassify.sources import source as source_module
from imgclassify.sources.archive_errors import ZSTANDARD

unix = pytest.mark.skipif(os.name != "posix", reason="pipes and symbolic links as Unix has them")
unprivileged = pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")


class Notices(list[str]):
    def __call__(self, message: str) -> None:
        self.append(message)


@pytest.fixture
def notices() -> Notices:
    return Notices()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*paths: str, content: bytes = b"") -> None:
    """Files whose content is their own path, unless given."""
    for name in paths:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content or os.fsencode(name))


def native(path: str) -> str:
    return path.replace("/", os.sep)


def names(*given: str, **options: object) -> list[str]:
    return [source.name for source in expand(given, **options)]


def read(source: sources.Source) -> bytes:
    with source.open() as stream:
        return stream.read()


def only(*given: str, **options: object) -> sources.Source:
    (source,) = expand(given, **options)
    return source


# Files ------------------------------------------------------------------------------------------------------


def test_names_come_in_the_order_given_and_as_often_as_given(folder):
    make("b.jpg", "a.jpg")
    assert names("b.jpg", "a.jpg", "b.jpg") == ["b.jpg", "a.jpg", "b.jpg"]


def test_a_file_is_itself_whatever_its_ending(folder):
    make("photo", "notes.txt", ".hidden")
    assert [read(source) for source in expand(["photo", "notes.txt", ".hidden"])] == [
        b"photo",
        b"notes.txt",
        b".hidden",
    ]


def test_a_file_opens_afresh_each_time_and_seeks(folder):
    make("a.jpg")
    source = only("a.jpg")
    assert read(source) == read(source) == b"a.jpg"
    with source.open() as stream:
        stream.seek(2)
        assert stream.read() == b"jpg"


@pytest.mark.parametrize("name", ["nothing.jpg", "a.jpg/inner.jpg", "", "nul\0.jpg", "no!where.jpg", "x.zip!y.jpg"])
def test_a_missing_file_is_one_source_that_fails_by_name(folder, notices, name):
    make("a.jpg")
    source = only(name, notice=notices)
    assert source.name == name
    with pytest.raises(ImageNotFoundError) as caught:
        source.open()
    assert str(caught.value) == f"no such file: {name!r}"
    assert notices == []


def test_a_file_deleted_after_expansion_is_not_found(folder):
    make("a.jpg")
    source = only("a.jpg")
    Path("a.jpg").unlink()
    with pytest.raises(ImageNotFoundError):
        source.open()


@unix
def test_a_name_that_is_too_long_is_unreadable_with_the_systems_words(folder):
    with pytest.raises(ImageUnreadableError, match="name too long"):
        only("x" * 5000).open()


@unprivileged
def test_a_file_without_permission_is_unreadable(folder):
    make("a.jpg")
    Path("a.jpg").chmod(0)
    with pytest.raises(ImageUnreadableError, match="Permission denied"):
        only("a.jpg").open()


def test_a_permission_error_is_unreadable_and_told_in_the_systems_words(folder, monkeypatch):
    make("a.jpg")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "a.jpg")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageUnreadableError) as caught:
        only("a.jpg").open()
    assert str(caught.value) == "cannot read 'a.jpg': Permission denied"


@unix
@pytest.mark.parametrize("name", ["a.jpg", "a[1].jpg"])
def test_a_dangling_link_is_not_found(folder, name):
    Path(name).symlink_to("gone.jpg")
    with pytest.raises(ImageNotFoundError):
        only(name).open()


@unix
def test_a_link_that_leads_to_itself_is_unreadable(folder):
    Path("a.jpg").symlink_to("a.jpg")
    with pytest.raises(ImageUnreadableError):
        only("a.jpg").open()


@unix
def test_a_pipe_is_read_whole_so_that_it_seeks(folder):
    os.mkfifo("pipe")
    content = os.urandom(300_000)
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(content,))
    writer.start()
    with only("pipe").open() as stream:
        assert stream.read(4) == content[:4]
        stream.seek(0)
        assert stream.read() == content
    writer.join()


@unix
def test_a_shells_process_substitution_is_read(folder):
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as stream:
        stream.write(b"from curl")
    try:
        assert read(only(f"/dev/fd/{reader}")) == b"from curl"
    finally:
        os.close(reader)


@unix
def test_a_pipe_has_a_size_limit(folder, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1000)
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as stream:
        stream.write(bytes(1001))
    try:
        with pytest.raises(ImageTooLargeError):
            only(f"/dev/fd/{reader}").open()
    finally:
        os.close(reader)


@unix
@pytest.mark.parametrize("listed", [False, True])
def test_a_device_is_no_file(listed):
    with pytest.raises(NotAFileError, match="a device, not a file: '/dev/zero'"):
        only("/dev/zero", from_file=listed).open()


@unix
@pytest.mark.parametrize("listed", [False, True])
def test_a_socket_is_no_file(folder, listed):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.jpg")
        with pytest.raises(NotAFileError, match=r"a socket, not a file: 'a\.jpg'"):
            only("a.jpg", from_file=listed).open()


@unix
def test_a_pipe_in_a_list_is_no_file_and_waited_for_by_nobody(folder):
    os.mkfifo("pipe")
    with pytest.raises(NotAFileError, match="a pipe, not a file: 'pipe'"):
        only("pipe", from_file=True).open()


@unix
def test_a_pipe_that_is_the_one_image_is_read(folder):
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(b"image",))
    writer.start()
    assert read(sources.single_source("pipe")) == b"image"
    writer.join()


@unix
@pytest.mark.parametrize("name", ["top", "top/a.jpg", "top/*.jpg"])
def test_a_pipe_in_a_files_place_is_waited_for_by_nobody(folder, name):
    make("top/a.jpg")
    source = only(name)
    Path("top/a.jpg").unlink()
    os.mkfifo("top/a.jpg")
    with pytest.raises(NotAFileError):
        source.open()


@unix
def test_a_file_that_becomes_a_pipe_while_it_is_opened_is_waited_for_by_nobody(folder, monkeypatch):
    make("a.jpg")
    source = only("a.jpg")
    really_open = os.open

    def swap(path: str, flags: int) -> int:
        Path(path).unlink()
        os.mkfifo(path)
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(NotAFileError):
        source.open()


# Paths ------------------------------------------------------------------------------------------------------


def test_what_is_a_file_on_disk_has_its_path(folder):
    make("top/a.jpg", "b")
    for name, options in [("top", {}), ("top/*.jpg", {}), ("top/a.jpg", {}), ("b", {}), ("b", {"from_file": True})]:
        source = only(name, **options)
        assert source.path == source.name
    assert sources.single_source("b").path == "b"


def test_what_is_no_file_on_disk_has_no_path(folder, server):
    make_archive("a.zip", {"a.jpg": b""})
    make_archive("a.tar", {"a.jpg": b""})
    for name in ("a.zip", "a.zip!a.jpg", "a.tar", "-", server.url("a.jpg"), "gone.jpg"):
        assert only(name).path is None


@unix
def test_what_only_this_process_can_open_has_no_path(folder):
    make("a.jpg")
    os.mkfifo("pipe")
    with Path("a.jpg").open("rb") as stream:
        for name in ("pipe", f"/dev/fd/{stream.fileno()}", f"/proc/self/fd/{stream.fileno()}"):
            assert only(name).path is None
        assert read(only(f"/dev/fd/{stream.fileno()}")) == b"a.jpg"


@unix
def test_a_source_can_be_had_anew_from_its_path_in_another_process(folder):
    make(os.fsdecode(b"caf\xe9.jpg"))
    (source,) = expand(["."])
    script = (
        "import sys; from imgclassify.sources import file_source; print(file_source(sys.argv[1]).open().read())"
    )
    done = subprocess.run([sys.executable, "-c", script, source.path], capture_output=True, check=True)
    assert done.stdout.strip() == repr(b"caf\xe9.jpg").encode()


# Standard input ---------------------------------------------------------------------------------------------


def test_a_dash_is_the_bytes_on_standard_input():
    source = only("-", stdin=io.BytesIO(b"image"))
    assert source.name == "-"
    assert read(source) == read(source) == b"image"


def test_a_dash_reads_the_process_own_standard_input_by_default(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"image")))
    assert read(only("-")) == b"image"


def test_standard_input_is_not_read_before_it_is_opened():
    stdin = io.BytesIO(b"image")
    only("-", stdin=stdin)
    assert stdin.tell() == 0


def test_a_closed_standard_input_is_unreadable(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ImageUnreadableError, match="closed"):
        only("-").open()


def test_a_second_dash_fails_and_leaves_the_first_alone():
    first, second, third = expand(["-", "-", "a.jpg"], stdin=io.BytesIO(b"image"))
    with pytest.raises(ImageUnreadableError, match="already read"):
        second.open()
    assert read(first) == b"image"
    assert third.name == "a.jpg"


def test_names_of_a_list_are_no_globs(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"other")
    names = [str(tmp_path / "[1].jpg"), "nul\0*.jpg"]
    for source, name in zip(expand(names, from_file=True), names, strict=True):
        assert source.name == name
        with pytest.raises(ImageError):
            source.open()
    with pytest.raises(ImageError):
        next(expand(["nul\0*.jpg"])).open()


@pytest.mark.parametrize(("count", "words"), [(0, "is a folder"), (1, "is a folder"), (2, "is a folder")])
def test_a_folder_is_never_the_one_image(count, words, tmp_path):
    for index in range(count):
        (tmp_path / f"{index}.jpg").write_bytes(b"x")
    with pytest.raises(ImageUnreadableError, match=words):
        sources.single_source(str(tmp_path)).open()


@pytest.mark.parametrize(("count", "words"), [(0, "no image"), (1, None), (2, "several images")])
def test_an_archive_is_the_one_image_if_it_holds_one(count, words, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index in range(count):
            archive.writestr(f"{index}.jpg", b"content")
    source = sources.single_source(str(tmp_path / "a.zip"))
    if words is None:
        assert read(source) == b"content"
    else:
        with pytest.raises(ImageUnreadableError, match=words):
            source.open()


# Globs ------------------------------------------------------------------------------------------------------


def test_two_stars_do_not_follow_links_that_lead_back(folder):
    Path("loop/sub").mkdir(parents=True)
    for name in ("loop/x.jpg", "loop/sub/y.jpg", "loop/.hidden.jpg"):
        Path(name).write_bytes(b"x")
    Path("loop/self").symlink_to(".")
    Path("loop/sub/up").symlink_to("..")
    expected = ["loop/sub/y.jpg", "loop/x.jpg"]
    assert names("loop/**/*.jpg") == expected
    assert names("**/*.jpg") == expected
    assert names(f"{Path.cwd()}/**/*.jpg") == [f"{Path.cwd()}/{name}" for name in expected]
    assert names("loop/**/sub/**/*.jpg") == ["loop/sub/y.jpg"]


# Folders ----------------------------------------------------------------------------------------------------


def test_a_folder_is_walked_with_files_and_subfolders_in_one_sorted_order(folder):
    make("top/b.jpg", "top/a/z.png", "top/a/y/x.gif", "top/c/w.webp", "top/a.jpg", "top/Z.jpg")
    # "Z" < "a" < "a.jpg" < "b.jpg" < "c" by code points.
    assert names("top") == [
        native(f"top/{path}") for path in ["Z.jpg", "a/y/x.gif", "a/z.png", "a.jpg", "b.jpg", "c/w.webp"]
    ]


def test_names_are_joined_to_the_folder_as_it_was_given(folder):
    make("top/a.jpg")
    assert names("top/") == ["top/a.jpg"]
    assert names(".") == [native("./top/a.jpg")]
    assert names(str(folder)) == [str(folder / "top" / "a.jpg")]


def test_only_image_endings_are_taken_in_any_case_and_archives_stay_closed(folder):
    make("top/a.JPG", "top/b.Jpeg", "top/notes.txt", "top/jpg", "top/c.jpg.part")
    with zipfile.ZipFile("top/d.zip", "w") as archive:
        archive.writestr("inner.jpg", b"")
    assert names("top") == [native(f"top/{name}") for name in ("a.JPG", "b.Jpeg")]


def test_hidden_files_and_folders_are_skipped(folder):
    make("top/.a.jpg", "top/.git/b.jpg", "top/c.jpg")
    assert names("top") == [native("top/c.jpg")]


def test_a_folder_named_like_an_image_is_walked(folder):
    make("top/a.jpg/b.png")
    assert names("top") == [native("top/a.jpg/b.png")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], ""),
        (["empty/notes.txt"], ": 1 skipped (.txt 1)"),
        (["empty/sub/.hidden.jpg"], ": 1 skipped (hidden 1)"),
        (["empty/a.CR2", "empty/b.cr2", "empty/c.mp4", "empty/d"], ": 4 skipped (.cr2 2, .mp4 1, no extension 1)"),
        (
            [f"empty/{number}.x{number}" for number in range(7)] + ["empty/more.x3"],
            ": 8 skipped (.x3 2, .x0 1, .x1 1, .x2 1, .x4 1, others 2)",
        ),
    ],
)
def test_a_folder_without_images_is_noticed_with_what_was_skipped(folder, notices, content, words):
    Path("empty").mkdir()
    make(*content)
    assert names("empty", notice=notices) == []
    assert notices == [f"no image in 'empty'{words}"]


def test_what_was_skipped_is_counted_for_each_folder_alone(folder, notices):
    make("one/a.mp4", "two/b.cr2", "two/c.txt", "three/d.jpg", "three/e.mp4")
    selection = Selection()
    assert names("one", "three", "two", notice=notices, selection=selection) == [native("three/d.jpg")]
    assert notices == ["no image in 'one': 1 skipped (.mp4 1)", "no image in 'two': 2 skipped (.cr2 1, .txt 1)"]
    assert selection.skipped_extensions == {".mp4": 2, ".cr2": 1, ".txt": 1}


def test_odd_extensions_take_no_memory_without_end(folder):
    Path("many").mkdir()
    selection = Selection()
    for number in range(1000):
        selection.accepts_file(f"a.{number}")
    assert len(selection.skipped_extensions) <= 101
    assert selection.skipped_extensions.total() == selection.skipped["not_an_image_name"] == 1000


def test_a_folder_is_walked_as_it_is_consumed(folder, monkeypatch):
    make("top/a/1.jpg", "top/b/2.jpg")
    scanned = []
    scandir = os.scandir

    def watch(path):
        scanned.append(os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watch)
    stream = expand(["top"])
    assert scanned == []
    next(stream)
    assert scanned == ["top", native("top/a")]


@unix
def test_links_are_followed_and_loops_survived(folder):
    make("elsewhere/b.jpg", "top/a/c.jpg")
    Path("top/elsewhere").symlink_to(Path("elsewhere").resolve())
    Path("top/a/loop").symlink_to(Path("top").resolve())
    Path("top/here").symlink_to(".")
    assert names("top") == ["top/a/c.jpg", "top/elsewhere/b.jpg"]


@unix
def test_two_links_to_one_folder_are_no_loop(folder):
    make("real/a.jpg")
    Path("top").mkdir()
    for link in ("one", "two"):
        Path("top", link).symlink_to(Path("real").resolve())
    assert names("top") == ["top/one/a.jpg", "top/two/a.jpg"]


@unix
def test_broken_links_in_a_folder_become_failing_sources(folder, notices):
    make("top/b.jpg")
    Path("top/a.jpg").symlink_to("gone.jpg")
    Path("top/c.jpg").symlink_to("c.jpg")
    found = list(expand(["top"], notice=notices))
    assert [source.name for source in found] == ["top/a.jpg", "top/b.jpg", "top/c.jpg"]
    with pytest.raises(ImageNotFoundError):
        found[0].open()
    with pytest.raises(ImageUnreadableError):
        found[2].open()


@unix
def test_pipes_and_sockets_in_a_folder_are_sources_that_fail(folder, notices):
    make("top/b.jpg")
    os.mkfifo("top/a.jpg")
    os.mkfifo("top/pipe")
    Path("top/d.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("top/c.jpg")
        first, second, third, fourth = expand(["top"], notice=notices)
        assert read(second) == b"top/b.jpg"
        for source, kind in [(first, "pipe"), (third, "socket"), (fourth, "device")]:
            with pytest.raises(NotAFileError, match=f"a {kind}, not a file: '{source.name}'"):
                source.open()
    assert notices == []


@unprivileged
def test_a_folder_without_permission_is_a_source_that_fails(folder, notices):
    make("top/a/1.jpg")
    Path("top/a").chmod(0)
    source = only("top", notice=notices)
    Path("top/a").chmod(0o700)
    assert source.name == "top/a"


@pytest.mark.parametrize("given", ["top", "top/", "top/**/*.jpg"])
def test_an_unreadable_subfolder_is_a_source_that_fails_and_the_rest_goes_on(folder, notices, monkeypatch, given):
    make("top/a/1.jpg", "top/b/2.jpg", "top/c/3.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    first, second, third = expand([given], notice=notices)
    assert [first.name, third.name] == [native("top/a/1.jpg"), native("top/c/3.jpg")]
    assert second.name == native("top/b")
    assert second.path is None
    with pytest.raises(ImageUnreadableError) as caught:
        second.open()
    assert str(caught.value) == f"cannot read folder {native('top/b')!r}: Permission denied"
    assert notices == []


def test_a_folder_that_cannot_be_read_fails_under_the_name_it_was_given(folder, notices, monkeypatch):
    Path("top").mkdir()
    monkeypatch.setattr(os, "scandir", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    source = only("top/", notice=notices)
    assert source.name == "top/"
    with pytest.raises(ImageUnreadableError, match="Input/output error"):
        source.open()
    assert notices == []


def test_a_folder_whose_listing_breaks_off_fails_first_and_yields_what_was_listed(folder, monkeypatch):
    make(*(f"top/{number}.jpg" for number in range(9)), "top/sub/x.jpg")
    scandir = os.scandir

    class Broken:
        def __init__(self, path):
            self.entries = sorted(scandir(path), key=lambda entry: entry.name != "sub")[:4]

        def __enter__(self):
            yield from self.entries
            raise OSError(5, "Input/output error")

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Broken(path) if path == "top" else scandir(path))
    failing, *rest = expand(["top"])
    assert failing.name == "top"
    with pytest.raises(ImageUnreadableError, match="Input/output error"):
        failing.open()
    assert len(rest) == 4
    assert rest[-1].name == native("top/sub/x.jpg")


def test_what_cannot_be_examined_is_not_passed_over_in_silence(folder):
    Path("top").mkdir()
    Path("top/album").symlink_to("album")
    source = only("top")
    assert source.name == "top/album"
    with pytest.raises(ImageUnreadableError, match=r"symbolic links|Symlink"):
        source.open()


@unix
def test_a_path_longer_than_the_system_takes_is_a_source_that_fails(folder):
    name = "d" * 200
    for _ in range(30):
        make("a.jpg")
        Path(name).mkdir()
        os.chdir(name)
    os.chdir(folder)
    *pictures, last = expand(["."])
    assert len(pictures) > 15
    with pytest.raises(ImageUnreadableError, match="name too long"):
        last.open()


def test_a_folders_files_are_not_examined_one_by_one(folder, monkeypatch):
    """A million of them would each cost a call to the system."""
    make(*(f"top/{number:03}.jpg" for number in range(100)), "top/sub/a.jpg")
    examined = []
    stat_of = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: examined.append(path) or stat_of(path, **options))
    assert len(names("top")) == 101
    assert len(examined) < 10


def test_a_tree_deeper_than_pythons_stack_is_walked(folder):
    depth = 100
    make("d/" * depth + "a.jpg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 50)
    try:
        found = names(".")
    finally:
        sys.setrecursionlimit(limit)
    assert found == [native("./" + "d/" * depth + "a.jpg")]


@unix
@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 only")
def test_names_that_are_not_text_survive(folder):
    make("top/" + os.fsdecode(b"caf\xe9.jpg"))
    source = only("top")
    assert os.fsencode(source.name) == b"top/caf\xe9.jpg"
    assert read(source) == b"top/caf\xe9.jpg"


# Globs ------------------------------------------------------------------------------------------------------


def test_a_glob_is_expanded_in_sorted_order(folder):
    make("b.jpg", "a.jpg", "c.png", ".d.jpg")
    assert names("*.jpg") == ["a.jpg", "b.jpg"]
    assert names("?.*") == ["a.jpg", "b.jpg", "c.png"]
    assert names("[ac].*") == ["a.jpg", "c.png"]


def test_a_file_that_exists_under_a_name_with_glob_characters_is_itself(folder):
    make("a[1].jpg", "a1.jpg")
    assert names("a[1].jpg") == ["a[1].jpg"]


def test_folders_that_a_glob_matches_are_walked(folder):
    make("2023-a/1.jpg", "2024-b/2.jpg", "other/3.jpg")
    assert names("20*") == [native("2023-a/1.jpg"), native("2024-b/2.jpg")]


@unix
@pytest.mark.parametrize("pattern", ["top/**", "top/**/*"])
def test_a_recursive_glob_yields_each_file_once_in_the_folders_own_order(folder, pattern):
    make("top/a/x.jpg", "top/a-b/y.jpg", "top/a/sub/z.jpg", "top/a.jpg")
    assert names(pattern) == names("top")
    assert len(names("top")) == 4


@unix
def test_a_recursive_glob_for_files_finds_all_depths(folder):
    make("top/x.jpg", "top/a/y.jpg", "top/a/b/z.jpg", "top/a/w.png")
    assert names("top/**/*.jpg") == ["top/a/b/z.jpg", "top/a/y.jpg", "top/x.jpg"]


def test_a_glob_without_a_match_is_noticed_and_yields_nothing(folder, notices):
    assert names("x*.png", notice=notices) == []
    assert notices == ["no file matches 'x*.png'"]


# Lists of names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (b"a.jpg\nb.jpg\n", ["a.jpg", "b.jpg"]),
        (b"a.jpg\r\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"\n\r\n a b.jpg \n\n", [" a b.jpg "]),
        (b"tab\there.jpg\rstays\n", ["tab\there.jpg\rstays"]),
        (b"", []),
    ],
)
def test_a_list_has_one_name_per_line_and_loses_only_line_ends(listed, expected):
    assert list(read_names(io.BytesIO(listed), null=False)) == expected


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (b"a.jpg\0b\nc.jpg\0", ["a.jpg", "b\nc.jpg"]),
        (b"a\0\0b", ["a", "b"]),
        (b"a\r\n\0", ["a\r\n"]),
        (b"", []),
    ],
)
def test_a_nul_separated_list_keeps_everything_else(listed, expected):
    assert list(read_names(io.BytesIO(listed), null=True)) == expected


@unix
@given(st.lists(st.binary(min_size=1).map(lambda name: name.replace(b"\0", b"x"))), st.integers(1, 9))
def test_any_names_round_trip_through_a_nul_separated_list(listed, chunk_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expansion, "CHUNK_BYTES", chunk_bytes)
        back = list(read_names(io.BytesIO(b"".join(name + b"\0" for name in listed)), null=True))
    assert [os.fsencode(name) for name in back] == listed


@pytest.mark.parametrize(("null", "end"), [(False, b"\n"), (True, b"\0")])
def test_a_list_on_a_pipe_is_handed_over_as_it_arrives(null, end):
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as feed:
        feed.write(b"a.jpg" + end)
        assert next(read_names(stream, null=null)) == "a.jpg"


def test_names_are_taken_from_the_list_as_sources_are_asked_for(folder):
    make("a.jpg")

    def endless():
        while True:
            yield "a.jpg"

    assert next(expand(endless())).name == "a.jpg"


# Archives ---------------------------------------------------------------------------------------------------

zstandard = importlib.import_module(ZSTANDARD)
TARS = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
    ".tar.zst": partial(zstandard.compress, options={zstandard.CompressionParameter.checksum_flag: 1}),
    ".tzst": zstandard.compress,
}
KINDS = [".zip", *TARS]


def make_tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return plain.getvalue()


def make_archive(path: str, members: dict[str, bytes]) -> None:
    if path.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return
    kind = next(kind for kind in TARS if path.endswith(kind))
    Path(path).write_bytes(TARS[kind](make_tar(members.items())))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archives_images_come_in_its_own_order_under_its_name(folder, kind):
    members = {"dogs/rex.jpg": os.urandom(5000), "b.PNG": b"b", "notes.txt": b"", "a.gif": os.urandom(3000)}
    make_archive(f"photos{kind}", members)
    found = list(expand([f"photos{kind}"]))
    wanted = ["dogs/rex.jpg", "b.PNG", "a.gif"]
    assert [source.name for source in found] == [f"photos{kind}!{name}" for name in wanted]
    assert [read(source) for source in reversed(found)] == [members[name] for name in reversed(wanted)]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_members_are_skipped(folder, kind):
    make_archive(
        f"a{kind}",
        {".x.jpg": b"", ".git/x.jpg": b"", "__MACOSX/b.jpg": b"", "x/.git/x.jpg": b"", "./a.jpg": b""},
    )
    selection = Selection()
    (name,) = names(f"a{kind}", selection=selection)
    assert name.endswith("a.jpg")
    assert selection.skipped == {"hidden": 3, "system_folder": 1}
    assert len(names(f"a{kind}", selection=Selection(hidden=True))) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_unpacked_to_disk(folder, kind):
    make_archive(f"a{kind}", {"dogs/rex.jpg": b"rex"})
    assert [read(source) for source in expand([f"a{kind}"])] == [b"rex"]
    assert list(Path().iterdir()) == [Path(f"a{kind}")]


@pytest.mark.parametrize("kind", KINDS)
def test_one_member_can_be_named(folder, kind):
    make_archive(f"a{kind}", {"x.jpg": b"x", "dogs/rex": b"rex, whatever the extension"})
    source = only(f"a{kind}!dogs/rex")
    assert source.name == f"a{kind}!dogs/rex"
    assert read(source) == b"rex, whatever the extension"


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_not_there_is_not_found(folder, kind):
    make_archive(f"a{kind}", {"x.jpg": b"x"})
    source = only(f"a{kind}!y.jpg")
    assert source.name == f"a{kind}!y.jpg"
    with pytest.raises(ImageNotFoundError, match=r"no 'y\.jpg' in "):
        source.open()


def test_a_file_that_exists_under_a_members_name_is_itself(folder):
    make_archive("a.zip", {"x.jpg": b"inside"})
    make("a.zip!x.jpg", content=b"outside")
    assert read(only("a.zip!x.jpg")) == b"outside"


def test_a_members_name_may_hold_exclamation_marks_and_glob_characters(folder):
    Path("wow!").mkdir()
    make_archive("wow!/a.zip", {"x![1].jpg": b"x"})
    assert read(only("wow!/a.zip!x![1].jpg")) == b"x"


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_without_images_is_noticed(folder, notices, kind):
    make_archive(f"a{kind}", {"notes.txt": b""})
    assert names(f"a{kind}", notice=notices) == []
    assert notices == [f"no image in 'a{kind}': 1 skipped (.txt 1)"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"not an archive" * 100])
def test_an_archive_that_cannot_be_opened_is_one_failing_source(folder, notices, kind, content):
    Path(f"a{kind}").write_bytes(content)
    source = only(f"a{kind}", notice=notices)
    assert source.name == f"a{kind}"
    with pytest.raises(ImageUnreadableError, match="cannot read archive"):
        source.open()
    assert notices == []


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_a_cut_tar_yields_what_is_whole_and_then_fails(folder, kind):
    members = {f"{number}.jpg": os.urandom(200_000) for number in range(10)}
    make_archive(f"a{kind}", members)
    whole = Path(f"a{kind}").read_bytes()
    Path(f"a{kind}").write_bytes(whole[: len(whole) * 3 // 4])
    outcomes = {}
    for source in expand([f"a{kind}"]):
        try:
            outcomes[source.name] = read(source)
        except ImageUnreadableError:
            outcomes[source.name] = None
    good = {name: content for name, content in outcomes.items() if content is not None}
    assert good
    assert all(members[name.partition("!")[2]] == content for name, content in good.items())
    assert list(outcomes)[-1] == f"a{kind}"
    assert outcomes[f"a{kind}"] is None


def test_a_damaged_zip_member_fails_alone(folder):
    make_archive("a.zip", {"a.jpg": b"A" * 1000, "b.jpg": b"B" * 1000, "c.jpg": b"C" * 1000})
    with zipfile.ZipFile("a.zip") as archive:
        start = archive.getinfo("b.jpg").header_offset + 30 + len("b.jpg")
    content = bytearray(Path("a.zip").read_bytes())
    content[start : start + 4] = b"\xff\xff\xff\xff"
    Path("a.zip").write_bytes(content)
    first, second, third = expand(["a.zip"])
    assert (read(first), read(third)) == (b"A" * 1000, b"C" * 1000)
    with pytest.raises(ImageUnreadableError, match=r"cannot read 'a\.zip!b\.jpg'"):
        second.open()


def test_an_encrypted_zip_member_says_so(folder):
    make_archive("a.zip", {"a.jpg": b"A"})
    content = bytearray(Path("a.zip").read_bytes())
    content[6] |= 1  # the flag in the member's header and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    Path("a.zip").write_bytes(content)
    with pytest.raises(ImageUnreadableError, match="it is encrypted"):
        only("a.zip").open()


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_above_the_limit_is_too_large_and_the_rest_goes_on(folder, kind, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1000)
    make_archive(f"a{kind}", {"big.jpg": bytes(1001), "fits.jpg": bytes(1000)})
    big, fits = expand([f"a{kind}"])
    with pytest.raises(ImageTooLargeError, match=r"big\.jpg"):
        big.open()
    assert read(fits) == bytes(1000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_above_the_limit_is_not_even_read(folder, kind, monkeypatch):
    def fail(*_: object) -> bytes:
        raise AssertionError("read")

    monkeypatch.setattr(source_module, "MAX_BYTES", 1000)
    monkeypatch.setattr(tars, "read_all", fail)
    monkeypatch.setattr(zips, "read_all", fail)
    make_archive(f"a{kind}", {"big.jpg": bytes(1001)})
    with pytest.raises(ImageTooLargeError):
        only(f"a{kind}").open()


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("size", [2**40, 2**62, 2**80])
def test_a_tar_that_claims_an_impossible_size_fails_in_words(folder, kind, size):
    info = tarfile.TarInfo("a.jpg")
    info.size = size
    Path(f"a{kind}").write_bytes(TARS[kind](info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)))
    member, rest = expand([f"a{kind}"])
    with pytest.raises(ImageTooLargeError):
        member.open()
    with pytest.raises(ImageUnreadableError):
        rest.open()


def test_a_zip_member_without_a_name_is_passed_over(folder):
    make_archive("a.zip", {"?.jpg": b"", "b.jpg": b"b"})
    Path("a.zip").write_bytes(Path("a.zip").read_bytes().replace(b"?.jpg", b"\0.jpg"))
    assert names("a.zip") == ["a.zip!b.jpg"]


@pytest.mark.parametrize("kind", [".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_a_compressed_tar_damaged_in_its_middle_fails_in_words(folder, kind):
    members = {f"{number}.jpg": os.urandom(1000) * 200 for number in range(10)}
    make_archive(f"a{kind}", members)
    content = bytearray(Path(f"a{kind}").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    Path(f"a{kind}").write_bytes(content)
    *_, last = expand([f"a{kind}"])
    assert last.name == f"a{kind}"
    with pytest.raises(ImageUnreadableError, match="cannot read archive"):
        last.open()


def test_a_zip_whose_directory_lies_about_a_size_yields_no_more_than_it_says(folder, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1000)
    make_archive("a.zip", {"a.jpg": bytes(100_000)})
    content = Path("a.zip").read_bytes()
    Path("a.zip").write_bytes(content.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(ImageError):
        only("a.zip").open()


def test_links_in_a_tar_never_leave_it_and_devices_are_skipped(folder):
    with tarfile.open("a.tar", "w") as archive:
        for name, kind in [
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
            ("device.jpg", tarfile.CHRTYPE),
            ("folder.jpg", tarfile.DIRTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("./a.jpg")
        archive.addfile(info)
    assert names("a.tar") == ["a.tar!link.jpg", "a.tar!hard.jpg", "a.tar!a.jpg"]
    for source in list(expand(["a.tar"]))[:2]:
        with pytest.raises(ImageNotFoundError, match="/etc/passwd"):
            source.open()


@pytest.mark.parametrize("kind", sorted(TARS))
def test_links_in_a_tar_are_what_they_link_to(kind, folder):
    Path("d").mkdir()
    Path("d/1.jpg").write_bytes(b"content")
    Path("d/2.jpg").hardlink_to("d/1.jpg")
    Path("d/3.jpg").symlink_to("1.jpg")
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        archive.add("d")
    Path(f"a{kind}").write_bytes(TARS[kind](plain.getvalue()))
    found = {source.name: read(source) for source in expand([f"a{kind}"])}
    assert found == {f"a{kind}!d/{number}.jpg": b"content" for number in (1, 2, 3)}
    assert read(only(f"a{kind}!d/2.jpg")) == b"content"


@pytest.mark.parametrize("kind", sorted(TARS))
@pytest.mark.parametrize("damage", ["header", "cut in a header", "cut between members"])
def test_a_tar_that_cannot_be_read_to_its_end_has_a_record_of_its_own(kind, damage, folder):
    content = bytearray(make_tar((f"{number}.jpg", bytes([number]) * 512) for number in range(4)))
    if damage == "header":
        content[2 * 1024 + 10] ^= 1
    else:
        del content[2 * 1024 + (200 if damage == "cut in a header" else 0) :]
    Path(f"a{kind}").write_bytes(TARS[kind](bytes(content)))
    *members, last = expand([f"a{kind}"])
    assert [source.name for source in members] == [f"a{kind}!0.jpg", f"a{kind}!1.jpg"]
    assert last.name == f"a{kind}"
    with pytest.raises(ImageUnreadableError, match="damaged or cut short"):
        last.open()


def test_links_and_folders_in_a_zip_are_skipped(folder):
    with zipfile.ZipFile("a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder.jpg/", b"")
        archive.writestr("a.jpg", b"")
    assert names("a.zip") == ["a.zip!a.jpg"]


def test_a_zips_members_can_be_read_from_many_threads(folder):
    members = {f"{number}.jpg": os.urandom(30_000) for number in range(40)}
    make_archive("a.zip", members)
    found = list(expand(["a.zip"]))
    wrong = []

    def check(mine: list[sources.Source]) -> None:
        wrong.extend(source.name for source in mine if read(source) != members[source.name.partition("!")[2]])

    threads = [threading.Thread(target=check, args=(found[start::4] * 3,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_tar_is_read_as_it_is_consumed_and_holds_one_member_at_a_time(folder, monkeypatch):
    make_archive("a.tar", {f"{number}.jpg": b"x" for number in range(50)})
    passed = []
    advance = tarfile.TarFile.next

    def watch(archive):
        passed.append(len(archive.members))
        return advance(archive)

    monkeypatch.setattr(tarfile.TarFile, "next", watch)
    stream = expand(["a.tar"])
    next(stream)
    assert len(passed) < 10
    list(stream)
    assert len(passed) > 50
    assert max(passed) <= 1


@cache
def sample_archives() -> list[tuple[str, bytes]]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(range(256)))
        archive.writestr("b.jpg", b"b" * 500)
    plain = make_tar([("a.jpg", bytes(300)), ("b.jpg", bytes(300))])
    return [(".zip", packed.getvalue()), *((kind, compress(plain)) for kind, compress in TARS.items())]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_mutated_archive_yields_streams_or_image_errors_and_nothing_else(tmp_path_factory, data):
    kind, content = data.draw(st.sampled_from(sample_archives()))
    mutated = bytearray(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)
    ):
        if position < len(mutated):
            mutated[position] = value
    path = tmp_path_factory.getbasetemp() / f"mutated{kind}"
    path.write_bytes(mutated)
    for source in expand([str(path)]):
        with suppress(ImageError):
            read(source)


# Hostile archives -------------------------------------------------------------------------------------------


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that Python's objects took at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def outcomes(name: str) -> dict[str, bytes | ImageError]:
    found: dict[str, bytes | ImageError] = {}
    for source in expand([name]):
        try:
            found[source.name] = read(source)
        except ImageError as error:
            found[source.name] = error
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_members_name_leads_nowhere_but_into_its_archive(folder, kind):
    members = {
        "../../etc/passwd.jpg": b"up",
        "/etc/hostname.jpg": b"absolute",
        "a\nb\x1b[31m.jpg": b"newline",
        "C:\\x.jpg": b"drive",
        "http://a/x.jpg": b"address",
    }
    make_archive(f"a{kind}", members)
    assert outcomes(f"a{kind}") == {f"a{kind}!{name}": content for name, content in members.items()}
    assert list(Path().iterdir()) == [Path(f"a{kind}")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_answered_each_with_its_own_bytes(folder, kind):
    if kind == ".zip":
        with zipfile.ZipFile("a.zip", "w") as archive:
            for content in (b"first", b"second"):
                archive.writestr("a.jpg", content)
    else:
        Path(f"a{kind}").write_bytes(TARS[kind](make_tar([("a.jpg", b"first"), ("a.jpg", b"second")])))
    found = list(expand([f"a{kind}"]))
    assert [source.name for source in found] == [f"a{kind}!a.jpg"] * 2
    assert [read(source) for source in reversed(found)] == [b"second", b"first"]


def lie_about_sizes(path: str, true: int, claimed: int) -> None:
    Path(path).write_bytes(
        Path(path).read_bytes().replace(true.to_bytes(4, "little"), claimed.to_bytes(4, "little"))
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("claimed", [10, 100 << 20])
def test_a_zip_bomb_bursts_in_little_memory(folder, monkeypatch, method, claimed):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1 << 20)
    size = 100 << 20
    with zipfile.ZipFile("a.zip", "w", method) as archive:
        archive.writestr("a.jpg", bytes(size))
        archive.writestr("b.jpg", b"b")
    lie_about_sizes("a.zip", size, claimed)
    bomb, neighbour = expand(["a.zip"])

    def burst() -> None:
        with pytest.raises(ImageError):
            bomb.open()

    assert peak_bytes(burst) < 8 << 20
    if method != zipfile.ZIP_LZMA:
        assert read(neighbour) == b"b"


def test_a_zips_members_may_be_packed_by_bzip2(folder):
    content = os.urandom(100_000)
    with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.jpg", content)
    assert read(only("a.zip")) == content


def test_a_zips_method_that_is_not_opened_is_told(folder):
    with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jpg", b"a")
    with pytest.raises(ImageUnreadableError, match=r"'a\.zip!a\.jpg': compression method 14 is not supported"):
        only("a.zip").open()


def test_archives_in_archives_stay_closed(folder, notices):
    make_archive("inner.zip", {"a.jpg": b""})
    make_archive("outer.zip", {"inner.zip": Path("inner.zip").read_bytes()})
    selection = Selection()
    assert names("outer.zip", notice=notices, selection=selection) == []
    assert selection.skipped == {"not_an_image_name": 1}
    assert notices == ["no image in 'outer.zip': 1 skipped (.zip 1)"]


@unix
def test_a_zip_of_a_hundred_thousand_members_is_listed_in_bounded_memory(folder):
    with zipfile.ZipFile("a.zip", "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{number:06}.jpg", str(number))
    script = """
import resource
from imgclassify.sources import expand
resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
for number, source in enumerate(expand(["a.zip"])):
    if number % 9999 == 0:
        assert source.open().read() == str(number).encode()
print(number)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(done.stdout) == 99_999


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("header")
    info.type = kind
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax_record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    while len(b"%d" % size) + len(key) + len(value) + 3 != size:
        size = len(b"%d" % size) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (size, key, value)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


BOMBS = {
    "a pax header": header(tarfile.XHDTYPE, 100 << 20) + pax_record(b"comment", b"x" * (100 << 20)),
    "a global header": header(tarfile.XGLTYPE, 100 << 20) + bytes(100 << 20),
    "a long name": header(tarfile.GNUTYPE_LONGNAME, 100 << 20) + b"x" * (100 << 20),
    "a long link": header(tarfile.GNUTYPE_LONGLINK, 2**70) + b"x" * 1000,
    "a map of holes": header(tarfile.GNUTYPE_SPARSE, 0)[:482]
    + b"\1"
    + bytes(29)
    + (b"1" * 504 + b"\1" * 8) * 100_000,
    "many headers": 20 * (header(tarfile.XHDTYPE, 59_904) + padded(pax_record(b"key", b"x" * 59_500))),
}


def with_checksum(block: bytes) -> bytes:
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


@pytest.mark.parametrize("kind", [".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_tars_header_cannot_ask_for_much_memory(folder, kind, bomb):
    content = make_tar([("a.jpg", b"a")])[:1024] + with_checksum(BOMBS[bomb]) + bytes(1024)
    Path(f"a{kind}").write_bytes(TARS[kind](content))
    found: dict[str, bytes | ImageError] = {}
    assert peak_bytes(lambda: found.update(outcomes(f"a{kind}"))) < 16 << 20
    assert found[f"a{kind}!a.jpg"] == b"a"
    assert "headers are larger than" in str(found[f"a{kind}"])


def test_a_tars_global_headers_do_not_add_up(folder):
    content = b""
    for number in range(10):
        record = padded(pax_record(b"key%d" % number, b"x" * 50_000))
        content += header(tarfile.XGLTYPE, len(record)) + record + make_tar([(f"{number}.jpg", b"")])[:512]
    Path("a.tar").write_bytes(content + bytes(1024))
    *found, last = expand(["a.tar"])
    assert len(found) == 1
    with pytest.raises(ImageUnreadableError, match="global headers"):
        last.open()


def test_a_tars_header_cannot_ask_for_much_time(folder):
    """Older Pythons would take minutes over each of these."""
    digits = padded(b"1" * 60_000)
    Path("a.tar").write_bytes((header(tarfile.XHDTYPE, len(digits)) + digits) + bytes(1024))
    with pytest.raises(ImageUnreadableError, match="thousand digits"):
        only("a.tar").open()


@pytest.mark.parametrize("size", [b"-1", b"-512", b"-1536"])
def test_a_tar_cannot_lead_back_to_where_it_was(folder, size):
    """Older Pythons would find the same member for ever."""
    record = padded(pax_record(b"size", size))
    content = header(tarfile.XHDTYPE, len(record)) + record + make_tar([("b.jpg", b"")])
    Path("a.tar").write_bytes(make_tar([("a.jpg", b"a")])[:1024] + content)
    first, last = islice(expand(["a.tar"]), 3)
    assert first.name == "a.tar!a.jpg"
    with pytest.raises(ImageUnreadableError):
        last.open()


def test_a_members_size_below_zero_is_damage(folder):
    block = bytearray(header(tarfile.REGTYPE, 0))
    block[124:136] = (-512).to_bytes(12, "big", signed=True)
    Path("a.tar").write_bytes(with_checksum(bytes(block)) + bytes(1024))
    (source,) = islice(expand(["a.tar"]), 3)
    with pytest.raises(ImageUnreadableError):
        source.open()


def test_headers_of_an_honest_size_are_read(folder):
    name = "/".join(["d" * 200] * 20) + ".jpg"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open("a.tar", "w", format=form) as archive:
            info = tarfile.TarInfo(name)
            info.size = 1
            info.pax_headers = {"SCHILY.xattr.user.note": "x" * 20_000}
            archive.addfile(info, io.BytesIO(b"a"))
        source = only("a.tar")
        assert source.name == f"a.tar!{name}"
        assert read(source) == b"a"


def test_a_zstandard_frame_cannot_ask_for_a_large_window(folder):
    def pack(exponent: int) -> None:
        block = (5000 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"  # five thousand zeros, an empty tar
        Path("a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd\0" + bytes([exponent << 3]) + block)

    pack(17)
    assert names("a.tar.zst") == []
    for exponent in (18, 31):
        pack(exponent)
        with pytest.raises(ImageUnreadableError, match="too much memory"):
            only("a.tar.zst").open()


def test_an_xz_cannot_ask_for_a_large_window(folder):
    def pack(window: int) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": window}]
        Path("a.tar.xz").write_bytes(lzma.compress(make_tar([("a.jpg", b"a")]), filters=filters))

    pack(64 << 20)
    assert read(only("a.tar.xz")) == b"a"
    pack(512 << 20)
    with pytest.raises(ImageUnreadableError, match="Memory usage limit"):
        only("a.tar.xz").open()


@pytest.mark.parametrize("kind", [".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_a_compressed_tar_may_consist_of_several_streams(folder, kind):
    plain = make_tar((f"{number}.jpg", bytes([number]) * 5000) for number in range(9))
    pieces = [plain[start : start + 7000] for start in range(0, len(plain), 7000)]
    padding = bytes(8) if kind == ".tar.xz" else b""
    Path(f"a{kind}").write_bytes(padding.join(map(TARS[kind], pieces)))
    found = outcomes(f"a{kind}")
    assert list(found.values()) == [bytes([number]) * 5000 for number in range(9)]


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("named", TARS)
def test_a_tars_compression_is_told_by_its_first_bytes(folder, kind, named):
    Path(f"a{named}").write_bytes(
        TARS[kind](make_tar([("a.jpg", b"a"), ("notes", b"x" * 10_000), ("b.jpg", b"b")]))
    )
    assert outcomes(f"a{named}") == {f"a{named}!a.jpg": b"a", f"a{named}!b.jpg": b"b"}


def test_no_module_for_zstandard_is_imported_before_it_is_needed(folder):
    make_archive("a.tar.gz", {"a.jpg": b"a"})
    script = (
        "import sys; from imgclassify.sources import archive_errors, expand; list(expand(['a.tar.gz']));"
        "sys.exit(archive_errors.ZSTANDARD in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# WebDataset -------------------------------------------------------------------------------------------------


def shard() -> dict[str, bytes]:
    members = {}
    for number in range(30):
        key = f"train/{number % 3}/{number:06}"
        members[f"{key}.jpg"] = f"picture {number}".encode()
        members[f"{key}.json"] = b"{}"
        members[f"{key}.cls"] = b"3"
        members[f"{key}.seg.png"] = f"mask {number}".encode()
    return members


@pytest.mark.parametrize("kind", TARS)
def test_a_shards_images_are_each_a_source_with_its_own_bytes(folder, kind):
    members = shard()
    make_archive(f"shard{kind}", members)
    selection = Selection()
    found = {source.name: read(source) for source in expand([f"shard{kind}"], selection=selection)}
    wanted = {name: content for name, content in members.items() if name.endswith((".jpg", ".png"))}
    assert found == {f"shard{kind}!{name}": content for name, content in wanted.items()}
    assert list(found) == [f"shard{kind}!{name}" for name in wanted]
    assert selection.skipped == {"not_an_image_name": 60}


@pytest.mark.parametrize("kind", TARS)
def test_a_shards_masks_can_be_left_out(folder, kind):
    members = shard()
    make_archive(f"shard{kind}", members)
    selection = Selection(exclude=["*.seg.png"])
    found = [read(source) for source in expand([f"shard{kind}"], selection=selection)]
    assert found == [f"picture {number}".encode() for number in range(30)]
    assert selection.skipped == {"not_an_image_name": 60, "excluded": 30}


def test_an_image_of_a_shard_that_breaks_does_not_shift_its_neighbours(folder, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1000)
    members = shard()
    members["train/1/000010.jpg"] = bytes(1001)
    make_archive("shard.tar.zst", members)
    found = outcomes("shard.tar.zst")
    assert isinstance(found.pop("shard.tar.zst!train/1/000010.jpg"), ImageTooLargeError)
    assert len(found) == 59
    assert all(members[name.partition("!")[2]] == content for name, content in found.items())


# Addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "s3://bucket/a.jpg",
        "S3://bucket/*.jpg",
        "gs://bucket/a.jpg",
        "ftp://example.org/a.jpg",
        "azure-blob+x://a/b?c=[d]",
        "data:image/png;base64,iVBORw==",
        "data:image/png;base64," + "A" * 100_000,
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_an_address_that_is_not_fetched_says_which_are(name, listed):
    source = only(name, from_file=listed)
    assert source.name == name
    with pytest.raises(ImageUnreadableError, match="only http and https URLs are fetched") as raised:
        source.open()
    assert len(str(raised.value)) < 200
    assert not expansion.is_collection(name)


@unix
def test_a_file_with_the_name_of_an_address_is_read(folder):
    make("data:image", "s3:/a.jpg")
    assert names("data:image", "s3://a.jpg") == ["data:image", "s3://a.jpg"]
    assert read(only("s3://a.jpg")) == b"s3:/a.jpg"


@unix
def test_a_file_url_is_a_path(folder):
    make("a b.jpg", "f/c.jpg", "100%.jpg", "[x].jpg")
    make_archive("d.zip", {"e.jpg": b"e"})
    for url, content in {
        f"file://{folder}/a%20b.jpg": b"a b.jpg",
        f"file://{folder}/a b.jpg": b"a b.jpg",
        f"FILE://localhost{folder}/100%25.jpg": b"100%.jpg",
        f"file://{folder}/[x].jpg": b"[x].jpg",
    }.items():
        source = only(url)
        assert (source.name, read(source)) == (url, content)
        assert source.path
        assert not expansion.is_collection(url)
    assert names(f"file://{folder}/f", f"file://{folder}/d.zip") == [f"{folder}/f/c.jpg", f"{folder}/d.zip!e.jpg"]
    assert expansion.is_collection(f"file://{folder}/f")
    with pytest.raises(ImageNotFoundError):
        only(f"file://{folder}/missing.jpg").open()
    with pytest.raises(ImageUnreadableError, match="does not name a file on this machine"):
        only("file://server/share/a.jpg").open()


PASSWORDS = [
    ("http://user:secret@{}/a.jpg", "http://{}/a.jpg"),
    ("http://secret@{}/a.jpg", "http://{}/a.jpg"),
    ("http://us%40er:se@cret@{}/@user/a@2x.jpg?by=a@b", "http://{}/@user/a@2x.jpg?by=a@b"),
    ("http://user:secret/@{}/a.jpg", "http://{}/a.jpg"),
    ("http://user:sec?ret#@{}/a.jpg", "http://{}/a.jpg"),
    ("http://{}/@user/a.jpg", "http://{}/@user/a.jpg"),
]


@pytest.mark.parametrize(("given", "shown"), PASSWORDS)
@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:1", "[::1]:1", "nowhere.invalid"])
@pytest.mark.parametrize("offline", [False, True])
def test_a_password_stands_in_no_name_and_no_error(given, shown, host, offline, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    source = only(given.format(host), offline=offline)
    assert source.name == shown.format(host)
    with pytest.raises(ImageUnreadableError) as raised:
        source.open()
    assert "sec" not in str(raised.value)
    assert "user:" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["s3", "ftp", "file"])
def test_a_password_stands_in_no_address_that_is_not_fetched(scheme):
    source = only(f"{scheme}://user:secret@host/a.jpg")
    assert source.name == f"{scheme}://host/a.jpg"
    with pytest.raises(ImageUnreadableError) as raised:
        source.open()
    assert "secret" not in str(raised.value)


def test_a_password_is_sent_to_the_server(server):
    address = server.url("a.jpg")
    source = only(address.replace("//", "//user:secret@"))
    assert (source.name, read(source)) == (address, b"content of a")
    server.always = status(503)
    with pytest.raises(ImageUnreadableError, match="503") as raised:
        only(address.replace("//", "//user:secret@")).open()
    assert "secret" not in str(raised.value)


# Lists in UTF-16 --------------------------------------------------------------------------------------------

WIDE_NAMES = ["photos\\a.jpg", "käfer/猫.jpg", "🐕 ਅĊ.jpg", " b "]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last_end", [True, False])
def test_a_list_in_utf_16_is_read(encoding, mark, end, last_end):
    text = mark + end.join(["a.jpg", "", *WIDE_NAMES]) + end * last_end
    assert list(read_names(io.BytesIO(text.encode(encoding)), null=False)) == ["a.jpg", *WIDE_NAMES]


def test_a_list_in_utf_16_from_a_pipe_is_read_in_pieces():
    content = "\n".join(["\ufeffa.jpg", *WIDE_NAMES]).encode("utf-16-le")
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            for byte in content:
                pipe.write(bytes([byte]))

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader, "rb") as pipe:
        assert list(read_names(pipe, null=False)) == ["a.jpg", *WIDE_NAMES]
    thread.join()


@pytest.mark.parametrize("content", [b"\xff\xfea\0\n\0b", b"\xff\xfe\0\xd8\n\0b\0", b"\xff\xfe", b"a\0b\n"])
def test_a_damaged_list_ends(content):
    assert len(list(read_names(io.BytesIO(content), null=False))) <= 2


# Files with other names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["folder", ".zip", ".tar"])
def test_files_with_any_name_are_taken_on_request(folder, how):
    files = ["0a1b2c", "b.jpg_large", "c.jpg?w=9", "d.dat", "sub/e", "f.jpg", ".g", "@eaDir/h"]
    make(*(f"top/{path}" for path in files))
    if how != "folder":
        make_archive(f"top{how}", dict.fromkeys(files, b""))
    given = "top" if how == "folder" else f"top{how}"
    selection = Selection(any_name=True, exclude=["*.dat"])
    assert len(names(given, selection=selection)) == 5
    assert selection.skipped == {"hidden": 1, "system_folder": 1, "excluded": 1}
    assert len(names(given, selection=Selection(any_name=True, include=["sub/"]))) == 1


# Names in zip archives --------------------------------------------------------------------------------------

UTF8_FLAG = 1 << 11
WINDOWS, UNIX = 0, 3


class PackedName(zipfile.ZipInfo):
    """An entry whose name is written as the bytes `packed`, with the flags `name_flags`."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.packed, self.name_flags


def zip_of_names(*names: bytes, flags: int = 0, system: int = UNIX, extra: bytes = b"") -> None:
    """Writes a.zip. Each member's content is the bytes of its name."""
    with zipfile.ZipFile("a.zip", "w") as archive:
        for number, name in enumerate(names):
            info = PackedName(str(number))
            info.packed, info.name_flags, info.create_system, info.extra = name, flags, system, extra
            archive.writestr(info, name)


def members() -> dict[str, bytes]:
    return {source.name.removeprefix("a.zip!"): read(source) for source in expand(["a.zip"])}


def unicode_path(name: str, packed: bytes) -> bytes:
    """The extra field of Info-ZIP with the name in UTF-8 (appnote.txt, 4.6.9)."""
    field = struct.pack("<BL", 1, zlib.crc32(packed)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


@pytest.mark.parametrize("flags", [0, UTF8_FLAG])
def test_a_zips_names_are_utf_8_with_and_without_the_flag(folder, flags):
    names = ["Ka\u0308fer.jpg", "Käfer.jpg", "фото/снимок.jpg", "🐕.jpg", "plain.jpg"]
    zip_of_names(*(name.encode() for name in names), flags=flags)
    assert members() == {name: name.encode() for name in names}
    for name in names:
        assert read(only(f"a.zip!{name}")) == name.encode()


@pytest.mark.parametrize("flags", [0, UTF8_FLAG])
@pytest.mark.parametrize("encoding", ["shift-jis", "gbk", "big5", "cp866", "latin-1"])
def test_a_name_in_another_encoding_refuses_no_archive(folder, encoding, flags):
    bad = {
        "shift-jis": "写真.jpg",
        "gbk": "照片.jpg",
        "big5": "相片.jpg",
        "cp866": "фото.jpg",
        "latin-1": "café.jpg",
    }
    packed = bad[encoding].encode(encoding)
    zip_of_names(b"first.jpg", packed, "zuletzt-ä.jpg".encode(), flags=flags)
    assert members() == {
        "first.jpg": b"first.jpg",
        packed.decode("cp437"): packed,
        "zuletzt-ä.jpg": "zuletzt-ä.jpg".encode(),
    }


def test_names_in_extra_fields_are_taken_if_they_are_for_the_name(folder):
    zip_of_names(b"????.jpg", extra=b"UT\x01\0\x07" + unicode_path("写真/犬.jpg", b"????.jpg"))
    assert list(members()) == ["写真/犬.jpg"]
    zip_of_names(b"renamed.jpg", extra=unicode_path("写真/犬.jpg", b"????.jpg"))
    assert list(members()) == ["renamed.jpg"]


@pytest.mark.parametrize(
    ("packed", "system", "name"),
    [
        (rb"photos\dogs\rex.jpg", WINDOWS, "photos/dogs/rex.jpg"),
        (rb"photos\dogs\rex.jpg", 10, "photos/dogs/rex.jpg"),
        (rb"photos/dogs\rex.jpg", WINDOWS, "photos/dogs/rex.jpg"),
        ("фото\\rex.jpg".encode(), WINDOWS, "фото/rex.jpg"),
        (rb"dogs\rex.jpg", UNIX, r"dogs\rex.jpg"),
        # The second byte of these characters is a backslash.
        ("ソ.jpg".encode("shift-jis"), WINDOWS, "ソ.jpg".encode("shift-jis").decode("cp437")),
        ("表\\a.jpg".encode("shift-jis"), WINDOWS, "表/a.jpg".encode("shift-jis").decode("cp437")),
    ],
)
def test_backslashes_are_separators_in_a_zip_from_windows(folder, packed, system, name):
    zip_of_names(packed, system=system)
    assert members() == {name: packed}


def test_a_windows_zips_folders_are_told_by_backslashes(folder):
    zip_of_names(b"dogs.jpg\\", rb"dogs.jpg\a.jpg", rb".git\b.jpg", rb"$RECYCLE.BIN\c.jpg", system=WINDOWS)
    assert list(members()) == ["dogs.jpg/a.jpg"]


def test_a_member_that_looks_like_a_zips_contents_is_read_as_it_is(folder):
    content = b"PK\1\2" + b"\xff" * 100
    make_archive("a.zip", {"a.jpg": content})
    with zipfile.ZipFile("b.zip", "w") as archive:
        archive.writestr("a.jpg", content)
    assert read(only("a.zip!a.jpg")) == read(only("b.zip!a.jpg")) == content


def test_names_in_a_tar_do_not_depend_on_the_locale(folder):
    name = b"caf\xe9/k\xc3\xa4fer.jpg"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        with tarfile.open("a.tar", "w", format=form) as archive:
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        assert names("a.tar") == [os.fsdecode(b"a.tar!" + name)]


# Selections -------------------------------------------------------------------------------------------------

TREE = {
    "a.jpg": "",
    ".hidden.jpg": "hidden",
    "dogs/rex.jpg": "",
    "dogs/notes.txt": "not_an_image_name",
    "dogs/raw/rex.jpg": "",
    "dogs/raw/rex.dng": "not_an_image_name",
    "raw/b.png": "",
    "raw/b.seg.png": "",
}


def selected(how: str, **options: object) -> tuple[set[str], dict[str, int]]:
    """The paths that are taken of TREE, be it a folder, a glob or an archive, and the counts of those left out."""
    make(*(f"top/{path}" for path in TREE))
    if how in KINDS:
        make_archive(f"top{how}", dict.fromkeys(TREE, b""))
    given = {"folder": "top", "glob": "top/**"}.get(how, f"top{how}")
    selection = Selection(**options)
    found = [name.replace("!", os.sep) for name in names(given, selection=selection)]
    assert len(set(found)) == len(found)
    return {name.split(os.sep, 1)[1].replace(os.sep, "/") for name in found}, dict(selection.skipped)


HOWS = ["folder", "glob", ".zip", ".tar"]
ALL = {path for path, reason in TREE.items() if not reason}


@pytest.mark.parametrize("how", ["folder", ".zip", ".tar"])
def test_what_is_left_out_is_counted(folder, how):
    assert selected(how) == (ALL, {"hidden": 1, "not_an_image_name": 2})


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ([], ["*.png"], ALL - {"raw/b.png", "raw/b.seg.png"}),
        ([], ["*.seg.png"], ALL - {"raw/b.seg.png"}),
        ([], ["raw"], {"a.jpg", "dogs/rex.jpg"}),
        ([], ["raw/"], {"a.jpg", "dogs/rex.jpg"}),
        ([], ["/raw"], ALL - {"raw/b.png", "raw/b.seg.png"}),
        ([], ["dogs/raw"], ALL - {"dogs/raw/rex.jpg"}),
        ([], ["dogs/*.jpg"], ALL - {"dogs/rex.jpg"}),
        ([], ["dogs/**/*.jpg"], ALL - {"dogs/rex.jpg", "dogs/raw/rex.jpg"}),
        ([], ["/a.jpg/"], ALL),
        ([], ["*.jpg", "!rex.jpg"], ALL - {"a.jpg"}),
        ([], ["dogs/", "!dogs/rex.jpg"], ALL - {"dogs/rex.jpg", "dogs/raw/rex.jpg"}),
        ([], ["dogs/*", "!dogs/rex.jpg"], ALL - {"dogs/raw/rex.jpg"}),
        ([], ["?.jpg", "[b-d].png"], ALL - {"a.jpg", "raw/b.png"}),
        (["*.png"], [], {"raw/b.png", "raw/b.seg.png"}),
        (["rex.*"], [], {"dogs/rex.jpg", "dogs/raw/rex.jpg"}),
        (["dogs/"], [], {"dogs/rex.jpg", "dogs/raw/rex.jpg"}),
        (["/raw/*", "/a.*"], [], {"raw/b.png", "raw/b.seg.png", "a.jpg"}),
        (["*.png"], ["*.seg.*"], {"raw/b.png"}),
        (["raw"], ["raw"], set()),
    ],
)
def test_patterns_are_those_of_gitignore_wherever_images_come_from(folder, how, include, exclude, taken):
    assert selected(how, include=include, exclude=exclude)[0] == taken


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(
    "pattern", ["raw", "/raw", "raw/", "dogs/raw", "*.seg.png", "**/b*", "dogs/**", "r?w", "\\!a"]
)
def test_patterns_exclude_what_git_ignores(folder, pattern):
    taken, _ = selected("folder", exclude=[pattern])
    subprocess.run(["git", "init", "-q", "top"], check=True)
    Path("top/.gitignore").write_text(pattern)
    command = ["git", "-C", "top", "ls-files", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert taken == ALL.intersection(listed)


def test_what_patterns_leave_out_is_counted(folder):
    assert selected("folder", exclude=["raw"])[1] == {"hidden": 1, "not_an_image_name": 1, "excluded": 2}
    assert selected(".zip", exclude=["raw"])[1] == {"hidden": 1, "not_an_image_name": 2, "excluded": 3}
    assert selected("folder", include=["*.png"])[1] == {"hidden": 1, "not_an_image_name": 2, "excluded": 3}


def test_an_excluded_folder_is_not_looked_into(folder, monkeypatch):
    make("top/raw/a.jpg", "top/b.jpg", "top/.git/c.jpg")
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))
    assert names("top", selection=Selection(exclude=["raw"])) == [native("top/b.jpg")]
    assert scanned == ["top"]


@pytest.mark.parametrize("how", HOWS)
def test_hidden_ones_can_be_taken(folder, how):
    assert selected(how, hidden=True)[0] == ALL | {".hidden.jpg"}


SYSTEM_FOLDERS = [
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "$Recycle.Bin",
    "System Volume Information",
    "LOST+FOUND",
    "__MACOSX",
]


@pytest.mark.parametrize("how", ["folder", "glob", ".zip", ".tar.gz"])
def test_system_folders_are_skipped_at_any_depth_and_counted(folder, how):
    photos = ["a.jpg", "lost and found/b.jpg", "sub/c.jpg"]
    litter = [f"{above}{name}/a.jpg/d.jpg" for name in SYSTEM_FOLDERS for above in ("", "sub/")]
    make(*(f"top/{path}" for path in photos + litter))
    if how not in ("folder", "glob"):
        make_archive(f"top{how}", dict.fromkeys(photos + litter, b""))
    given = {"folder": "top", "glob": "top/*"}.get(how, f"top{how}")
    selection = Selection()
    assert {name[len(given.rstrip("*/")) + 1 :] for name in names(given, selection=selection)} == set(
        map(native, photos)
    )
    assert selection.skipped == {"system_folder": len(litter)}
    assert len(names(given, selection=Selection(hidden=True))) == len(photos) + len(litter)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("top/@eaDir", ["top/@eaDir/b.jpg"]),
        ("top/@eaDir/b.jpg", ["top/@eaDir/b.jpg"]),
        ("top/@eaDir/*.jpg", ["top/@eaDir/b.jpg"]),
        ("top/*/@eaDir/*.jpg", ["top/sub/@eaDir/c.jpg"]),
        ("top/**/@eaDir/*.jpg", ["top/@eaDir/b.jpg", "top/sub/@eaDir/c.jpg"]),
        ("top/**/*.jpg", ["top/a.jpg"]),
        ("top/*/*.jpg", []),
        ("top/@*", []),
        ("top/lost+found", ["top/lost+found"]),
    ],
)
def test_a_system_folder_that_is_named_is_read(folder, given, found):
    make("top/a.jpg", "top/@eaDir/b.jpg", "top/sub/@eaDir/c.jpg", "top/lost+found")
    assert names(given) == list(map(native, found))


@pytest.mark.parametrize("how", ["folder", ".zip", ".tar"])
def test_subfolders_can_be_left_out(folder, how):
    taken, skipped = selected(how, recursive=False)
    assert taken == {"a.jpg"}
    assert skipped == {"hidden": 1, "subfolder": 2 if how == "folder" else 6}


def test_a_globs_folders_are_walked_as_named_ones(folder):
    make("top/20/a.jpg", "top/20/sub/b.jpg", "top/21.jpg")
    assert names("top/2*", selection=Selection(recursive=False)) == [native("top/20/a.jpg"), native("top/21.jpg")]


@pytest.mark.parametrize("listed", [False, True])
def test_what_was_named_is_tried_whatever_the_selection(folder, listed):
    make("dogs/.a", "dogs/b.jpg")
    selection = Selection(include=["*.png"], exclude=["dogs", "b*"], recursive=False)
    given = ["dogs/.a", "dogs/b.jpg", "gone.jpg"]
    assert names(*given, selection=selection, from_file=listed) == given
    assert selection.skipped == {}


def test_a_member_that_was_named_is_tried_whatever_the_selection(folder):
    make_archive("a.zip", {"x/a.jpg": b"a"})
    selection = Selection(include=["*.png"], exclude=["x"], recursive=False)
    assert read(only("a.zip!x/a.jpg", selection=selection)) == b"a"


def test_a_glob_narrows_archives_by_their_members_and_excludes_them_by_name(folder):
    for name in ("good.zip", "bad.zip"):
        make_archive(name, {"a.jpg": b"", "b.png": b""})
    selection = Selection(include=["*.jpg"], exclude=["bad.*"])
    assert names("*.zip", selection=selection) == ["good.zip!a.jpg"]


def test_a_globs_matches_are_tried_whatever_their_ending(folder):
    make("top/notes.txt", "top/a.jpg")
    assert names("top/*") == [native("top/a.jpg"), native("top/notes.txt")]


@unix
@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 only")
def test_patterns_match_names_that_are_not_text_and_names_of_several_lines(folder):
    odd = os.fsdecode(b"caf\xe9")
    make(f"top/{odd}/a.jpg", f"top/{odd}.jpg", "top/two\nlines/a.tmp.jpg", "top/a.jpg\n.jpg")
    everything = set(names("top"))
    for pattern, left_out in [
        (odd, {f"top/{odd}/a.jpg"}),
        (f"{odd}*", {f"top/{odd}/a.jpg", f"top/{odd}.jpg"}),
        ("caf?.jpg", {f"top/{odd}.jpg"}),
        ("*.tmp.jpg", {"top/two\nlines/a.tmp.jpg"}),
        ("two\nlines", {"top/two\nlines/a.tmp.jpg"}),
        ("/**/a.jpg", {f"top/{odd}/a.jpg"}),
    ]:
        assert everything - set(names("top", selection=Selection(exclude=[pattern]))) == left_out


@pytest.mark.parametrize("pattern", ["", " ", "#a", "/", "[z-a].jpg", "a\\", "!", "[[:alpha:]].jpg"])
@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_cannot_be_meant_is_wrong_usage(option, pattern):
    with pytest.raises(UsageError) as caught:
        Selection(**{option: ["*.jpg", pattern]})
    assert repr(pattern) in str(caught.value)
    assert ".gitignore" in caught.value.hint


def test_pathspec_is_imported_for_patterns_alone():
    script = (
        "import sys; from imgclassify.sources import Selection; Selection({}); sys.exit('pathspec' in sys.modules)"
    )
    run = partial(subprocess.run, check=False)
    assert run([sys.executable, "-c", script.format("")]).returncode == 0
    assert run([sys.executable, "-c", script.format("['*.jpg']")]).returncode == 1


# URLs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.0)
    urls.shared_session.cache_clear()
    with FileServer(files={f"{name}.jpg": f"content of {name}".encode() for name in "abcdefgh"}) as files:
        yield files
        urls.shared_session().close()
        urls.shared_session.cache_clear()


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds of each pause before a new attempt; none is made."""
    seconds: list[float] = []
    monkeypatch.setattr(urls, "sleep", seconds.append)
    return seconds


def test_a_url_is_fetched_when_it_is_opened(server):
    url = f"{server.url('a.jpg')}?size=large"
    source = only(url)
    assert source.name == url
    assert server.connections == 0
    with source.open() as stream:
        assert stream.read() == b"content of a"
        assert stream.seek(0) == 0
    assert [request.path for request in server.requests] == ["/a.jpg?size=large"]


def test_connections_are_kept_between_downloads(server):
    for source in expand([server.url(f"{name}.jpg") for name in "abcde"]):
        read(source)
    assert server.connections == 1


def test_connections_are_shared_by_threads(server):
    found = list(expand([server.url(f"{name}.jpg") for name in "abcdefgh"] * 20))
    with ThreadPoolExecutor(8) as threads:
        contents = list(threads.map(read, found))
    assert contents == [f"content of {name}".encode() for name in "abcdefgh"] * 20
    assert server.connections <= 8


def test_no_servers_cookies_are_kept(server):
    server.faults = [status(200, {"Set-Cookie": "key=value; Path=/"})]
    assert read(only(server.url("a.jpg"))) == b"sorry"
    read(only(server.url("b.jpg")))
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize(
    ("code", "words", "requests"),
    [
        (404, "404 Not Found", 1),
        (403, "403 Forbidden", 1),
        (501, "501 Not Implemented", 1),
        (204, "204", 1),
        (206, "206", 1),
        (429, "429 Too Many Requests", 3),
        (500, "500 Internal Server Error", 3),
        (502, "502 Bad Gateway", 3),
        (503, "503 Service Unavailable", 3),
        (504, "504 Gateway Timeout", 3),
    ],
)
def test_any_other_status_than_200_is_unreadable_and_told_and_retried_where_it_may_pass(
    server, code, words, requests
):
    server.always = status(code)
    url = server.url("a.jpg")
    with pytest.raises(ImageUnreadableError) as caught:
        only(url).open()
    assert str(caught.value).startswith(f"cannot fetch {url}: the server responded with {words}")
    assert len(server.requests) == requests


@pytest.mark.parametrize("fault", [status(503), status(429), hung_up(), reset(), truncated(3), announced(500)])
def test_what_goes_wrong_twice_is_tried_a_third_time(server, fault):
    server.faults = [fault, fault]
    assert read(only(server.url("a.jpg"))) == b"content of a"
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", [hung_up(), reset(), truncated(3), announced(500)])
def test_a_connection_that_breaks_thrice_is_unreadable(server, fault):
    server.always = fault
    with pytest.raises(ImageUnreadableError, match="cannot fetch"):
        only(server.url("a.jpg")).open()
    assert len(server.requests) == 3


def test_the_pauses_before_new_attempts_grow(server, waits, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.5)
    server.always = hung_up()
    with pytest.raises(ImageUnreadableError):
        only(server.url("a.jpg")).open()
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize(
    ("asked", "waited"),
    [("3", 3), ("0", 0), ("10", 10), ("soon", 0), ("-5", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)],
)
def test_a_servers_wish_for_a_pause_is_granted(server, waits, asked, waited):
    server.faults = [status(429, {"Retry-After": asked})]
    assert read(only(server.url("a.jpg"))) == b"content of a"
    assert waits == [waited]


def test_a_date_to_wait_for_is_waited_for(server, waits):
    server.faults = [status(503, {"Retry-After": formatdate(time.time() + 6, usegmt=True)})]
    assert read(only(server.url("a.jpg"))) == b"content of a"
    assert 4 < waits[0] <= 6


@pytest.mark.parametrize("asked", ["11", "86400", "9" * 400, "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_server_that_asks_for_a_long_pause_has_refused(server, waits, asked):
    server.always = status(429, {"Retry-After": asked})
    with pytest.raises(ImageUnreadableError, match="429 Too Many Requests"):
        only(server.url("a.jpg")).open()
    assert waits == []
    assert len(server.requests) == 1


def test_five_redirects_are_followed_and_six_are_not(server):
    server.faults = [redirected(server.url("b.jpg"))] * 5
    source = only(server.url("a.jpg"))
    assert read(source) == b"content of b"
    assert source.name == server.url("a.jpg")
    server.faults = [redirected(server.url("b.jpg"))] * 6
    with pytest.raises(ImageUnreadableError, match="5 redirects"):
        only(server.url("a.jpg")).open()


def test_a_redirect_that_leads_to_itself_ends(server):
    server.always = redirected(server.url("a.jpg"))
    with pytest.raises(ImageUnreadableError, match="5 redirects"):
        only(server.url("a.jpg")).open()
    assert len(server.requests) == 6


def test_a_redirect_may_be_relative(server):
    server.faults = [redirected("../x/../b.jpg")]
    assert read(only(server.url("a.jpg"))) == b"content of b"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.jpg", "data:image/png;base64,AA"])
def test_a_redirect_away_from_http_is_refused(server, target):
    server.always = redirected(target)
    with pytest.raises(ImageUnreadableError, match="neither http: nor https:"):
        only(server.url("a.jpg")).open()
    assert len(server.requests) == 1


def test_a_redirects_body_is_not_read(server):
    server.faults = [
        raw(f"HTTP/1.1 302 Found\r\nLocation: {server.url('b.jpg')}\r\n\r\n".encode(), then=b"x" * 65536)
    ]
    assert read(only(server.url("a.jpg"))) == b"content of b"


def test_a_download_above_the_limit_is_too_large(server, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1000)
    server.files = {"fits.jpg": bytes(1000), "large.jpg": bytes(1001)}
    assert read(only(server.url("fits.jpg"))) == bytes(1000)
    with pytest.raises(ImageTooLargeError, match=r"large\.jpg"):
        only(server.url("large.jpg")).open()


@pytest.mark.parametrize(
    "fault", [endless(), endless_chunks(), announced(2**60), raw(b"HTTP/1.1 200\r\n\r\n", then=b"x")]
)
def test_a_body_without_end_is_too_large(server, monkeypatch, fault):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1000)
    server.files = {"a.jpg": bytes(1001)}
    server.always = fault
    with pytest.raises(ImageTooLargeError):
        only(server.url("a.jpg")).open()


def test_a_body_longer_than_was_announced_ends_there_and_spoils_no_other(server):
    server.faults = [announced(7)]
    assert read(only(server.url("a.jpg"))) == b"content"
    for name in "bcd":
        assert read(only(server.url(f"{name}.jpg"))) == f"content of {name}".encode()


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "identity", ""])
def test_a_body_may_be_encoded(server, encoding):
    compress = {"deflate": zlib.compress, "gzip": gzip.compress, "x-gzip": gzip.compress}.get(encoding, bytes)
    server.files = {"a.jpg": compress(b"content" * 1000)}
    server.always = encoded(encoding)
    assert read(only(server.url("a.jpg"))) == b"content" * 1000
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_an_encoding_that_might_unpack_without_bound_is_refused(server, encoding):
    server.always = encoded(encoding)
    with pytest.raises(ImageUnreadableError, match="encoding"):
        only(server.url("a.jpg")).open()
    assert len(server.requests) == 1


def test_an_encoded_body_bursts_in_little_memory(server, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1 << 20)
    server.files = {"a.jpg": gzip.compress(bytes(200 << 20), 1)}
    server.always = encoded("gzip")

    def burst() -> None:
        with pytest.raises(ImageTooLargeError):
            only(server.url("a.jpg")).open()

    assert peak_bytes(burst) < 16 << 20


def test_an_encoded_body_that_is_damaged_is_unreadable(server):
    server.always = encoded("gzip")
    with pytest.raises(ImageUnreadableError, match="cannot fetch"):
        only(server.url("a.jpg")).open()


def test_a_server_that_falls_silent_is_given_up(server):
    release = threading.Event()
    server.always = held(release)
    with pytest.raises(ImageUnreadableError, match=r"cannot fetch .*: the server was silent for 0\.1 s"):
        only(server.url("a.jpg"), timeout=(1, 0.1)).open()
    release.set()
    assert len(server.requests) == 1


def test_a_server_that_drips_is_given_up(server, monkeypatch):
    monkeypatch.setattr(client, "IMAGES", client.IMAGES._replace(minimum_rate=client.MinimumRate(0.1, 4096)))
    server.always = trickled(1, 0.02)
    server.files = {"a.jpg": bytes(1000)}
    with pytest.raises(ImageUnreadableError, match="fewer than 4096 bytes per second"):
        only(server.url("a.jpg")).open()


START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "fault",
    [
        raw(START, then=b"X", seconds=0.02),
        raw(START + b"X-Header: ", then=b"x", seconds=0.02),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n", then=b"HTTP/1.1 100 Continue\r\n\r\n"),
        raw(CHUNKED, then=b"0", seconds=0.02),
        raw(CHUNKED + b"1\r\nx\r\n0\r\n", then=b"X-Trailer: x\r\n", seconds=0.02),
        raw(CHUNKED + b"1\r\nx\r\n0\r\n", then=b"X-Trailer: x\r\n"),
    ],
    ids=[
        "headers drip",
        "a header drips",
        "endless preludes",
        "a length drips",
        "trailers drip",
        "endless trailers",
    ],
)
def test_a_server_that_never_comes_to_the_point_is_given_up(server, monkeypatch, fault):
    monkeypatch.setattr(client, "IMAGES", client.IMAGES._replace(deadline=0.4))
    server.always = fault
    with pytest.raises(ImageUnreadableError, match=r"took more than 0\.4 s"):
        only(server.url("a.jpg"), timeout=(1, 1)).open()
    assert len(server.requests) == 1


@pytest.mark.parametrize("then", [b"X-Header: x\r\n", b"x", b"0"])
@pytest.mark.parametrize("before", [START, CHUNKED, b""])
def test_a_flood_that_is_no_answer_takes_little_memory(server, before, then):
    server.always = raw(before, then=then * 10_000)

    def drown() -> None:
        with pytest.raises(ImageError):
            only(server.url("a.jpg"), timeout=(1, 1)).open()

    assert peak_bytes(drown) < 16 << 20


def test_offline_asks_no_server(server):
    [source] = expand([server.url("a.jpg")], offline=True)
    with pytest.raises(ImageUnreadableError, match="--offline"):
        source.open()
    assert server.connections == 0


def test_a_refused_connection_is_told_in_the_systems_words(monkeypatch, waits):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(
        ImageUnreadableError, match=rf"cannot fetch .*:{port}/a\.jpg: could not connect \(Connection refused\)$"
    ):
        only(f"http://127.0.0.1:{port}/a.jpg").open()
    assert len(waits) == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "http://.a/x.jpg",
        "https://a:b/x.jpg",
        "HTTP:///x",
        "http://" + "a" * 70 + ".org/x",
        "http://☃[::1]x",
        "http://%/",
    ],
)
def test_a_url_that_makes_no_sense_is_unreadable(url, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    source = only(url)
    assert source.name == url
    with pytest.raises(ImageUnreadableError, match="cannot fetch"):
        source.open()


def test_importing_the_module_imports_no_http_client():
    check = "import sys, imgclassify.sources; sys.exit('requests' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
