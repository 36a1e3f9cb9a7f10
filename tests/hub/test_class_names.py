"""Class names in every spelling in which programs write them, and what is not taken for class names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imgclassify.hub.class_names import find_class_names, parse_class_names
from imgclassify.labels import load_labels

ANIMALS = ["cat", "dog", "emu"]
FORMS: dict[str, Any] = {
    "list": ANIMALS,
    "tuple": tuple(ANIMALS),
    "names to indices": {"emu": 2, "cat": 0, "dog": 1},
    "indices to names": {2: "emu", 0: "cat", 1: "dog"},
    "texts of indices to names": {"2": "emu", "0": "cat", "1": "dog"},
    "JSON list": json.dumps(ANIMALS),
    "JSON object": json.dumps({"0": "cat", "1": "dog", "2": "emu"}),
    "JSON object of indices": json.dumps({"emu": 2, "cat": 0, "dog": 1}),
    "Python dict": "{0: 'cat', 1: 'dog', 2: 'emu'}",
    "Python list": "['cat', \"dog\", 'emu']",
    "Python tuple": "('cat', 'dog', 'emu')",
    "lines": "cat\ndog\r\nemu\n",
    "numbered lines": "0: cat\n1: dog\n2: emu",
    "commas": "cat, dog,emu",
    "commas at the end": "cat,dog,emu,",
    "semicolons": "cat;dog;emu",
    "bars": "cat | dog | emu",
    "quotes": "'cat', 'dog', 'emu'",
}


@pytest.mark.parametrize("form", FORMS)
def test_class_names_of_every_form_are_read(form: str) -> None:
    found = parse_class_names(FORMS[form])
    assert found is not None
    assert [(label.class_index, label.label) for label in found] == list(enumerate(ANIMALS))


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "",
        "labels.txt",
        "imagenet",
        [],
        [1, 2],
        ["cat", 3],
        ["cat", ""],
        {},
        {"cat": 1, "dog": 2},
        {"cat": 0, "dog": 0},
        {"cat": 0, "dog": "x"},
        {"cat": True},
        "{'cat': open('x')}",
        "cat,,dog",
        "[" * 10_000,
        "x," * 2**23,
    ],
    ids=repr and (lambda value: repr(value)[:20]),
)
def test_anything_else_is_no_class_names(value: Any) -> None:
    assert parse_class_names(value) is None


def test_wordnet_ids_get_the_names_of_imagenet() -> None:
    known = load_labels("imagenet1k").labels
    found = parse_class_names("n01443537\nn01440764")
    assert found is not None
    assert [(label.class_index, label.label, label.wnid) for label in found] == [
        (0, known[1].label, "n01443537"),
        (1, known[0].label, "n01440764"),
    ]
    other = parse_class_names(["n01440764", "n99999999"])
    assert other is not None
    assert [label.label for label in other] == [known[0].label, "n99999999"]


def test_the_likeliest_key_comes_first_whatever_its_case() -> None:
    values = {"labels": ["a", "b"], "Class_To_Idx": {"cat": 0}, "x.classes": "dog,emu", "vocab": 3}
    assert [key for key, _ in find_class_names(values)] == ["Class_To_Idx", "x.classes", "labels"]
