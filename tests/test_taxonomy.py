"""The taxonomy over a label set: WordNet's, against a literal walk over the file of the tree."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclassify import labels
from imgclassify.errors import UsageError
from imgclassify.labels import Label, LabelSet
from imgclassify.labels.taxonomy import Taxonomy, wordnet_taxonomy

ROWS = {
    row["wnid"]: row
    for row in csv.DictReader(
        (Path(__file__).parent.parent / "labels" / "imagenet1k.tree.tsv").read_text("utf-8").splitlines(),
        delimiter="\t",
        quoting=csv.QUOTE_NONE,
    )
}
IMAGENET = labels.load_labels("imagenet1k")
TAXONOMY = wordnet_taxonomy(IMAGENET)
CLASSES = st.integers(0, 999)


@cache
def is_under(wnid: str, node: str) -> bool:
    return wnid == node or any(is_under(parent, node) for parent in ROWS[wnid]["parents"].split("|") if parent)


def words(taxonomy: Taxonomy, class_index: int) -> list[str]:
    return [taxonomy.nodes[position].label for position in taxonomy.chains[class_index]]


@given(CLASSES)
def test_a_chain_is_what_a_literal_walk_over_the_first_hypernyms_says(class_index: int) -> None:
    wnid = IMAGENET[class_index].wnid or ""
    expected = []
    lineage = [wnid]
    while parents := ROWS[wnid]["parents"]:
        wnid = parents.split("|")[0]
        lineage.append(wnid)
        if ROWS[wnid]["said"]:
            expected.append((wnid, ROWS[wnid]["said"]))
    chain = [TAXONOMY.nodes[position] for position in TAXONOMY.chains[class_index]]
    assert [(node.wnid, node.label) for node in chain] == expected
    assert TAXONOMY.lineage(TAXONOMY.class_keys[class_index]) == lineage


@given(CLASSES)
def test_under_the_nodes_of_a_chain_are_all_classes_that_any_way_leads_to(class_index: int) -> None:
    below = {class_index}
    for position in TAXONOMY.chains[class_index]:
        node = TAXONOMY.nodes[position]
        assert node.wnid
        members = TAXONOMY.members(position)
        assert members.tolist() == [
            label.class_index for label in IMAGENET.labels if label.wnid and is_under(label.wnid, node.wnid)
        ]
        assert node.num_classes == members.size
        assert below <= set(members.tolist())  # so that sums grow
        below = set(members.tolist())
    assert len(below) < 1000


def test_no_class_of_imagenet_lies_under_another() -> None:
    wnids = {label.wnid for label in IMAGENET.labels}
    assert not wnids & {parent for row in ROWS.values() for parent in row["parents"].split("|")}


@pytest.mark.parametrize(
    ("name", "chain"),
    [
        ("golden retriever", ["retriever", "gun dog", "hunting dog", "dog", "canine", "mammal", "animal"]),
        ("tabby", ["domestic cat", "cat", "feline", "mammal", "animal"]),
        ("snail", ["mollusk", "invertebrate", "animal"]),
        ("jeep", ["car", "motor vehicle", "wheeled vehicle", "vehicle"]),
        ("volcano", ["mountain", "geological formation"]),
        ("bubble", []),  # only "sphere", "shape" and the like are above it
    ],
)
def test_chains_have_words_that_people_say(name: str, chain: list[str]) -> None:
    class_index = next(label.class_index for label in IMAGENET.labels if label.label == name)
    assert words(TAXONOMY, class_index) == chain


def test_no_node_is_said_by_the_label_of_a_class_that_is_elsewhere() -> None:
    classes = {label.label: label.class_index for label in IMAGENET.labels}
    elsewhere = {
        node.label
        for node in TAXONOMY.nodes
        if node.label in classes and classes[node.label] not in node.class_indices
    }
    assert elsewhere == {"amphibian"}  # the class is a vehicle, and frogs have no other name in common


def test_a_node_above_all_classes_is_the_root() -> None:
    dogs = LabelSet("dogs", tuple(Label(i, IMAGENET[151 + i].wnid, f"dog {i}") for i in range(118)))
    taxonomy = wordnet_taxonomy(dogs)
    assert "dog" not in {node.label for node in taxonomy.nodes}
    assert words(taxonomy, 207 - 151) == ["retriever", "gun dog", "hunting dog"]
    assert all(node.num_classes < 118 for node in taxonomy.nodes)


def test_a_class_above_other_classes_is_a_node_too() -> None:
    few = LabelSet("few", (Label(0, "n02084071", "any dog"), Label(1, "n02099601", "golden"), Label(2, None, "x")))
    with pytest.raises(UsageError, match="above class 2, 'x', of few: it has no wnid"):
        wordnet_taxonomy(few)
    few = LabelSet("few", (*few.labels[:2], Label(2, "n02123045", "tabby")))
    taxonomy = wordnet_taxonomy(few)
    assert words(taxonomy, 0) == ["dog", "canine"]
    assert [taxonomy.members(position).tolist() for position in taxonomy.chains[0]] == [[0, 1], [0, 1]]
    assert words(taxonomy, 1)[-2:] == ["dog", "canine"]


def test_a_class_outside_the_tree_is_named() -> None:
    unknown = LabelSet("own.txt", (Label(0, "n02084071", "dog"), Label(1, "n99999999", "new")))
    with pytest.raises(UsageError, match=r"class 1, 'new', of own.txt: n99999999 is not in the WordNet") as caught:
        wordnet_taxonomy(unknown)
    assert "--tree FILE" in str(caught.value.hint)


def test_arrays_of_members_are_made_once() -> None:
    assert TAXONOMY.members(0) is TAXONOMY.members(0)
    assert TAXONOMY.members(0).dtype == np.intp


def test_heights_are_the_longest_ways_down() -> None:
    below: dict[str, set[str]] = {}
    for wnid in (label.wnid or "" for label in IMAGENET.labels):
        while parents := ROWS[wnid]["parents"]:
            below.setdefault(parents.split("|")[0], set()).add(wnid)
            wnid = parents.split("|")[0]

    def height(wnid: str) -> int:
        return max((1 + height(each) for each in below.get(wnid, ())), default=0)

    assert TAXONOMY.heights == {
        wnid: height(wnid) for wnid in {*below, *(label.wnid or "" for label in IMAGENET.labels)}
    }
