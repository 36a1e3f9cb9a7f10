import bz2
import gzip
import inspect
import io
import lzma
import os
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclassify import sources
from imgclassify.errors import (
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUnreadableError,
)
from imgclassify.sources import archives, expand, read_names, urls
from imgclassify.sources import source as source_module

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

    def refuse(*_: object) -> None:
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
def test_a_device_is_refused():
    with pytest.raises(ImageUnreadableError, match="neither a file nor a pipe"):
        only("/dev/zero").open()


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
    with pytest.raises(ImageUnreadableError, match="read before"):
        second.open()
    assert read(first) == b"image"
    assert third.name == "a.jpg"


def test_names_of_a_list_are_no_globs(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"other")
    names = [str(tmp_path / "[1].jpg"), "nul\0*.jpg"]
    for source, name in zip(expand(names, globs=False), names, strict=True):
        assert source.name == name
        with pytest.raises(ImageError):
            source.open()
    with pytest.raises(ImageError):
        next(expand(["nul\0*.jpg"])).open()


@pytest.mark.parametrize(("count", "words"), [(0, "is a folder"), (1, "is a folder"), (2, "is a folder")])
def test_a_folder_is_never_the_one_picture(count, words, tmp_path):
    for index in range(count):
        (tmp_path / f"{index}.jpg").write_bytes(b"x")
    with pytest.raises(ImageUnreadableError, match=words):
        sources.only(str(tmp_path)).open()


@pytest.mark.parametrize(("count", "words"), [(0, "no picture"), (1, None), (2, "several pictures")])
def test_an_archive_is_the_one_picture_if_it_holds_one(count, words, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index in range(count):
            archive.writestr(f"{index}.jpg", b"content")
    source = sources.only(str(tmp_path / "a.zip"))
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


@pytest.mark.parametrize("content", [[], ["empty/notes.txt"], ["empty/sub/.hidden.jpg"]])
def test_a_folder_without_images_is_noticed(folder, notices, content):
    Path("empty").mkdir()
    make(*content)
    assert names("empty", notice=notices) == []
    assert notices == ["no image in 'empty'"]


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
def test_pipes_and_sockets_in_a_folder_are_skipped_with_a_notice(folder, notices):
    make("top/b.jpg")
    os.mkfifo("top/a.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("top/c.jpg")
        assert names("top", notice=notices) == ["top/b.jpg"]
    assert sorted(notices) == [f"skipped, not a regular file: 'top/{name}.jpg'" for name in "ac"]


def test_an_unreadable_subfolder_is_noticed_and_the_rest_goes_on(folder, notices, monkeypatch):
    make("top/a/1.jpg", "top/b/2.jpg", "top/c/3.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names("top", notice=notices) == [
        native("top/a/1.jpg"),
        native("top/c/3.jpg"),
    ]
    assert notices == [f"cannot read folder {native('top/b')!r}: Permission denied"]


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
        patch.setattr(sources, "CHUNK_BYTES", chunk_bytes)
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

TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
KINDS = [".zip", *TARS]


def make_archive(path: str, members: dict[str, bytes]) -> None:
    if path.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return
    kind = next(kind for kind in TARS if path.endswith(kind))
    with tarfile.open(path, TARS[kind]) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


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
        {".x.jpg": b"", ".git/x.jpg": b"", "__MACOSX/b.jpg": b"", "../up.jpg": b"", "a.jpg": b""},
    )
    assert names(f"a{kind}") == [f"a{kind}!a.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_unpacked_to_disk(folder, kind):
    make_archive(f"a{kind}", {"dogs/rex.jpg": b"rex"})
    assert [read(source) for source in expand([f"a{kind}"])] == [b"rex"]
    assert list(Path().iterdir()) == [Path(f"a{kind}")]


@pytest.mark.parametrize("kind", KINDS)
def test_one_member_can_be_named(folder, kind):
    make_archive(f"a{kind}", {"x.jpg": b"x", "dogs/rex": b"rex, whatever the ending"})
    source = only(f"a{kind}!dogs/rex")
    assert source.name == f"a{kind}!dogs/rex"
    assert read(source) == b"rex, whatever the ending"


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
    assert notices == [f"no image in 'a{kind}'"]


@pytest.mark.parametrize("kind", [*KINDS, ".tar.zst"])
@pytest.mark.parametrize("content", [b"", b"not an archive" * 100])
def test_an_archive_that_cannot_be_opened_is_one_failing_source(folder, notices, kind, content):
    Path(f"a{kind}").write_bytes(content)
    source = only(f"a{kind}", notice=notices)
    assert source.name == f"a{kind}"
    with pytest.raises(ImageUnreadableError, match="cannot read archive"):
        source.open()
    assert notices == []


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the standard library has zstandard")
def test_a_zst_archive_says_which_python_it_needs(folder):
    make("a.tar.zst")
    with pytest.raises(ImageUnreadableError, match=r"Python 3\.14"):
        only("a.tar.zst").open()


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
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
    monkeypatch.setattr(archives, "read_whole", fail)
    make_archive(f"a{kind}", {"big.jpg": bytes(1001)})
    with pytest.raises(ImageTooLargeError):
        only(f"a{kind}").open()


def test_a_tar_that_claims_an_impossible_size_fails_in_words(folder):
    info = tarfile.TarInfo("a.jpg")
    info.size = 2**80
    Path("a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    member, rest = expand(["a.tar"])
    with pytest.raises(ImageTooLargeError):
        member.open()
    with pytest.raises(ImageUnreadableError):
        rest.open()


def test_a_zip_member_without_a_name_is_passed_over(folder):
    make_archive("a.zip", {"?.jpg": b"", "b.jpg": b"b"})
    Path("a.zip").write_bytes(Path("a.zip").read_bytes().replace(b"?.jpg", b"\0.jpg"))
    assert names("a.zip") == ["a.zip!b.jpg"]


@pytest.mark.parametrize("kind", [".tar.bz2", ".tar.xz"])
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
    with tarfile.open(f"a{kind}", TARS[kind]) as archive:
        archive.add("d")
    found = {source.name: read(source) for source in expand([f"a{kind}"])}
    assert found == {f"a{kind}!d/{number}.jpg": b"content" for number in (1, 2, 3)}
    assert read(only(f"a{kind}!d/2.jpg")) == b"content"


@pytest.mark.parametrize("kind", sorted(TARS))
@pytest.mark.parametrize("damage", ["header", "cut in a header", "cut between members"])
def test_a_tar_that_cannot_be_read_to_its_end_has_a_record_of_its_own(kind, damage, folder):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for number in range(4):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 512
            archive.addfile(info, io.BytesIO(bytes([number]) * 512))
    content = bytearray(plain.getvalue())
    if damage == "header":
        content[2 * 1024 + 10] ^= 1
    else:
        del content[2 * 1024 + (200 if damage == "cut in a header" else 0) :]
    compress = {".tar": bytes, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}.get(kind, gzip.compress)
    Path(f"a{kind}").write_bytes(compress(bytes(content)))
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


def sample_archives() -> dict[str, bytes]:
    packed = {}
    for kind in KINDS:
        buffer = io.BytesIO()
        if kind == ".zip":
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a.jpg", bytes(range(256)))
                archive.writestr("b.jpg", b"b" * 500)
        else:
            with tarfile.open(fileobj=buffer, mode=TARS[kind]) as archive:
                for name in ("a.jpg", "b.jpg"):
                    info = tarfile.TarInfo(name)
                    info.size = 300
                    archive.addfile(info, io.BytesIO(bytes(300)))
        packed[kind] = buffer.getvalue()
    return packed


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_mutated_archive_yields_streams_or_image_errors_and_nothing_else(tmp_path_factory, data):
    kind, content = data.draw(st.sampled_from(sorted(sample_archives().items())))
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


# URLs -------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind, _, argument = self.path.strip("/").partition("/")
        if kind == "slow":
            time.sleep(1)
        if kind == "drip":
            self.drip()
            return
        if kind in ("redirect", "redirect-to"):
            self.send_response(302)
            target = f"/redirect/{int(argument) - 1}" if kind == "redirect" else argument
            self.send_header("Location", "/image/a.jpg" if target == "/redirect/0" else target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = b"x" * int(argument) if kind == "size" else f"content of {self.path}".encode()
        self.send_response(int(argument) if kind == "status" else 200)
        self.send_header("Content-Length", str(len(content) + (100 if kind == "cut" else 0)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = kind == "cut"

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with suppress(OSError):
            for _ in range(1000):
                self.wfile.write(b"x")
                time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    connections = 0

    def get_request(self):
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        listener.url = f"http://127.0.0.1:{listener.server_port}"
        yield listener
        urls._session().close()
        listener.shutdown()
        thread.join()


def test_a_url_is_fetched_when_it_is_opened(server):
    url = f"{server.url}/image/a.jpg?size=large"
    source = only(url)
    assert source.name == url
    assert server.connections == 0
    with source.open() as stream:
        assert stream.read() == b"content of /image/a.jpg?size=large"
        assert stream.seek(0) == 0


def test_connections_are_kept_between_downloads(server):
    for source in expand([f"{server.url}/image/{number}.jpg" for number in range(5)]):
        read(source)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "words"), [(404, "404 Not Found"), (500, "500 Internal Server Error"), (204, "204")]
)
def test_any_other_status_than_200_is_unreadable_and_told(server, status, words):
    url = f"{server.url}/status/{status}"
    with pytest.raises(ImageUnreadableError) as caught:
        only(url).open()
    assert str(caught.value).startswith(f"{url} answered {words}")


def test_five_redirects_are_followed_and_six_are_not(server):
    assert read(only(f"{server.url}/redirect/5")) == b"content of /image/a.jpg"
    with pytest.raises(ImageUnreadableError, match="5 redirects"):
        only(f"{server.url}/redirect/6").open()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.jpg"])
def test_a_redirect_away_from_http_is_refused(server, target):
    with pytest.raises(ImageUnreadableError):
        only(f"{server.url}/redirect-to/{target}").open()


def test_a_download_above_the_limit_is_too_large(server, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1000)
    assert len(read(only(f"{server.url}/size/1000"))) == 1000
    with pytest.raises(ImageTooLargeError, match="size/1001"):
        only(f"{server.url}/size/1001").open()


def test_a_server_that_falls_silent_is_given_up(server):
    with pytest.raises(ImageUnreadableError, match=r"cannot fetch .* timed out"):
        only(f"{server.url}/slow/a.jpg", timeout=(1, 0.1)).open()


def test_a_server_that_drips_is_given_up(server, monkeypatch):
    monkeypatch.setattr(urls, "SLOW_AFTER", 0.1)
    with pytest.raises(ImageUnreadableError, match=r"only .* bytes"):
        only(f"{server.url}/drip/a.jpg").open()


def test_offline_asks_no_server(server):
    [source] = expand([f"{server.url}/image/a.jpg"], offline=True)
    with pytest.raises(ImageUnreadableError, match="--offline"):
        source.open()
    assert server.connections == 0


def test_a_download_cut_short_is_unreadable(server):
    with pytest.raises(ImageUnreadableError, match="cannot fetch"):
        only(f"{server.url}/cut/a.jpg").open()


def test_a_refused_connection_is_told_in_the_systems_words(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(
        ImageUnreadableError, match=f"cannot fetch http://127.0.0.1:{port}/a.jpg: Connection refused$"
    ):
        only(f"http://127.0.0.1:{port}/a.jpg").open()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "http://.a/x.jpg",
        "https://a:b/x.jpg",
        "HTTP:///x",
        "http://" + "a" * 70 + ".org/x",
        "http://☃[::1]@x",
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
