"""The truth of images by the names of folders and files, and through a map."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclassify.errors import ExitStatus, NoImagesError, UsageError
from imgclassify.evaluation.truth import Truth, find_truth
from imgclassify.labels import Label, LabelSet, load_labels

IMAGENET = load_labels("imagenet1k")
TENCH, GOLDFISH, GOLDEN = 0, 1, 207


def own(*labels: str) -> LabelSet:
    return LabelSet("own", tuple(Label(index, None, label) for index, label in enumerate(labels)))


def indices(truth: Truth, source: str) -> set[int] | None:
    found = truth.class_of(source)
    return None if found is None else set(truth.classes[found].class_indices)


def find(*sources: str, labels: LabelSet = IMAGENET, **options: object) -> list[set[int] | None]:
    """The right class indices of each source."""
    truth = find_truth(labels, sources, **options)  # type: ignore[arg-type]
    return [indices(truth, source) for source in sources]


def error_of(*sources: str, labels: LabelSet = IMAGENET, **options: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        find_truth(labels, sources, **options)  # type: ignore[arg-type]
    assert caught.value.exit_status is ExitStatus.USAGE
    assert caught.value.hint
    return caught.value


def map_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "map.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


# Names of folders


@pytest.mark.parametrize(
    ("folder", "class_index"),
    [
        ("tench", TENCH),
        ("Tench", TENCH),
        ("Tinca tinca", TENCH),
        ("n01440764", TENCH),
        ("n01440764_tench", TENCH),
        ("n01440764 tench", TENCH),
        ("N01440764", TENCH),
        ("0", TENCH),
        ("0000", TENCH),
        ("golden retriever", GOLDEN),
        ("golden_retriever", GOLDEN),
        ("Golden-Retriever", GOLDEN),
        ("n02099601-golden_retriever", GOLDEN),
        ("tench (n01440764)", TENCH),  # as `imgclassify sort` writes it
        ("tench (0)", TENCH),
        ("crane (n03126707)", 517),
        ("jack-o'-lantern", 607),
        ("999", 999),
    ],
)
def test_a_folder_is_a_label_a_wnid_a_synonym_or_an_index(folder: str, class_index: int) -> None:
    assert find(f"data/{folder}/a.jpg") == [{class_index}]


@pytest.mark.parametrize(
    "source",
    [
        "photos.zip!test/tench/x.png",
        "photos.TAR.GZ!tench/x.png",
        "tench.zip!x.png",
        "https://host.org/a/tench/b.jpg?x=1/goldfish/c.jpg",
        "https://host.org/golden%20../tench/b.jpg#12.480",
        "a/tench/x.gif#2",
        "../tench/x.gif",
        "tench/./x.gif",
        "a\\tench\\x.gif",
        "wow!/tench/x.jpg",
    ],
)
def test_every_kind_of_source_has_a_folder(source: str) -> None:
    assert find(source) == [{TENCH}]


def test_unicode_of_another_form_is_the_same_name() -> None:
    assert find("d/ka\u0308fer/1.jpg", labels=own("wurm", "k\u00e4fer")) == [{1}]


def test_names_of_one_class_are_joined_and_counted() -> None:
    truth = find_truth(IMAGENET, ["d/tench/1.jpg", "d/n01440764/2.jpg", "d/1/3.jpg"])
    assert [(each.names, each.label, each.wnid) for each in truth.classes] == [
        (("n01440764", "tench"), "tench", "n01440764"),
        (("1",), "goldfish", "n01443537"),
    ]
    assert truth.counts == (2, 1)
    assert truth.num_images == 3
    assert truth.how == "the name of each image's folder"
    document = truth.to_dict()
    assert document["classes"][0] == {
        "name": "n01440764",
        "names": ["n01440764", "tench"],
        "label": "tench",
        "wnid": "n01440764",
        "class_indices": [0],
        "is_node": False,
        "count": 2,
    }
    assert document["ignored"] == {}


def test_a_label_that_is_a_number_comes_before_the_class_index() -> None:
    digits = own("1", "0", "2")
    assert find("d/0/a.jpg", "d/1/a.jpg", "d/2/a.jpg", labels=digits) == [{1}, {0}, {2}]


def test_case_tells_classes_apart_where_it_must() -> None:
    letters = own("a", "A")
    assert find("d/a/1.jpg", "d/A/1.jpg", labels=letters) == [{0}, {1}]
    assert "can mean Cat (class 0) or CAT (class 1)" in str(error_of("d/cat/1.jpg", labels=own("Cat", "CAT")))
    assert "can mean" in str(error_of("d/big_cat/1.jpg", labels=own("big cat", "big-cat")))


def test_a_label_that_two_classes_have_is_never_chosen_by_its_place() -> None:
    cranes = own("crane", "tench", "crane")
    error = error_of("d/crane/1.jpg", "d/crane/2.jpg", "d/tench/1.jpg", labels=cranes)
    assert "1 of 2 folder names does not name one class of own" in str(error)
    assert "'crane' (2 images, such as 'd/crane/1.jpg') can mean crane (class 0) or crane (class 2)" in str(error)
    assert "crane,0" in str(error.hint)
    assert find("d/2/1.jpg", labels=cranes) == [{2}]
    # It is the label of one class, and a synonym of another.
    assert "crane bird (class 134, n02012849) or crane (class 517, n03126707)" in str(error_of("d/crane/1.jpg"))


def test_a_label_that_is_a_synonym_of_a_class_with_its_own_name_is_that_of_its_class() -> None:
    assert find("d/crane/1.jpg", "d/crane bird/2.jpg") == [{517}, {134}]
    assert find("d/n02012849/2.jpg", "d/crane/1.jpg") == [{134}, {517}]


def test_a_data_set_whose_folders_are_all_labels_needs_no_map() -> None:
    labels = [label.label for label in IMAGENET.labels]
    assert len(set(labels)) == 1000
    sources = [f"d/{label.replace(' ', '_')}/{number}.jpg" for number, label in enumerate(labels)]
    random.Random(0).shuffle(sources)
    assert find(*sources) == [{int(source.split("/")[-1].removesuffix(".jpg"))} for source in sources]


def test_a_synonym_that_is_also_a_node_is_ambiguous() -> None:
    assert "feather boa (class 552, n03325584) or any boa (n01741943)" in str(error_of("d/boa/1.jpg"))


def test_a_label_that_is_also_a_node_is_taken_with_a_note() -> None:
    truth = find_truth(IMAGENET, ["d/plane/1.jpg"])
    assert indices(truth, "d/plane/1.jpg") == {726}
    assert "'plane' is taken as class 726, plane" in truth.notes[0]
    assert "airplane" in truth.notes[0]


def test_a_node_is_no_class_without_a_map() -> None:
    for options in ({}, {"ignore_unknown": True}):
        error = error_of("d/dog/1.jpg", "d/tench/1.jpg", **options)
        assert "is not one class, but a group: dog (n02084071, 118 classes)" in str(error)
        assert "dog,dog" in str(error.hint)


def test_unknown_names_are_listed_with_counts_and_the_nearest_labels() -> None:
    sources = [f"d/ants/{number}.jpg" for number in range(7)] + ["d/tensh/1.jpg", "d/goldfish/1.jpg"]
    error = error_of(*sources)
    assert "2 of 3 folder names do not name one class of imagenet1k" in str(error)
    assert "\n  'ants' (7 images) is unknown; did you mean ant?" in str(error)
    assert "\n  'tensh' (1 image, such as 'd/tensh/1.jpg') is unknown; did you mean tench" in str(error)
    assert "--ignore-unknown" in str(error.hint)
    assert "--map FILE" in str(error.hint)


def test_a_long_list_of_names_is_cut() -> None:
    error = error_of(*(f"d/nothing {number:02}/1.jpg" for number in range(14)), "d/tench/1.jpg")
    assert str(error).count("is unknown") == 10
    assert str(error).endswith("and 4 more, with 4 images")


def test_names_in_errors_are_printable_and_quoted_as_a_map_needs_it() -> None:
    error = error_of("d/a\x1b[31m/1.jpg", labels=own("b"))
    assert str(error).replace("\n", "").isprintable()
    assert str(error.hint).isprintable()
    assert 'such as "dogs, all",dog;' in str(
        error_of("d/dogs, all/1.jpg", "d/dog/2.jpg", labels=own("dog")).hint
    ).replace("CLASS", "dog")


def test_unknown_names_can_be_left_out() -> None:
    sources = ["d/tench/1.jpg", "d/zzz/1.jpg", "d/zzz/2.jpg", "3.jpg"]
    truth = find_truth(IMAGENET, sources, ignore_unknown=True)
    assert [indices(truth, source) for source in sources] == [{TENCH}, None, None, None]
    assert truth.ignored == {"zzz": 2}
    assert truth.without_truth == 1
    assert truth.num_images == 1
    with pytest.raises(UsageError, match="none of the images"):
        truth.class_of("d/never/1.jpg")
    assert "no image has a truth" in str(error_of("d/zzz/1.jpg", ignore_unknown=True))
    assert "can mean" in str(error_of("d/tench/1.jpg", "d/crane/1.jpg", ignore_unknown=True))


def test_images_without_a_folder_are_listed() -> None:
    error = error_of("d/tench/1.jpg", *(f"{number}.jpg" for number in range(7)))
    assert "7 of 8 images have no truth" in str(error)
    assert "'0.jpg', '1.jpg', '2.jpg', '3.jpg', '4.jpg' and 2 more" in str(error)
    assert "no folder" in str(error_of("https://host.org/b.jpg", truth="folders"))


def test_numbers_that_count_from_one_are_not_taken() -> None:
    error = error_of("d/1/a.jpg", "d/2/a.jpg", "d/3/a.jpg", labels=own("a", "b", "c"))
    assert "'3'" in str(error)
    assert "class indices count from 0" in str(error.hint)


# Which folder


def test_a_higher_folder_counts_if_no_nearest_one_does_and_all_images_agree() -> None:
    truth = find_truth(IMAGENET, ["d/tench/a/1.jpg", "d/goldfish/b/1.jpg"])
    assert [indices(truth, source) for source in ("d/tench/a/1.jpg", "d/goldfish/b/1.jpg")] == [{TENCH}, {GOLDFISH}]
    assert truth.how == "the name of the folder above each image's folder"


def test_levels_are_never_mixed() -> None:
    assert "'b'" in str(error_of("d/tench/1.jpg", "d/goldfish/b/1.jpg"))
    assert "'b'" in str(error_of("d/tench/a/1.jpg", "d/goldfish/b/c/1.jpg", "d/tench/b/1.jpg"))


def test_the_folder_of_the_whole_data_set_is_no_class() -> None:
    assert "'a'" in str(error_of("screen/a/1.jpg", "screen/b/1.jpg"))


def test_the_nearest_folder_comes_first() -> None:
    assert find("screen/tench/1.jpg", "mask/goldfish/1.jpg") == [{TENCH}, {GOLDFISH}]


def test_numbered_parts_of_classes_are_not_class_indices() -> None:
    error = error_of("d/tench/1/a.jpg", "d/goldfish/2/a.jpg")
    assert "unclear" in str(error)
    assert "'1' (goldfish)" in str(error)
    assert "'tench' (tench)" in str(error)


# Names of files


def test_wnids_at_the_beginning_of_file_names() -> None:
    sources = ["s/n01440764_tench.JPEG", "s/n02099601_10026.JPEG", "s/n01443537.png", "n01440764_2.gif#3"]
    truth = find_truth(IMAGENET, sources)
    assert [indices(truth, source) for source in sources] == [{TENCH}, {GOLDEN}, {GOLDFISH}, {TENCH}]
    assert truth.how == "the wnid at the beginning of each file's name"
    assert find_truth(IMAGENET, sources, truth="names").counts == truth.counts


def test_a_file_without_wnid_among_others_is_an_error_or_left_out() -> None:
    sources = ("samples/n01440764_tench.JPEG", "samples/bobby.jpg")
    error = error_of(*sources)
    assert "1 of 2 images has no truth" in str(error)
    assert "'samples/bobby.jpg'" in str(error)
    truth = find_truth(IMAGENET, sources, ignore_unknown=True)
    assert (truth.without_truth, truth.num_images, truth.class_of(sources[1])) == (1, 1, None)


def test_folder_and_file_may_agree() -> None:
    assert find("t/n01440764/n01440764_18.JPEG", "t/tench/n01440764_19.JPEG") == [{TENCH}, {TENCH}]


def test_folder_and_file_that_contradict_each_other_are_an_error_until_one_is_chosen() -> None:
    source = "screen/n01440764_tench.JPEG"
    error = error_of(source)
    assert "'screen' (screen)" in str(error)
    assert "'n01440764' (tench)" in str(error)
    assert find(source, truth="folders") == [{782}]
    assert find(source, truth="names") == [{TENCH}]


def test_ways_that_each_tell_a_part_are_an_error() -> None:
    error = error_of("tench/a.jpg", "x/n01440764_tench.JPEG")
    assert "1 of 2 images" in str(error)
    assert "--truth folders or --truth names" in str(error.hint)


def test_a_group_as_folder_does_not_hide_the_wnids() -> None:
    assert find("dog/n02099601_1.JPEG") == [{GOLDEN}]


def test_both_ways_are_named_if_neither_tells_anything() -> None:
    error = error_of("photos/a.jpg")
    assert "no file name begins with a wnid" in str(error)
    assert "--truth FILE" in str(error.hint)
    assert "'photos'" in str(error)


def test_wnids_need_not_be_wnids() -> None:
    # A label set without wnids, and files that were named by another one.
    assert find("cat/n02123045_1.jpg", labels=own("dog", "cat")) == [{1}]


def test_no_images_is_an_error() -> None:
    with pytest.raises(NoImagesError):
        find_truth(IMAGENET, [])


# Maps


def test_a_map_gives_nodes_classes_and_any_of_several(tmp_path: Path) -> None:
    lines = "name,class\ndog,dog\nfish,tench\nfish,n01443537\npet,207\nauto_mobile,n02958343\n"
    sources = ["d/dog/1.jpg", "d/fish/1.jpg", "d/pet/1.jpg", "d/Auto-Mobile/1.jpg", "d/goldfish/1.jpg"]
    truth = find_truth(IMAGENET, sources, map_file=map_file(tmp_path, lines))
    dogs, fish, pet, cars, goldfish = (indices(truth, source) for source in sources)
    assert dogs is not None
    assert set(range(151, 269)) == dogs  # ImageNet's dogs
    assert fish == {TENCH, GOLDFISH}
    assert pet == {GOLDEN}
    assert cars is not None
    assert {817, 436} <= cars  # sports car, beach wagon
    assert goldfish == {GOLDFISH}
    by_name = {each.name: each for each in truth.classes}
    assert by_name["dog"].is_node
    assert by_name["dog"].wnid == "n02084071"
    assert by_name["fish"].is_node
    assert by_name["fish"].wnid is None
    assert not by_name["pet"].is_node


def test_a_map_replaces_what_a_name_would_mean(tmp_path: Path) -> None:
    assert find("d/plane/1.jpg", map_file=map_file(tmp_path, "plane,airliner\n")) == [{404}]


def test_a_map_serves_wnids_of_file_names(tmp_path: Path) -> None:
    assert find("d/n99999999_1.jpg", map_file=map_file(tmp_path, "n99999999,tench\n")) == [{TENCH}]


@pytest.mark.parametrize(
    "text", ["class;name\ntench;fish\n", "\ufefffolder\tlabel\r\nfish\ttench\r\n", '"fish","tench"\n\n']
)
def test_forms_of_maps(tmp_path: Path, text: str) -> None:
    assert find("d/fish/1.jpg", map_file=map_file(tmp_path, text)) == [{TENCH}]


def test_names_of_the_map_that_no_image_has_are_told(tmp_path: Path) -> None:
    truth = find_truth(IMAGENET, ["d/fish/1.jpg"], map_file=map_file(tmp_path, "fish,tench\nship,ship\n"))
    assert truth.unused_map_names == ("ship",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fish,tench\nfish,tensh\n", "line 2: 'tensh' is no class of imagenet1k; did you mean tench"),
        ("fish,crane\n", "line 1: 'crane' can mean 2 things"),
        ("fish,1000\n", "line 1: '1000' is no class"),
        ("fish,tench,1\n", "line 1 has 3 columns, not a name and a class"),
        ("fish,\n", "line 1 has no class"),
        ("name,class\n,tench\n", "line 2 has no name"),
        ("name,class\n", "has no lines"),
        ("", "has no lines"),
        ("cat,cat\ndog,dog\n", "is for other names: it has 'cat', 'dog', and the images have 'fish'"),
    ],
)
def test_errors_of_maps(tmp_path: Path, text: str, message: str) -> None:
    assert message in str(error_of("d/fish/1.jpg", map_file=map_file(tmp_path, text)))


def test_a_map_with_a_label_of_two_classes_is_an_error(tmp_path: Path) -> None:
    error = error_of("d/a/1.jpg", labels=own("crane", "crane"), map_file=map_file(tmp_path, "a,crane\n"))
    assert "is the label of 2 classes: 0, 1" in str(error)


def test_a_map_that_does_not_exist() -> None:
    assert "the map file 'nowhere.csv' does not exist" in str(error_of("d/a/1.jpg", map_file="nowhere.csv"))


# Never by order

WORDS = ["tench", "gold fish", "Crane", "boa", "7", "0", "big-cat", "x y z", "Owl", "n01440764"]


@settings(max_examples=60)
@given(
    chosen=st.lists(st.sampled_from(WORDS), min_size=2, unique=True),
    seed=st.integers(0, 2**32),
    folders=st.lists(st.sampled_from([*WORDS, "gold_fish", "CRANE", "owl", "nothing"]), min_size=1, max_size=8),
)
def test_no_order_changes_the_label_of_an_image(chosen: list[str], seed: int, folders: list[str]) -> None:
    """Only names that are numbers, and no label, mean another class if the classes are in another order."""
    names = [each for each in folders if not each.isdecimal() or each in chosen]
    sources = [f"d/{name}/{number}.jpg" for number, name in enumerate(names)]

    def labels_of(labels: list[str], listed: list[str]) -> dict[str, str | None] | str:
        label_set = own(*labels)
        try:
            truth = find_truth(label_set, listed, ignore_unknown=True)
        except (UsageError, NoImagesError) as error:
            return type(error).__name__
        found = {source: indices(truth, source) for source in listed}
        return {source: label_set[min(each)].label if each else None for source, each in found.items()}

    expected = labels_of(chosen, sources)
    shuffler = random.Random(seed)
    other_labels = shuffler.sample(chosen, len(chosen))
    other_sources = shuffler.sample(sources, len(sources))
    assert labels_of(other_labels, other_sources) == expected
    # An independent rule for what is found.
    plain = {each.casefold().replace("-", " "): each for each in chosen}
    if isinstance(expected, dict):
        for source, label in expected.items():
            assert label == plain.get(source.split("/")[1].casefold().replace("_", " ").replace("-", " "))


@settings(max_examples=30)
@given(st.permutations(["d/tench/1.jpg", "d/n01440764/2.jpg", "d/goldfish/3.jpg", "d/7/4.jpg"]))
def test_the_document_does_not_depend_on_the_order_of_the_sources(sources: list[str]) -> None:
    assert find_truth(IMAGENET, sources).to_dict() == find_truth(IMAGENET, sorted(sources)).to_dict()
