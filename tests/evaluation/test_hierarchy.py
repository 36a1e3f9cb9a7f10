"""Distances in the tree against a literal recursion, and the areas against a literal sweep of thresholds."""

from __future__ import annotations

import csv
import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgclassify import labels
from imgclassify.confidence.rollup import chain_values, climb
from imgclassify.evaluation.hierarchy import hierarchical_distances, rollup_areas, rollup_figures
from imgclassify.labels import Label, LabelSet
from imgclassify.labels.taxonomy import wordnet_taxonomy
from imgclassify.labels.taxonomy_file import read_taxonomy
from imgclassify.labels.tree import load_tree
from imgclassify.results import Answer

IMAGENET = labels.load_labels("imagenet1k")
TAXONOMY = wordnet_taxonomy(IMAGENET)
INDEX = {label.label: label.class_index for label in reversed(IMAGENET.labels)}
CLASSES = st.integers(0, 999)

FIRST_PARENT: dict[str, str] = {}
SAID: dict[str, str] = {}
CHILDREN: dict[str, list[str]] = {}


def _read_tree() -> None:
    path = Path(__file__).parents[2] / "labels" / "imagenet1k.tree.tsv"
    rows = csv.DictReader(path.read_text("utf-8").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    for row in rows:
        FIRST_PARENT[row["wnid"]] = row["parents"].split("|")[0]
        SAID[row["wnid"]] = row["said"]
    wnids = {label.wnid or "" for label in IMAGENET.labels}
    while wnids:  # only what is above a class
        for wnid in wnids:
            CHILDREN.setdefault(FIRST_PARENT[wnid], []).append(wnid)
        wnids = {FIRST_PARENT[wnid] for wnid in wnids} - {""}


_read_tree()


@cache
def height(wnid: str) -> int:
    return max((1 + height(child) for child in CHILDREN.get(wnid, ())), default=0)


def ancestors(wnid: str) -> list[str]:
    return [wnid, *ancestors(FIRST_PARENT[wnid])] if wnid else []


@given(st.lists(st.tuples(CLASSES, CLASSES), min_size=1, max_size=20))
def test_the_distance_is_the_height_of_the_lowest_common_ancestor(pairs: list[tuple[int, int]]) -> None:
    distances = hierarchical_distances(pairs + pairs, TAXONOMY)
    assert distances[: len(pairs)] == distances[len(pairs) :]
    for (truth, answer), distance in zip(pairs, distances, strict=False):
        one, other = (ancestors(IMAGENET[index].wnid or "") for index in (truth, answer))
        common = [wnid for wnid in one if wnid in other]
        assert distance.height == min(height(wnid) for wnid in common) == height(common[0])
        if truth != answer:
            assert distance.label == next((SAID[wnid] for wnid in common if SAID[wnid]), None)
            assert (distance.label is None) == (distance.wnid is None)


def test_known_mistakes() -> None:
    pairs = [
        ("golden retriever", "golden retriever", 0, None),
        ("golden retriever", "Labrador retriever", 1, "retriever"),
        ("golden retriever", "Irish setter", None, "gun dog"),
        ("Tibetan terrier", "Chihuahua", None, "dog"),
        ("tabby", "golden retriever", None, "mammal"),
        ("goldfish", "ostrich", None, "animal"),
        ("goldfish", "sports car", None, None),
        ("bubble", "goldfish", 18, None),
    ]
    found = hierarchical_distances([(INDEX[truth], INDEX[answer]) for truth, answer, *_ in pairs], TAXONOMY)
    for (truth, answer, expected, label), distance in zip(pairs, found, strict=True):
        assert distance.label == label, (truth, answer)
        assert expected is None or distance.height == expected, (truth, answer)
    assert [each.height for each in found[:6]] == sorted(each.height for each in found[:6])


def test_the_truth_may_be_a_node() -> None:
    dog, domestic_animal, cat = "n02084071", "n01317541", "n02121620"
    retriever, tabby = INDEX["golden retriever"], INDEX["tabby"]
    right, by_another_way, wrong, node = hierarchical_distances(
        [(dog, retriever), (domestic_animal, retriever), (dog, tabby), (cat, retriever)], TAXONOMY
    )
    assert right == by_another_way == (0, None, None)
    assert wrong == node
    assert wrong.label == "mammal"
    assert wrong.height == height("n02075296")  # carnivore, which is not said
    with pytest.raises(KeyError):
        hierarchical_distances([("n99999999", 0)], TAXONOMY)


def test_distances_in_a_tree_of_the_users_own(tmp_path: Path) -> None:
    own = LabelSet("own", tuple(Label(index, None, name) for index, name in enumerate("abcde")))
    path = tmp_path / "tree.csv"
    path.write_text("class,parent\na,x\nb,x\nx,y\nc,y\nd,z\n")
    taxonomy = read_taxonomy(path, own)
    pairs = [(0, 0), (0, 1), (0, 2), (2, 1), (0, 3), (3, 4), (4, 0)]
    assert [each[:2] for each in hierarchical_distances(pairs, taxonomy)] == [
        (0, None),
        (1, "x"),
        (2, "y"),
        (2, "y"),
        (3, None),
        (3, None),
        (3, None),
    ]


def example(seed: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities that are often wrong, and often among the relatives of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 1000, count)
    logits = rng.normal(size=(count, 1000))
    logits[np.arange(count), truth] += rng.normal(5, 3, count)
    for row, index in zip(logits, truth, strict=True):
        if chain := TAXONOMY.chains[index]:
            row[TAXONOMY.members(chain[0])] += rng.normal(3, 2)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32), truth


def open_classes(answer: Answer) -> int:
    """How many classes the answer leaves open."""
    if answer.kind == "rollup":
        return TAXONOMY.by_key[answer.wnid or ""].num_classes
    return 1 if answer.kind == "leaf" else 1000


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_figures_count_what_climbing_answers(seed: int, at_least: float) -> None:
    probabilities, truth = example(seed, 10)
    (figures,) = rollup_figures(chain_values(probabilities, truth, TAXONOMY), [at_least])
    answers = [climb(row, TAXONOMY, at_least) for row in probabilities]
    assert figures.num_images == 10
    assert figures.num_leaves == sum(answer.kind == "leaf" for answer in answers)
    assert figures.num_unsure == sum(answer.kind == "unsure" for answer in answers)
    assert figures.num_wrong == sum(
        answer.kind != "unsure" and IMAGENET[right].wnid not in _under(answer.wnid or "")
        for answer, right in zip(answers, truth, strict=True)
    )
    assert figures.bits == pytest.approx(np.mean([math.log2(1000 / open_classes(answer)) for answer in answers]))


def _under(wnid: str) -> frozenset[str]:
    return load_tree().under(wnid)


def literal_area(points: list[tuple[float, float]]) -> float:
    return sum((before - after) * (high + low) / 2 for (before, high), (after, low) in pairwise(points))


@pytest.mark.parametrize("seed", range(5))
def test_the_areas_are_those_of_a_sweep_over_all_thresholds(seed: int) -> None:
    probabilities, truth = example(seed, 40)
    # Ties, and certainty that is wrong.
    probabilities[1] = probabilities[0]
    probabilities[2:4] = np.eye(1000, dtype=np.float32)[[(truth[2] + 1) % 1000, truth[3]]]
    values = chain_values(probabilities, truth, TAXONOMY)
    sums = values.probabilities[np.isfinite(values.probabilities)]
    rollup, refusal = [], []
    for threshold in [0.0, *np.nextafter(np.unique(sums), 9)]:
        risk = coverage = leaf_risk = leaf_coverage = 0.0
        for row, right in zip(probabilities, truth, strict=True):
            answer = climb(row, TAXONOMY, threshold) if threshold <= 1 else None
            if answer and answer.kind != "unsure":
                coverage += 1 - math.log(open_classes(answer)) / math.log(1000)
                risk += IMAGENET[right].wnid not in _under(answer.wnid or "")
            if row.max() >= threshold:
                leaf_coverage += 1
                leaf_risk += bool(row.argmax() != right)
        rollup.append((coverage / 40, risk / 40))
        refusal.append((leaf_coverage / 40, leaf_risk / 40))
    areas = rollup_areas(values)
    assert areas.rollup == pytest.approx(literal_area(rollup), abs=1e-12)
    assert areas.refusal == pytest.approx(literal_area(refusal), abs=1e-12)
    assert rollup[0] == refusal[0]
    assert rollup[-1] == (0, 0)
