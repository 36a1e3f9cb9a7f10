"""Which classes two label sets share."""

from __future__ import annotations

import pytest

from imgclassify.labels import Label, LabelSet, load_labels
from imgclassify.labels.class_matching import match_classes


def label_set(*classes: str | tuple[str | None, str]) -> LabelSet:
    pairs = [(None, each) if isinstance(each, str) else each for each in classes]
    return LabelSet("some", tuple(Label(index, wnid, label) for index, (wnid, label) in enumerate(pairs)))


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (["cat", "dog"], ["cat", "dog"], {0: 0, 1: 1}),
        (["cat", "dog"], ["dog", "bird", "cat"], {0: 2, 1: 0}),
        (["cat", "dog"], ["bird"], {}),
        (["golden_retriever"], ["x", " Golden  Retriever "], {0: 1}),
        # wnids count more than labels
        ([("n00000001", "cat"), ("n00000002", "dog")], [("n00000002", "hound"), ("n00000003", "cat")], {1: 0}),
        ([("n00000001", "cat"), ("n00000002", "dog")], ["dog", "cat"], {0: 1, 1: 0}),
        ([("n00000001", "cat"), (None, "dog")], [("n00000001", "dog")], {0: 0}),
        # It is not known which crane is meant, unless all classes are the same.
        (["crane", "crane", "dog"], ["dog", "crane"], {2: 0}),
        (["crane"], ["crane", "crane"], {}),
        (["crane", "crane", "dog"], ["crane", "crane", "dog"], {0: 0, 1: 1, 2: 2}),
        ([("n00000001", "crane"), ("n00000002", "crane")], ["crane", "crane"], {0: 0, 1: 1}),
        (
            [("n00000001", "crane"), ("n00000002", "crane")],
            [("n00000002", "crane"), ("n00000001", "crane")],
            {0: 1, 1: 0},
        ),
    ],
)
def test_classes_are_the_same_by_wnid_else_by_label(
    first: list[str | tuple[str | None, str]], second: list[str | tuple[str | None, str]], shared: dict[int, int]
) -> None:
    assert match_classes(label_set(*first), label_set(*second)) == shared
    assert match_classes(label_set(*second), label_set(*first)) == {there: here for here, there in shared.items()}


def test_the_classes_of_imagenet_are_found_in_another_order_and_without_wnids() -> None:
    imagenet = load_labels("imagenet1k")
    backwards = label_set(*[(label.wnid, label.label) for label in reversed(imagenet.labels)])
    assert match_classes(imagenet, backwards) == {index: 999 - index for index in range(1000)}
    bare = label_set(*[label.label.upper() for label in imagenet.labels])
    assert match_classes(imagenet, bare) == {index: index for index in range(1000)}
