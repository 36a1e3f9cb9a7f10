"""The WordNet tree, the classes that names stand for, and groups of classes."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from imgclassify import labels
from imgclassify.classifier import Classifier
from imgclassify.engines.activation import softmax
from imgclassify.errors import UnknownClassError, UsageError
from imgclassify.labels import Label, LabelSet
from imgclassify.labels.class_names import ClassNames
from imgclassify.labels.class_tree import build_class_tree
from imgclassify.labels.grouping import group_classes
from imgclassify.labels.tree import ROOT, load_tree

CHECKOUT = Path(__file__).resolve().parent.parent
DOG, CAT, BIRD = "n02084071", "n02121620", "n01503061"


@pytest.fixture(scope="module")
def imagenet1k() -> LabelSet:
    return labels.load_labels("imagenet1k")


@pytest.fixture(scope="module")
def names(imagenet1k: LabelSet) -> ClassNames:
    return ClassNames(imagenet1k)


# The tree


def test_the_tree_agrees_with_the_label_set_that_comes_from_another_copy_of_wordnet(imagenet1k: LabelSet) -> None:
    tree = load_tree()
    for label in imagenet1k.labels:
        assert label.wnid
        assert (tree[label.wnid].synonyms, tree[label.wnid].gloss) == (label.synonyms, label.gloss)


def test_every_node_lies_under_the_root_and_above_a_class(imagenet1k: LabelSet) -> None:
    tree = load_tree()
    wnids = [label.wnid for label in imagenet1k.labels if label.wnid]
    assert tree.under(ROOT) == tree.nodes.keys()
    assert tree.above(wnids) == tree.nodes.keys()
    assert [node.wnid for node in tree.nodes.values() if not node.parents] == [ROOT]


def test_nodes_are_said_by_a_synonym_of_theirs_if_they_tell_classes_apart(imagenet1k: LabelSet) -> None:
    tree = load_tree()
    wnids = {label.wnid for label in imagenet1k.labels}
    said = [node for node in tree.nodes.values() if node.said]
    assert all(node.said in node.synonyms for node in said)
    assert all(1 < len(tree.under(node.wnid) & wnids) < 1000 for node in said)
    assert tree[DOG].said == "dog"
    assert tree["n02370806"].said == "hoofed mammal"  # its first synonym is "ungulate"
    assert not any(tree[wnid].said for wnid in (ROOT, "n01886756", "n03575240"))  # placental, instrumentality


def test_the_tool_reads_wordnets_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = importlib.import_module("make_tree")
    # Lines of WordNet 3.0's data.noun, shortened; the first ones are its licence.
    (tmp_path / "data.noun").write_text(
        "  1 This software and database is being provided to you\n"
        "00001740 03 n 01 entity 0 001 ~ 00015388 n 0000 | that which is perceived  \n"
        "00015388 05 n 02 animal 0 animate_being 0 002 @ 00001740 n 0000 ~ 02084071 n 0000 | a living organism  \n"
        "01317541 05 n 01 domestic_animal 0 001 @ 00015388 n 0000 | any of various animals  \n"
        "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 003 @ 00015388 n 0000 @ 01317541 n 0000 "
        '#m 00015388 n 0000 | a member of the genus Canis; "the dog barked all night"  \n'
        "02121620 05 n 01 cat 0 001 @ 00015388 n 0000 | feline mammal  \n"
        "09999999 05 n 01 stranger 0 001 @ 00015388 n 0000 | nothing that is asked for  \n"
    )
    pets = LabelSet("pets", (Label(0, DOG, "dog"), Label(1, CAT, "cat")))
    monkeypatch.setattr(tool, "load_labels", lambda _: pets)
    unsaid = "# why\nn00001740 entity  # because\n\nn00015388 animal = animate being\n"
    rows = [line.split("\t") for line in tool.tree(tmp_path / "data.noun", unsaid).splitlines()]
    assert rows == [
        ["wnid", "parents", "synonyms", "said", "gloss"],
        ["n00001740", "", "entity", "", "that which is perceived"],
        ["n00015388", "n00001740", "animal|animate being", "animate being", "a living organism"],
        ["n01317541", "n00015388", "domestic animal", "", "any of various animals"],
        [DOG, "n00015388|n01317541", "dog|domestic dog|Canis familiaris", "", "a member of the genus Canis"],
        [CAT, "n00015388", "cat", "", "feline mammal"],
    ]
    for wrong in (
        "n00015388 animate being",  # not the usual name
        "n00015388 animal = beast",  # not a synonym
        "n00001740 entity\nn00001740 entity",
        "n01317541 domestic animal",  # on no chain of first hypernyms
        f"{DOG} dog",  # a class
    ):
        with pytest.raises(ValueError, match=f"line {wrong.count(chr(10)) + 1} is wrong"):
            tool.tree(tmp_path / "data.noun", wrong)
    target = tmp_path / "tree.tsv"
    monkeypatch.setattr(tool, "TARGET", target)
    monkeypatch.setattr(tool, "UNSAID", tmp_path / "unsaid.txt")
    (tmp_path / "unsaid.txt").write_text(unsaid)
    assert tool.main(["--wordnet", str(tmp_path), "--check"]) == 1
    assert not target.exists()
    assert tool.main(["--wordnet", str(tmp_path)]) == tool.main(["--wordnet", str(tmp_path), "--check"]) == 0


# Names


@pytest.mark.parametrize(
    ("text", "wnid", "indices"),
    [
        ("dog", DOG, range(151, 269)),
        ("Domestic Dog", DOG, range(151, 269)),
        (DOG, DOG, range(151, 269)),
        ("cat", CAT, [281, 282, 283, 284, 285, 286, 287]),  # not "big cat, cat"
        ("bird", BIRD, [*range(7, 25), *range(80, 101), *range(127, 147)]),
        ("golden retriever", "n02099601", [207]),
        ("n02099601", "n02099601", [207]),
        ("207", "n02099601", [207]),
        ("crane bird", "n02012849", [134]),
    ],
)
def test_a_name_stands_for_all_classes_under_its_node(
    text: str, wnid: str, indices: object, names: ClassNames
) -> None:
    found = names.find(text)
    assert (found.wnid, sorted(found.class_indices)) == (wnid, list(indices))  # type: ignore[call-overload]


@pytest.mark.parametrize("text", ["crane", "maillot", "car", "food"])
def test_a_name_with_several_meanings_is_asked_for(text: str, names: ClassNames) -> None:
    with pytest.raises(UsageError, match=f"'{text}' can mean 2 things: n0") as caught:
        names.find(text)
    assert caught.value.hint == "give the wnid instead"


@pytest.mark.parametrize("text", ["dogg", "n09999999", "1000", "", "-1"])
def test_an_unknown_name_is_an_error(text: str, names: ClassNames) -> None:
    with pytest.raises(UnknownClassError) as caught:
        names.find(text)
    assert ("did you mean dog" in str(caught.value.hint)) == (text == "dogg")


def test_own_labels_without_wnids_are_found_by_name_or_index() -> None:
    own = LabelSet("own", (Label(0, None, "Cat"), Label(1, None, "1"), Label(2, None, "cat ")))
    assert ClassNames(own).find("cat").class_indices == {0}
    assert ClassNames(own).find("2").class_indices == {2}
    assert ClassNames(own).find("1").class_indices == {1}
    with pytest.raises(UnknownClassError):
        ClassNames(own).find("animal")


def test_a_node_is_refused_if_it_is_not_known_what_lies_under_it() -> None:
    own = LabelSet("own", (Label(0, "n02099601", "golden retriever"), Label(1, None, "my mongrel")))
    assert ClassNames(own).find("golden retriever").class_indices == {0}
    with pytest.raises(UsageError, match="class 1, 'my mongrel', has no wnid"):
        ClassNames(own).find("dog")


def test_the_tree_of_a_label_set_holds_its_classes(imagenet1k: LabelSet) -> None:
    root = build_class_tree(imagenet1k, "dog")
    assert (root.wnid, root.num_classes) == (DOG, 118)
    leaves = {branch.class_index for _, branch in root.walk() if branch.class_index is not None}
    assert leaves == set(range(151, 269))
    assert all(branch.num_classes == 1 for _, branch in root.walk() if not branch.children)
    shallow = build_class_tree(imagenet1k, "dog", depth=1)
    assert {level for level, _ in shallow.walk()} == {0, 1}
    few = LabelSet("few", (Label(0, "n02099601", "golden"), Label(1, "n02123045", "tabby")))
    assert build_class_tree(few, "animal").num_classes == 2
    with pytest.raises(UsageError, match="the labels of own have no place in the WordNet tree"):
        build_class_tree(LabelSet("own", (Label(0, None, "tabby"),)), "tabby")


# Groups


def test_groups_sum_to_one_and_the_rest_is_other(imagenet1k: LabelSet) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(1000, 0.05)).astype(np.float32)
    grouping = group_classes(imagenet1k, f"dog,cat,feathered={BIRD},drink=cup+espresso")
    assert [(each.class_index, each.label, each.wnid) for each in grouping.labels.labels] == [
        (0, "dog", DOG),
        (1, "cat", CAT),
        (2, "feathered", BIRD),
        (3, "drink", None),
        (4, "other", None),
    ]
    sums = grouping.sum_probabilities(probabilities)
    exact = probabilities.astype(np.float64)
    birds = [*range(7, 25), *range(80, 101), *range(127, 147)]
    expected = [exact[151:269].sum(), exact[281:288].sum(), exact[birds].sum(), exact[967] + exact[968]]
    np.testing.assert_allclose(sums, [*expected, 1 - sum(expected)], rtol=1e-6)
    assert sums.dtype == np.float32


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("dog,hound", "class 160, 'Afghan hound', is in two groups, 'dog' and 'hound'"),
        ("dog,nonsense", "'nonsense'"),
        ("crane", "can mean 2 things"),
        ("other=dog", "'other' is the group of all other classes"),
        ("dog,", "without a name"),
        ("=dog", "without a name"),
        ("pet=dog+", "without a name"),
        ("missing.csv", "'missing.csv' does not exist"),
    ],
)
def test_wrong_groups_are_errors(groups: str, words: str, imagenet1k: LabelSet) -> None:
    with pytest.raises(UsageError) as caught:
        group_classes(imagenet1k, groups)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "class,group\ndog,animal\ncat,animal\n968,drink\nespresso,drink\n",
        "\ufeffdog\tanimal\r\ncat\tanimal\r\nn07920052\tdrink\r\ncup\tdrink\r\n",
        '"dog", animal\n\ncat,animal\nespresso,drink\ncup,drink',
        "class;group\ndog;animal\ncat;animal\nespresso;drink\ncup;drink\n",
    ],
)
def test_groups_are_read_from_a_file(text: str, tmp_path: Path, imagenet1k: LabelSet) -> None:
    path = tmp_path / "bins"
    path.write_text(text, encoding="utf-8", newline="")
    expected = group_classes(imagenet1k, {"animal": ["dog", "cat"], "drink": ["espresso", "cup"]})
    assert group_classes(imagenet1k, path).to_list() == expected.to_list()
    assert group_classes(imagenet1k, str(path)).to_list() == expected.to_list()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dog\n", "line 1 has 1 columns"),
        ("dog,animal,x\n", "line 1 has 3 columns"),
        ("taxon,bin\ndog,animal\n", "'taxon'"),  # a header that is not known is not skipped in silence
        ("", "there are no groups"),
    ],
)
def test_a_wrong_file_of_groups_is_an_error(text: str, words: str, tmp_path: Path, imagenet1k: LabelSet) -> None:
    path = tmp_path / "bins.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        group_classes(imagenet1k, path)
    assert words in str(caught.value)


def test_a_classifier_predicts_groups(photo: Path) -> None:
    plain = Classifier(top_k=1000)
    grouped = Classifier(groups="dog,cat", top_k=5)
    by_class = {each.class_index: each.probability for each in plain.predict(photo).predictions}
    expected = {
        "dog": sum(by_class[index] for index in range(151, 269)),
        "cat": sum(by_class[index] for index in range(281, 288)),
    }
    found = {each.label: each.probability for each in grouped.predict(photo).predictions}
    assert found == pytest.approx(expected | {"other": 1 - sum(expected.values())}, abs=1e-6)
    assert grouped.top_k == 3
    assert grouped.run.to_dict()["groups"][1] == {"label": "cat", "wnid": CAT, "class_indices": [*range(281, 288)]}
    assert "groups" not in plain.run.to_dict()


def test_the_groups_of_own_labels_need_no_wnids() -> None:
    own = LabelSet("own", tuple(Label(index, None, name) for index, name in enumerate("abcd")))
    grouping = group_classes(own, "vowel=a,consonant=b+c+d")
    probabilities = softmax(np.array([1.0, 2, 3, 4], np.float32))
    np.testing.assert_allclose(
        grouping.sum_probabilities(probabilities), [probabilities[0], 1 - probabilities[0]], rtol=1e-6
    )
    assert [label.label for label in grouping.labels.labels] == ["vowel", "consonant"]
