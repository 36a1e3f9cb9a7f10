"""Sorting files into folders: names, what is never lost, and the way back."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclassify.errors import NoImagesError, UsageError
from imgclassify.file_names import number_name, safe_name
from imgclassify.results import ImageFailure, ImageResult, Prediction
from imgclassify.sorting import UndoList, plan_sort, sort_files, transfer, undo_sort
from imgclassify.sorting.folder_names import name_folders
from imgclassify.sorting.plan import MISSING, NO_ANSWER, NOT_A_FILE, REPEATED, SYMBOLIC_LINK, UNSURE

ACTIONS = ("copy", "link", "move")


def record(
    source: str | Path, label: str = "dog", wnid: str | None = None, probability: float = 0.9
) -> ImageResult:
    index = sum(map(ord, label + (wnid or "")))
    return ImageResult(str(source), "net", 4, 3, (Prediction(1, index, wnid, label, probability),))


def failed(source: str | Path) -> ImageResult:
    return ImageResult(str(source), "net", None, None, (), ImageFailure("empty", "the file is empty"))


def prediction(index: int, label: str, wnid: str | None = None) -> Prediction:
    return Prediction(1, index, wnid, label, 0.5)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a/1.jpg, b/1.jpg, b/2.jpg, all different, and c/1.jpg, the same as a/1.jpg."""
    for name, content in {"a/1": "first", "b/1": "second", "b/2": "third", "c/1": "first"}.items():
        path = tmp_path / "photos" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "photos"


@pytest.fixture
def records(photos: Path) -> list[ImageResult]:
    labels = {"a/1": "dog", "b/1": "dog", "b/2": "cat", "c/1": "dog"}
    return [record(photos / f"{name}.jpg", label) for name, label in labels.items()]


def contents(folder: Path) -> dict[str, str]:
    """The text of each file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".jsonl"
    }


def carry_out(records: list[ImageResult], folder: Path, action: str) -> list[OSError | None]:
    plan = plan_sort(records, folder, action=action)
    with UndoList(plan.folder) as undo_list:
        return [result.error for result in sort_files(plan, undo_list)]


def only_list(folder: Path) -> Path:
    [found] = folder.glob("*.jsonl")
    return found


SORTED = {"cat/2.jpg": "third", "dog/1 (2).jpg": "second", "dog/1 (3).jpg": "first", "dog/1.jpg": "first"}


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("golden retriever", "golden retriever"),
        ("a/b\\c:d*e?f\"g<h>i|j", "a_b_c_d_e_f_g_h_i_j"),
        ("..", "_"),
        (".hidden", "_hidden"),
        ("etc. . ", "etc"),
        ("tab\tand\nline", "tab and line"),
        ("bell\x07", "bell_"),
        ("\udce9", "_"),
        ("", "_"),
        ("con", "_con"),
        ("Aux.txt", "_Aux.txt"),
        ("COM1", "_COM1"),
        ("lpt¹ .x", "_lpt¹ .x"),
        ("console", "console"),
        ("cafe\u0301", "café"),
        ("犬", "犬"),
        ("-rf", "-rf"),
    ],
)  # fmt: skip
def test_a_label_becomes_a_name_that_every_system_allows(label: str, name: str) -> None:
    assert safe_name(label) == name


@given(st.text(st.characters(codec=None), max_size=300))
def test_any_text_becomes_a_name_of_one_folder(label: str) -> None:
    name = safe_name(label)
    assert 0 < len(name.encode()) <= 255
    assert name.isprintable()
    assert not set(name) & set('<>:"/\\|?*')
    assert name == name.strip() == name.rstrip(".")
    assert not name.startswith(".")
    assert safe_name(name) == name


def test_classes_of_one_name_get_folders_of_their_own() -> None:
    classes = [
        prediction(134, "crane", "n02012849"),
        prediction(517, "crane", "n03126707"),
        prediction(1, "Tench"),
        prediction(2, "tench"),
        prediction(3, "a/b"),
        prediction(4, "a:b"),
        prediction(5, "a_b (3)"),
        prediction(6, "zebra"),
        prediction(7, "x" * 400 + "y"),
        prediction(8, "x" * 400 + "z"),
    ]
    names = list(name_folders(classes).values())
    assert len({name.casefold() for name in names}) == len(classes)
    assert {"crane (n02012849)", "crane (n03126707)", "Tench (1)", "tench (2)", "zebra", "a_b (3)"} <= set(names)
    assert all(len(name.encode()) < 255 for name in names)
    assert name_folders(reversed(classes)) == name_folders(classes)  # the order of the records does not matter


def test_a_wnid_is_one_class_whatever_its_index() -> None:
    assert name_folders([prediction(1, "dog", "n1"), prediction(2, "dog", "n1")]) == {"n1": "dog"}


@given(st.text(min_size=1, max_size=255), st.integers(2, 10**6))
def test_a_numbered_name_is_no_longer_than_systems_allow(name: str, number: int) -> None:
    extension = os.path.splitext(name)[1]  # noqa: PTH122 - only a name
    if len(extension.encode()) < 200:
        numbered = number_name(name, number)
        assert len(numbered.encode(errors="replace")) <= 255
        assert numbered.endswith(f" ({number}){extension}")


# Sorting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_each_file_goes_into_the_folder_of_its_answer(
    photos: Path, records: list[ImageResult], tmp_path: Path, action: str
) -> None:
    before = contents(photos)
    folder = tmp_path / "sorted"
    assert carry_out(records, folder, action) == [None] * 4
    assert contents(folder) == SORTED
    assert contents(photos) == ({} if action == "move" else before)
    assert (folder / "dog" / "1.jpg").is_symlink() == (action == "link")
    if action == "link":
        assert (folder / "dog" / "1.jpg").readlink() == photos / "a" / "1.jpg"


def test_a_plan_changes_nothing(photos: Path, records: list[ImageResult], tmp_path: Path) -> None:
    before = contents(tmp_path)
    plan = plan_sort(records, tmp_path / "sorted")
    assert [len(plan.transfers), plan.num_bytes] == [4, len("firstsecondthirdfirst")]
    assert contents(tmp_path) == before
    assert not (tmp_path / "sorted").exists()


@pytest.mark.parametrize("action", ACTIONS)
def test_a_second_run_does_nothing_twice(records: list[ImageResult], tmp_path: Path, action: str) -> None:
    carry_out(records, tmp_path / "sorted", action)
    plan = plan_sort(records, tmp_path / "sorted", action=action)
    assert plan.transfers == []
    assert plan.already_there == {"dog": 3, "cat": 1}
    assert plan.left_out == {}
    carry_out(records, tmp_path / "sorted", action)
    assert contents(tmp_path / "sorted") == SORTED
    only_list(tmp_path / "sorted")  # the second run wrote none


@pytest.mark.parametrize("action", ACTIONS)
def test_a_stopped_run_is_continued(records: list[ImageResult], tmp_path: Path, action: str) -> None:
    plan = plan_sort(records, tmp_path / "sorted", action=action)
    with UndoList(plan.folder) as undo_list:
        results = sort_files(plan, undo_list)
        next(results)
        next(results)
    assert len(contents(tmp_path / "sorted")) == 2
    carry_out(records, tmp_path / "sorted", action)
    assert contents(tmp_path / "sorted") == SORTED


@pytest.mark.parametrize("action", ACTIONS)
def test_a_file_that_is_in_the_way_is_kept(records: list[ImageResult], tmp_path: Path, action: str) -> None:
    (tmp_path / "sorted" / "dog").mkdir(parents=True)
    (tmp_path / "sorted" / "dog" / "1.jpg").write_text("mine")
    (tmp_path / "sorted" / "cat").symlink_to("nowhere")  # no folder can be made here
    errors = carry_out(records, tmp_path / "sorted", action)
    assert [error is None for error in errors] == [True, True, False, True]
    assert contents(tmp_path / "sorted") == {
        "dog/1.jpg": "mine",
        "dog/1 (2).jpg": "first",
        "dog/1 (3).jpg": "second",
        "dog/1 (4).jpg": "first",
    }
    assert (tmp_path / "photos" / "b" / "2.jpg").read_text() == "third"


@pytest.mark.parametrize("action", ACTIONS)
def test_a_file_that_appears_after_the_plan_is_kept(
    records: list[ImageResult], tmp_path: Path, action: str
) -> None:
    plan = plan_sort(records[:1], tmp_path, action=action)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.jpg").write_text("first")  # even the same bytes
    with UndoList(plan.folder) as undo_list:
        [result] = sort_files(plan, undo_list)
    assert isinstance(result.error, FileExistsError)
    assert plan.transfers[0].source.read_text() == "first"
    assert [each.outcome for each in undo_sort(only_list(tmp_path))] == []  # it is not the sort's to remove
    assert (tmp_path / "dog" / "1.jpg").read_text() == "first"


def test_names_that_differ_only_in_case_are_numbered(tmp_path: Path) -> None:
    for folder, name in (("a", "x.jpg"), ("b", "X.JPG")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(folder)
    plan = plan_sort([record(tmp_path / "a" / "x.jpg"), record(tmp_path / "b" / "X.JPG")], tmp_path / "sorted")
    assert [each.target.name for each in plan.transfers] == ["x.jpg", "X (2).JPG"]


def test_what_is_left_out_is_named_by_reason(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.make_archive(str(tmp_path / "more"), "zip", photos)
    (photos / "link.jpg").symlink_to("a/1.jpg")
    monkeypatch.chdir(photos)
    (photos / "-").write_text("not what - means")
    outside = ["-", "https://example.org/x.jpg", str(tmp_path / "more.zip!a/1.jpg"), "a"]
    missing = ["none.jpg", "b/none!.jpg", "nul\0.jpg", "\ud800.jpg"]
    records = [
        *(record(name) for name in ("a/1.jpg", "./a/../a/1.jpg", "link.jpg", *outside, *missing)),
        failed("broken.jpg"),
        record("b/2.jpg", probability=0.2),
    ]
    plan = plan_sort(records, tmp_path / "sorted", action="move", min_probability=0.5)
    assert [each.source for each in plan.transfers] == [photos / "a" / "1.jpg"]
    assert plan.left_out == {
        NO_ANSWER: ["broken.jpg"],
        UNSURE: ["b/2.jpg"],
        REPEATED: ["./a/../a/1.jpg"],
        SYMBOLIC_LINK: ["link.jpg"],
        NOT_A_FILE: outside,
        MISSING: missing,
    }
    for action in ("copy", "link"):  # a link is a file like others
        plan = plan_sort(records, tmp_path / "sorted", action=action)
        assert photos / "link.jpg" in [each.source for each in plan.transfers]


def test_files_below_the_target_stay_where_they_belong(photos: Path, tmp_path: Path) -> None:
    folder = photos / "sorted"
    carry_out([record(photos / "a" / "1.jpg"), record(photos / "b" / "2.jpg")], folder, "move")
    again = [record(folder / "dog" / "1.jpg", "dog"), record(folder / "dog" / "2.jpg", "cat")]
    for action in ("copy", "link"):
        assert plan_sort(again, folder, action=action).already_there == {"dog": 1}
    carry_out(again, folder, "move")
    assert contents(folder) == {"dog/1.jpg": "first", "cat/2.jpg": "third"}


def test_folders_are_named_after_wnids(photos: Path, tmp_path: Path) -> None:
    plan = plan_sort([record(photos / "a" / "1.jpg", wnid="n02084071")], tmp_path / "sorted", by="wnid")
    assert [each.target.parent.name for each in plan.transfers] == ["n02084071"]
    plan = plan_sort([record(photos / "a" / "1.jpg", wnid="../../x")], tmp_path / "sorted", by="wnid")
    assert [each.target.parent.parent for each in plan.transfers] == [tmp_path / "sorted"]
    with pytest.raises(UsageError, match="no WordNet id"):
        plan_sort([record(photos / "a" / "1.jpg")], tmp_path / "sorted", by="wnid")


def test_if_no_file_exists_the_folder_may_be_the_wrong_one(tmp_path: Path) -> None:
    with pytest.raises(NoImagesError, match=r"none of the 2 files exists, such as 'a\.jpg'") as raised:
        plan_sort([record("a.jpg"), record("b.jpg")], tmp_path / "sorted")
    assert "folder where `imgclassify predict` ran" in str(raised.value.hint)
    with pytest.raises(NoImagesError) as raised:
        plan_sort([record(tmp_path / "a.jpg")], tmp_path / "sorted")
    assert "moved or deleted" in str(raised.value.hint)
    with pytest.raises(NoImagesError, match="no record"):
        plan_sort([], tmp_path / "sorted")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"action": "steal"}, "steal"),
        ({"by": "colour"}, "colour"),
        ({"min_probability": 1.5}, "1.5"),
        ({"folder": "no/such"}, "does not exist"),
        ({"folder": "file"}, "not a folder"),
        ({"folder": "nul\0"}, "cannot use"),
    ],
)
def test_wrong_arguments_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=words):
        plan_sort([record("file")], **({"folder": "sorted"} | arguments))  # type: ignore[arg-type]


# What may go wrong ------------------------------------------------------------------------------------------


def no_links(source: object, target: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def other_file_system(link: Callable[..., None]) -> Callable[[Path, Path], None]:
    def across(source: Path, target: Path) -> None:
        if source.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    return across


@pytest.mark.parametrize("system", ["no hard links", "another file system"])
def test_files_move_on_every_file_system(
    photos: Path, records: list[ImageResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    before = contents(photos)
    os.utime(photos / "b" / "2.jpg", (10**9, 10**9))
    monkeypatch.setattr(os, "link", no_links if system == "no hard links" else other_file_system(os.link))
    assert carry_out(records, tmp_path / "sorted", "move") == [None] * 4
    assert contents(tmp_path / "sorted") == SORTED
    assert contents(photos) == {}
    assert (tmp_path / "sorted" / "cat" / "2.jpg").stat().st_mtime == 10**9
    assert {each.outcome for each in undo_sort(only_list(tmp_path / "sorted"))} == {"moved back"}
    assert contents(photos) == before


def test_without_hard_links_no_file_is_replaced_either(
    records: list[ImageResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    plan = plan_sort(records[:1], tmp_path, action="move")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.jpg").write_text("mine")
    with UndoList(plan.folder) as undo_list:
        [result] = sort_files(plan, undo_list)
    assert isinstance(result.error, FileExistsError)
    assert (tmp_path / "dog" / "1.jpg").read_text() == "mine"
    assert plan.transfers[0].source.exists()


@pytest.mark.parametrize("system", ["the same", "another"])
def test_a_source_that_cannot_be_removed_is_not_left_twice(
    photos: Path, records: list[ImageResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    unlink = Path.unlink

    def guarded(path: Path, missing_ok: bool = False) -> None:
        if path.parent == photos / "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", guarded)
    if system == "another":
        monkeypatch.setattr(os, "link", other_file_system(os.link))
    errors = carry_out(records, tmp_path / "sorted", "move")
    assert [error is None for error in errors] == [False, True, True, True]
    assert contents(photos) == {"a/1.jpg": "first"}
    assert "dog/1.jpg" not in contents(tmp_path / "sorted")


@pytest.mark.parametrize("action", ["copy", "move"])
def test_a_file_that_fails_halfway_is_not_left_there(
    photos: Path, records: list[ImageResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    def halfway(source: Path, target: Path) -> None:
        target.write_text(source.read_text()[:2])
        raise OSError(errno.EIO if "b" in source.parts else errno.ENOSPC, "broken")

    monkeypatch.setattr(os, "link", other_file_system(os.link))
    monkeypatch.setattr(transfer.shutil, "copyfile", halfway)
    before = contents(photos)
    errors = carry_out([*records[1:3], *records[:1], *records[3:]], tmp_path / "sorted", action)
    assert [error.errno for error in errors if error] == [errno.EIO, errno.EIO, errno.ENOSPC]  # a full disk ends it
    assert contents(tmp_path / "sorted") == {}
    assert contents(photos) == before
    assert list(undo_sort(only_list(tmp_path / "sorted"))) == []
    assert not (tmp_path / "sorted").exists()


# Undo -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_an_undone_sort_leaves_all_as_it_was(
    photos: Path, records: list[ImageResult], tmp_path: Path, action: str
) -> None:
    before = contents(photos)
    carry_out(records, tmp_path / "sorted", action)
    if action == "move":
        (photos / "c").rmdir()  # an empty folder that somebody has removed
    for dry_run in (True, False):
        assert contents(tmp_path / "sorted") == SORTED
        results = list(undo_sort(only_list(tmp_path / "sorted"), dry_run=dry_run))
        assert all(result.reverted for result in results)
        assert len(results) == 4
    assert contents(photos) == before
    assert not (tmp_path / "sorted").exists()


@pytest.mark.parametrize("action", ACTIONS)
def test_undo_keeps_what_others_have_made_or_changed(
    photos: Path, records: list[ImageResult], tmp_path: Path, action: str
) -> None:
    folder = tmp_path / "sorted"
    carry_out(records, folder, action)
    (folder / "dog" / "mine.txt").write_text("mine")
    if action == "move":
        (photos / "a" / "1.jpg").write_text("new")
    else:
        (folder / "dog" / "1.jpg").unlink()
        (folder / "dog" / "1.jpg").write_text("edited")
    kept = [(each.target.name, each.outcome) for each in undo_sort(only_list(folder)) if not each.reverted]
    assert kept == [
        ("1.jpg", "kept: another file has taken its place" if action == "move" else "kept: changed since")
    ]
    assert contents(folder) == {"dog/mine.txt": "mine", "dog/1.jpg": "first" if action == "move" else "edited"}
    assert (photos / "a" / "1.jpg").read_text() == ("new" if action == "move" else "first")
    if action == "move":
        (photos / "a" / "1.jpg").unlink()
        assert [each.outcome for each in undo_sort(only_list(folder))].count("moved back") == 1
        assert contents(folder) == {"dog/mine.txt": "mine"}


def test_the_last_copy_is_never_removed(photos: Path, records: list[ImageResult], tmp_path: Path) -> None:
    folder = tmp_path / "sorted"
    carry_out(records, folder, "copy")
    (photos / "a" / "1.jpg").unlink()
    (photos / "b" / "1.jpg").unlink()
    (photos / "b" / "1.jpg").symlink_to(folder / "dog" / "1 (2).jpg")
    outcomes = {each.target.name: each.outcome for each in undo_sort(only_list(folder))}
    assert outcomes["1.jpg"] == "kept: its source is gone"
    assert outcomes["1 (2).jpg"] == "kept: changed since"
    assert contents(folder) == {"dog/1.jpg": "first", "dog/1 (2).jpg": "second"}


def test_undo_after_a_kill_in_the_middle(photos: Path, records: list[ImageResult], tmp_path: Path) -> None:
    """The list is ahead of the actions: one was cut off, one is not done, one is half done."""
    folder = tmp_path / "sorted"
    before = contents(photos)
    carry_out(records, folder, "move")
    undo_list = only_list(folder)
    os.link(folder / "dog" / "1 (3).jpg", photos / "c" / "1.jpg")  # killed before the source was removed
    (folder / "dog" / f".next.jpg.{undo_list.stem}.draft").write_text("ha")  # killed while copying
    with undo_list.open("a") as stream:
        entry = {"action": "move", "target": "dog/next.jpg", "source": str(photos / "next.jpg")}
        stream.write(json.dumps(entry) + '\n{"action": "mo')
    assert all(each.reverted for each in undo_sort(undo_list))
    assert contents(photos) == before
    assert not folder.exists()


def test_a_moved_folder_can_still_be_undone(photos: Path, records: list[ImageResult], tmp_path: Path) -> None:
    before = contents(photos)
    carry_out(records, tmp_path / "sorted", "move")
    (tmp_path / "sorted").rename(tmp_path / "elsewhere")
    assert all(each.reverted for each in undo_sort(only_list(tmp_path / "elsewhere")))
    assert contents(photos) == before


@pytest.mark.parametrize(
    "line",
    [
        {"action": "copy", "target": "../x.jpg", "source": "/x.jpg"},
        {"action": "copy", "target": "/etc/x.jpg", "source": "/x.jpg"},
        {"action": "copy", "target": "x.jpg", "source": "x.jpg"},
        {"action": "copy", "source": "/x.jpg"},
        [],
    ],
)
def test_a_list_that_no_sort_wrote_is_refused(tmp_path: Path, line: object) -> None:
    path = tmp_path / "undo.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in ({"schema": "imgclassify.sort/1"}, line)))
    with pytest.raises(UsageError, match="undo list"):
        list(undo_sort(path))


@pytest.mark.parametrize("content", [b"", b"source,label\n", b"\xff\n", b"{}\n", b"[1]\n"])
def test_another_file_is_no_undo_list(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UsageError, match="undo list"):
        list(undo_sort(tmp_path / "x"))
    with pytest.raises(UsageError, match="No such file"):
        list(undo_sort(tmp_path / "none"))


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["a/1.jpg", "a/x/2.jpg"], "a"),
        (["a/x/1.jpg", "a/y/2.jpg"], "a"),
        (["./1.jpg", "./a/2.jpg"], "."),  # as `predict .` names them
        (["a/1.jpg", "b/2.jpg"], None),
        (["1.jpg", "2.jpg"], None),  # named one by one, or by a glob
        (["a/1.jpg", "2.jpg"], None),
        (["-", "https://example.org/a/1.jpg"], None),
        (["a/1.jpg", "https://example.org/a/1.jpg"], "a"),
    ],
)
def test_the_folder_that_was_classified_is_known_by_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], common: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_text("x")
    (tmp_path / "1.jpg").write_text("x")
    (tmp_path / "-").write_text("x")
    plan = plan_sort([record("1.jpg"), *map(record, names)], "sorted")
    assert plan.sources_folder is None
    if any((tmp_path / name).exists() for name in names):
        plan = plan_sort([record(name) for name in names], "sorted")
        assert plan.sources_folder == (None if common is None else (tmp_path / common).resolve())


def test_an_undo_list_that_cannot_be_made_leaves_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_file(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", no_file)
    plan = plan_sort([record(photos / "a" / "1.jpg")], tmp_path / "sorted")
    undo_list = UndoList(plan.folder)
    with undo_list, pytest.raises(UsageError, match=r"cannot write the undo list in .*sorted': Permission denied"):
        list(sort_files(plan, undo_list))
    assert undo_list.path is None
    assert not plan.folder.exists()
