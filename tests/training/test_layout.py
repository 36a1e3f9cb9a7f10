"""Where the classes and the parts are in names, compared with torchvision's ImageFolder where it has an answer."""

from __future__ import annotations

import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import encoded, noise
from hypothesis import given
from hypothesis import strategies as st

from imgclassify.errors import ExitStatus, UsageError
from imgclassify.sources import expand
from imgclassify.training.layout import TEST, TRAIN, VAL, Layout, describe_empty, find_parts, part_of


def places(names: str, *roots: str) -> list[tuple[str, str]]:
    return [tuple(place) for place in Layout(names.split(), roots).places]


def labels(names: str, *roots: str) -> str:
    found = Layout(names.split(), roots)
    assert {place.part for place in found.places} == {TRAIN}
    return " ".join(place.label for place in found.places)


def error_of(names: str, *roots: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        Layout(names.split(), roots)
    assert caught.value.exit_status is ExitStatus.USAGE
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("names", "roots"),
    [
        ("pets/cat/1.jpg pets/dog/1.jpg", ["pets"]),
        ("pets/cat/1.jpg pets/dog/1.jpg", ["pets/"]),
        ("./pets/cat/1.jpg ./pets/dog/1.jpg", ["./pets"]),
        ("./cat/1.jpg ./dog/1.jpg", ["."]),
        ("/data/pets/cat/1.jpg /data/pets/dog/1.jpg", ["/data/pets"]),
        ("../pets/cat/1.jpg ../pets/dog/1.jpg", ["../pets"]),
        (r"C:\pets\cat\1.jpg C:\pets\dog\1.jpg", [r"C:\pets"]),
        (r"pets\cat\1.jpg pets\dog\1.jpg", ["pets"]),
        ("pets.zip!cat/1.jpg pets.zip!dog/1.jpg", ["pets.zip"]),
        ("d/pets.tar.gz!./cat/1.jpg d/pets.tar.gz!./dog/1.jpg", ["d/pets.tar.gz"]),
        ("pets.zip!pets/images/cat/1.jpg pets.zip!pets/images/dog/1.jpg", ["pets.zip"]),
        ("pets/cat/1.jpg pets/dog/1.jpg", ["pets/cat", "pets/dog"]),
        ("pets/cat/1.jpg pets/dog/1.jpg", ["pets/cat/1.jpg", "pets/dog/1.jpg"]),
        ("pets/cat/1.jpg pets/dog/1.jpg", ["pets/*"]),
        ("cat.zip!1.jpg dog.zip!1.jpg", ["cat.zip", "dog.zip"]),
        ("a/cat/1.jpg b/dog/1.jpg", ["a", "b"]),
        ("pets/cat/1.gif#3 pets/dog/1.jpg", ["pets"]),
        ("https://host.org/pets/cat/1.jpg https://host.org/pets/dog/1.jpg?x=a/b", []),
    ],
)
def test_the_class_is_the_highest_folder_below_the_root(names: str, roots: list[str]) -> None:
    assert labels(names, *roots) == "cat dog"


def test_a_single_class_folder_is_a_class() -> None:
    assert labels("pets/cat/1.jpg pets/cat/2.jpg", "pets") == "cat cat"
    # What is below a single class is not one, so that a part with one class and a part with several agree.
    assert labels("pets/cat/big/1.jpg pets/cat/big/2.jpg", "pets") == "cat cat"


@pytest.mark.parametrize(
    ("train", "other", "part"),
    [
        ("train", "val", VAL),
        ("Train", "VAL", VAL),
        ("training", "validation", VAL),
        ("TRAIN", "valid", VAL),
        ("train", "test", TEST),
        ("training_set", "test_set", TEST),
        ("trainset", "testset", TEST),
    ],
)
@pytest.mark.parametrize("above", ["pets/", "pets/data/", "pets.zip!", "pets.zip!pets-v2/"])
def test_parts_are_above_the_classes(train: str, other: str, part: str, above: str) -> None:
    names = f"{above}{train}/cat/1.jpg {above}{train}/dog/1.jpg {above}{other}/cat/2.jpg"
    assert places(names, above.partition("!")[0]) == [("cat", TRAIN), ("dog", TRAIN), ("cat", part)]


def test_a_part_may_have_a_folder_that_holds_all_others() -> None:
    names = (
        "d/training_set/training_set/cat/1.jpg d/training_set/training_set/dog/1.jpg d/test_set/test_set/dog/2.jpg"
    )
    assert places(names, "d") == [("cat", TRAIN), ("dog", TRAIN), ("dog", TEST)]


def test_roots_may_be_the_parts() -> None:
    names = "d/train/cat/1.jpg d/train/dog/1.jpg d/val/cat/2.jpg"
    assert places(names, "d/train", "d/val") == [("cat", TRAIN), ("dog", TRAIN), ("cat", VAL)]
    assert places(
        names.replace("train/", "train.zip!").replace("val/", "val.zip!"), "d/train.zip", "d/val.zip"
    ) == [
        ("cat", TRAIN),
        ("dog", TRAIN),
        ("cat", VAL),
    ]


def test_a_single_part_is_passed_over() -> None:
    assert labels("d/train/cat/1.jpg d/train/dog/1.jpg", "d") == "cat dog"


def test_a_class_may_be_called_as_a_part_is() -> None:
    assert labels("v/train/1.jpg v/bus/1.jpg", "v") == "train bus"  # as CIFAR-100 has it
    assert labels("v/control/1.jpg v/test/1.jpg", "v") == "control test"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("d/1.jpg d/2.jpg", "the images in 'd' are in no class folders: 'd/1.jpg', 'd/2.jpg'"),
        ("d/cat/1.jpg d/dog/1.jpg d/2.jpg", "1 of 3 images in 'd' are in no class folder: 'd/2.jpg'"),
        ("d/train/1.jpg d/train/2.jpg d/val/3.jpg", "the images in 'd/train' are in no class folders"),
        ("d/train/cat/1.jpg d/val/cat/1.jpg d/3.jpg", "1 of 3 images in 'd' are in no class folder: 'd/3.jpg'"),
        ("d/train/cat/1.jpg d/val/cat/1.jpg d/bird/1.jpg", "beside them there is 'bird'"),
        ("d/val/cat/1.jpg d/test/cat/1.jpg", "'test', 'val' are names of parts of a dataset, but none is called"),
        ("d/train/cat/1.jpg d/extra/dog/1.jpg", "train/cat has the name of a part"),
        ("d/cat/train/1.jpg d/dog/train/1.jpg d/cat/val/2.jpg", "cat/train has the name of a part"),
        ("d/2023/cat/1.jpg d/2023/dog/1.jpg d/2024/cat/1.jpg", "'cat' is in '2023' and in '2024'"),
    ],
)
def test_what_is_unclear_is_an_error(names: str, words: str) -> None:
    assert words in str(error_of(names, "d"))


def test_folders_in_those_of_classes_are_told() -> None:
    found = Layout(["d/cat/big/1.jpg", "d/cat/2.jpg", "d/dog/small/1.jpg"], ["d"])
    assert [place.label for place in found.places] == ["cat", "cat", "dog"]
    assert found.notes == ["folders in those of classes are not classes: 'cat/big', 'dog/small'"]
    assert labels("d/cat/photos/1.jpg d/dog/photos/1.jpg", "d") == "cat dog"


def test_how_the_classes_were_found() -> None:
    assert Layout(["d/cat/1.jpg", "d/dog/1.jpg"], ["d"]).how == "the name of its folder"
    assert "in 'd/images'" in Layout(["d/images/cat/1.jpg", "d/images/dog/1.jpg"], ["d"]).how


# What the disk holds


def test_empty_folders_of_classes_and_parts_are_found(tmp_path: Path) -> None:
    for folder in ("cat", "dog", "bird", ".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (tmp_path / folder).mkdir()
    root = str(tmp_path)
    names = f"{root}/cat/1.jpg {root}/dog/1.jpg".split()
    assert list(Layout(names, [root]).find_empty_folders([root])) == [f"{root}/bird"]
    assert list(Layout(names, [root]).find_empty_folders([])) == []


def test_what_training_has_written_among_the_classes_is_not_an_empty_class(tmp_path: Path) -> None:
    for folder in ("cat", "dog", "model", "other.partial"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model/imgclassify.toml").touch()
    root = str(tmp_path)
    assert list(Layout([f"{root}/cat/1.jpg", f"{root}/dog/1.jpg"], [root]).find_empty_folders([root])) == []


def test_empty_folders_of_parts(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "train/bird", "val", "annotations"):
        (tmp_path / folder).mkdir(parents=True)
    root = str(tmp_path)
    names = f"{root}/train/cat/1.jpg {root}/train/dog/1.jpg".split()
    assert list(Layout(names, [root]).find_empty_folders([root])) == [f"{root}/train/bird", f"{root}/val"]


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_empty_folders_in_an_archive(tmp_path: Path, suffix: str) -> None:
    content = encoded(noise(8, 8), "PNG")
    (folder := tmp_path / "data").mkdir()
    for name in ("set/train/cat", "set/train/dog", "set/train/b\u00e4r", "set/train/.git", "set/val"):
        (folder / name).mkdir(parents=True)
    for name in ("cat/1.png", "dog/1.png", "notes/read.txt"):
        (folder / "set/train" / name).parent.mkdir(exist_ok=True)
        (folder / "set/train" / name).write_bytes(content)
    root = shutil.make_archive(str(folder), {".zip": "zip", ".tar.gz": "gztar"}[suffix], folder)
    names = [source.name for source in expand([root])]
    empty = [f"{root}!set/train/b\u00e4r", f"{root}!set/train/notes", f"{root}!set/val"]
    assert sorted(Layout(names, [root]).find_empty_folders([root])) == empty
    assert describe_empty(empty[0]) == f"no image in {empty[0]!r}"


def test_hidden_and_system_folders_are_not_classes(tmp_path: Path) -> None:
    content = encoded(noise(8, 8), "PNG")
    inside = ("cat/1.png", "dog/1.png", ".ipynb_checkpoints/1.png", "__MACOSX/cat/._1.png", "cat/.thumbnails/1.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in inside:
            (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / name).write_bytes(content)
            archive.writestr(name, content)
    for root in (str(tmp_path / "a"), str(tmp_path / "a.zip")):
        names = [source.name for source in expand([root])]
        assert [place.label for place in Layout(names, [root]).places] == ["cat", "dog"]


@pytest.mark.needs_torch
def test_classes_are_those_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    for name in ("b/1.png", "b/x/2.png", "a/1.png", "c c/y/z/3.png", "a/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise(8, 8).save(tmp_path / name)
    theirs = ImageFolder(str(tmp_path))
    names = [path for path, _ in theirs.samples]
    ours = [place.label for place in Layout(names, [str(tmp_path)]).places]
    assert ours == [theirs.classes[index] for _, index in theirs.samples]


# Parts, where a file tells the classes


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ("d/train/1.jpg d/val/2.jpg", [TRAIN, VAL]),
        ("d/images/train/1.jpg d/images/test/2.jpg", [TRAIN, TEST]),
        ("d/train/cat/1.jpg d/val/dog/2.jpg", [TRAIN, VAL]),
        ("d/1.jpg d/2.jpg", [TRAIN, TRAIN]),
        ("d/train/1.jpg d/other/2.jpg d/val/3.jpg", [TRAIN] * 3),
        ("d/train/1.jpg d/val/2.jpg d/3.jpg", [TRAIN] * 3),
        ("d/val/1.jpg d/test/2.jpg", [TRAIN] * 2),
    ],
)
def test_parts_by_folders_alone(names: str, parts: list[str]) -> None:
    assert find_parts(names.split(), ["d"]) == parts


def test_names_of_parts() -> None:
    assert [part_of(name) for name in ("Train", "train-set", "test set", "trains", "set", "")] == [
        TRAIN,
        TRAIN,
        TEST,
        None,
        None,
        None,
    ]


part = st.text(st.characters(codec="utf-8", exclude_characters="/\\!#"), min_size=1, max_size=6)


@given(st.lists(st.lists(part, max_size=4), min_size=1, max_size=12), st.booleans())
def test_any_names_have_places_or_an_error(paths: list[list[str]], named: bool) -> None:
    names = ["/".join(["root", *folders, f"{number}.jpg"]) for number, folders in enumerate(paths)]
    with suppress(UsageError):
        found = Layout(names, ["root"] if named else [])
        assert len(found.places) == len(names)
        assert all(place.label and place.part in (TRAIN, VAL, TEST) for place in found.places)
