"""Label files as people have them: which column is the index, configurations, YAML, and what is no label file."""

import csv
import io
import itertools
import json
import logging
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclassify.errors import LabelsError
from imgclassify.labels import load_labels, parse_labels

ANIMALS = ["cat", "dog", "emu"]


def names(text: str) -> list[str]:
    return [label.label for label in parse_labels(text, "my.txt")]


def error_of(text: str) -> LabelsError:
    with pytest.raises(LabelsError) as caught:
        parse_labels(text, "my.txt")
    assert caught.value.hint
    return caught.value


def all_of(error: LabelsError) -> str:
    return f"{error} {error.hint}"


# A numbering from 0 beside text is the index

FORMS: dict[str, Callable[[object, str], str]] = {
    "index,name": "{0},{1}".format,
    "index; name": "{0}; {1}".format,
    "index: name": "{0}: {1}".format,
    "index tab name": "{0}\t{1}".format,
    "index name": "{0} {1}".format,
    "index  name": "{0}   {1}".format,
    "index. name": "{0}. {1}".format,
    "index) name": "{0}) {1}".format,
    "index - name": "{0} - {1}".format,
    "index|name": "{0}|{1}".format,
    "index=name": "{0}={1}".format,
    "name=index": "{1}={0}".format,
    "name - index": "{1} - {0}".format,
    "name -> index": "{1} -> {0}".format,
    "name,index": "{1},{0}".format,
    "name;index": "{1};{0}".format,
    "name: index": "{1}: {0}".format,
    "name tab index": "{1}\t{0}".format,
    "name index": "{1} {0}".format,
}
HEADERS = ["", "index{}name", "idx{}class", "{}class", "номер{}название", "Nr{}Klasse", "class{}label", "id{}title"]


def header_for(form: str, header: str) -> str:
    """The header in the form of the lines. A blank name needs a delimiter: a tab, comma or semicolon."""
    index, name = header.split("{}")
    return FORMS[form](index, name)


CASES = [
    (form, header)
    for form, header in itertools.product(FORMS, HEADERS)
    if not header.startswith("{}") or any(delimiter in FORMS[form](0, "") for delimiter in "\t,;")
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize(("form", "header"), CASES)
def test_a_numbering_beside_names_is_the_index_under_any_header_or_none(
    form: str, header: str, order: tuple[int, ...]
) -> None:
    lines = [FORMS[form](index, ANIMALS[index]) for index in order]
    lines = [header_for(form, header), *lines] if header else lines
    assert names("\n".join(lines) + "\n") == ANIMALS


labels_of_letters = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz éß-'", min_size=2, max_size=12)
    .map(lambda text: f"x{text}x")
    .map(lambda text: " ".join(text.split())),
    min_size=2,
    max_size=30,
    unique=True,
)


@settings(deadline=None)
@given(labels_of_letters, st.sampled_from(sorted(FORMS)), st.randoms())
def test_every_form_round_trips_in_any_order(labels: list[str], form: str, shuffler: random.Random) -> None:
    lines = [FORMS[form](index, label) for index, label in enumerate(labels)]
    shuffler.shuffle(lines)
    assert names("\n".join(lines)) == labels


@settings(deadline=None)
@given(
    labels_of_letters,
    st.sampled_from([",", "\t", ";"]),
    st.permutations(["number", "what", "mean", "wnid"]),
    st.randoms(),
)
def test_an_index_is_found_at_any_place_of_a_table(
    labels: list[str], delimiter: str, order: list[str], shuffler: random.Random
) -> None:
    """Written by the csv module, with labels that contain the delimiter, under names that say nothing."""
    rows = [
        {
            "number": str(index),
            "what": f"{label}{delimiter} {label}",
            "mean": f"0.{index}7",
            "wnid": f"n{index:08}",
        }
        for index, label in enumerate(labels)
    ]
    shuffler.shuffle(rows)
    header = {"number": "số", "what": "name", "mean": "mean", "wnid": "folder"}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerows([[row[name] for name in order] for row in [header, *rows]])
    found = parse_labels(buffer.getvalue(), "it")
    assert [label.label for label in found] == [f"{label}{delimiter} {label}" for label in labels]
    assert [label.wnid for label in found] == [f"n{index:08}" for index in range(len(labels))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class,label_id\ncat,0\nemu,2\ndog,1\n", ANIMALS),
        ("id,label,name\n17,1,dog\n23,0,cat\n9,2,emu\n", ANIMALS),  # the id is that of a database
        ("ClassId,ClassName,Remark\n1,dog,a\n0,cat,b\n", ANIMALS[:2]),
        ("0,cat,\n1,dog,\n", ANIMALS[:2]),
        ("cat,0,n02121620\ndog,1,n02084071\n", ANIMALS[:2]),
        ("n02084071 1 dog\nn02121620 0 cat\n", ANIMALS[:2]),
        ("0,cat,0\n1,dog,1\n", ANIMALS[:2]),  # row numbers, names, indices
        ("nr,soort\n1,tench, Tinca tinca\n0,goldfish\n", ["goldfish", "tench, Tinca tinca"]),
        ("tench, Tinca tinca,1\ngoldfish,0\n", ["goldfish", "tench, Tinca tinca"]),
        ('"tench, Tinca tinca",1\n"goldfish",0\n', ["goldfish", "tench, Tinca tinca"]),
        ("0 tench\n1 crane\n2 dog\n3 cat\n4 emu\n5 elk\n6 ox\n7 bat\n8 rat\n9 crane\n", None),
        ("maillot,0\ncat,2\nmaillot,1\n", ["maillot", "maillot", "cat"]),
        ('{"dog": "1", "cat": "0"}', ANIMALS[:2]),
        ('{"n02121620": "cat", "n02124075": "dog"}', ANIMALS[:2]),
        ('[["dog", 1], ["cat", 0]]', ANIMALS[:2]),
        ("[(1, 'dog'), (0, 'cat')]", ANIMALS[:2]),
        ('[{"title": "dog", "nr": 1}, {"title": "cat", "nr": 0}]', ANIMALS[:2]),
    ],
)
def test_other_files_with_an_index(text: str, expected: list[str] | None) -> None:
    assert names(text) == (expected or [line.split()[1] for line in text.splitlines()])


def test_a_column_that_only_its_numbers_make_the_index_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert names("naam;volgorde\nhond;1\nkat;0\n") == ["kat", "hond"]
    assert "my.txt: the column 'volgorde' is the class index" in caplog.text
    caplog.clear()
    assert names("id,name\n1,dog\n0,cat\n") == names(",name\n1,dog\n0,cat\n") == ["cat", "dog"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text",
    [
        "zone 0\nzone 1\nzone 2",
        "\n".join(sorted(f"class {number}" for number in range(12))),
        "\n".join(sorted(map(str, range(12)))),  # MNIST's folders
        "3\n1\n0\n2",
        "Boeing 737\nBoeing 747\nAirbus 320",
        "model 3\nmodel S",
        "0 dots\n1 dot\n2 dots",
        "class: 0\nclass: 1",
        "Portland, 9\nSalem, 3",
        "10 euro\n20 pounds\n5 yen",
        "1.5 l\n2.0 l\n0.5 l",
        "1-story house\n2-story house",
        "background\nzone 1\nplace 2",
        "room 0",
        "cat,dog,emu",
    ],
)
def test_numbers_that_belong_to_labels_stay(text: str) -> None:
    assert names(text) == text.split("\n")


# What is unclear is refused


@pytest.mark.parametrize(
    "text",
    [
        "0,0\n1,1\n10,2\n11,3\n2,4\n3,5\n4,6\n5,7\n6,8\n7,9\n8,10\n9,11\n",
        "0 48\n1 49\n2 50\n",  # EMNIST's mapping
        "0,10\n1,20\n2,30\n",
        "1: 0\n0: 1\n",
        "this,that\n1,0\n0,1\n",
        "label,class\n7,1\n3,0\n",
        "label,count\n3,90\n0,50\n1,40\n2,40\n",
    ],
)
def test_two_columns_of_numbers_without_a_header_that_tells_are_refused(text: str) -> None:
    error = error_of(text)
    assert "all columns are numbers: either may be the class index" in str(error)
    assert "header" in str(error.hint)


@pytest.mark.parametrize(
    "text",
    [
        "0,0\n2,2\n1,1\n",
        "index,label\n1,0\n2,2\n0,1\n",
        "name,x\n0,1\n2,2\n1,0\n",
        "class,class_id\n0,1\n2,2\n1,0\n",
    ],
)
def test_numbers_are_read_where_the_header_tells_or_both_columns_are_equal(text: str) -> None:
    assert sorted(names(text)) == ["0", "1", "2"]
    assert names(text) == (["0", "1", "2"] if text.startswith("0,0") else ["1", "0", "2"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zone 2\nzone 0\nzone 1", "may be the class index, or a part of the label"),
        ("1,cat,0\n0,dog,1", "columns 1 and 3 both number the classes, but in different orders"),
        (",name,place\n1,cat,0\n0,dog,1", "columns 1 and 3 both number the classes"),
        ("cat;1;Katze\ndog;0;Hund", "unclear which of 3 columns is the label"),
        ("Animals\n0,cat\n1,dog", "line 1 is 'Animals', without a class index"),
        ("0 cat\n1 dog\n3 emu", "class index 2 is missing: 3 classes have 0 to 2, but line 3 has 3"),
        ("cat,0\ndog,1\nemu,4", "class index 2 is missing"),
        ("idx,name\n0,cat\n2,dog", "class index 1 is missing: 2 classes have 0 to 1, but line 3 has 2"),
        ('{"n02121620": "cat", "n02084071": "dog"}', "its keys are wnids, but not in their order"),
    ],
)
def test_what_can_be_read_in_several_ways_or_has_gaps_is_refused(text: str, said: str) -> None:
    assert said in str(error_of(text))


# Numbers from 1


@pytest.mark.parametrize(
    "text",
    [
        "id,name\n3,emu\n1,cat\n2,dog\n",
        "class_id;class\n1;cat\n2;dog\n3;emu\n",
        "name,label_id\nemu,3\ncat,1\ndog,2\n",
        "nr\tnaam\n1\tcat\n2\tdog\n3\temu\n",  # an unknown name, but in order
        "id: name\n3: emu\n1: cat\n2: dog\n",
        "id name\n3 emu\n1 cat\n2 dog\n",
        '[{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 3, "name": "emu"}]',
    ],
)
def test_numbers_from_one_are_read_where_a_header_names_them_and_reported(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert names(text) == ANIMALS
    [record] = caplog.records
    assert (record.name, record.levelno) == ("imgclassify", logging.WARNING)
    assert "counts from 1, so its number 1 is class 0" in record.getMessage()


@pytest.mark.parametrize(
    "text",
    [
        "1,cat\n2,dog\n3,emu\n",
        "3: emu\n1: cat\n2: dog\n",
        "1 cat\n2 dog\n3 emu\n",
        "cat,1\ndog,2\nemu,3\n",
        "cat 1\ndog 2\nemu 3\n",
        "n02121620 1 cat\nn02084071 2 dog\nn01519563 3 emu\n",
        "nr,naam\n3,emu\n1,cat\n2,dog\n",  # an unknown name, and not in order
        '{"cat": 1, "dog": 2, "emu": 3}',
        '{"1": "cat", "2": "dog", "3": "emu"}',
        '[["cat", 1], ["dog", 2], ["emu", 3]]',
    ],
)
def test_numbers_from_one_without_a_header_are_refused(text: str) -> None:
    error = error_of(text)
    assert "from 1 to 3, but class indices begin at 0" in str(error)
    assert "class_to_idx" in str(error.hint)


FLOWERS = [f"flower {number}" for number in range(1, 103)]


@pytest.mark.parametrize(
    "keys",
    [
        [str(number) for number in range(1, 103)],
        [f"{number:03}" for number in range(1, 103)],
        [str(3 * number + 2) for number in range(102)],
        [f"folder {number}" for number in range(102)],
    ],
)
def test_folder_names_as_keys_are_not_taken_for_class_indices(keys: list[str]) -> None:
    """The order of outputs is the text order of the folders, so no arithmetic on the numbers gives it."""
    shuffled = list(zip(keys, FLOWERS, strict=True))
    random.Random(0).shuffle(shuffled)
    said = all_of(error_of(json.dumps(dict(shuffled))))
    assert "names of folders" in said
    assert "class_to_idx" in said
    assert not any(word in said for word in ("subtract", "minus", "one less", "class index 0 is missing"))


@pytest.mark.parametrize(
    "text",
    [
        "label,l" + "_" * 9000 + "abel\na,b\n",
        "names:\n  " + "1" * 9000 + ": a\n  " + "1" * 9000 + ": b\n",
        "é" * 9000 + "\n0,a\n1,b\n",
        "names: [" + "a" * 9000 + "{",
    ],
)
def test_errors_are_short_whatever_is_in_the_file(text: str) -> None:
    assert len(str(error_of(text))) < 300


# Configurations

PAIRS = {"0": "cat", "1": "dog", "2": "emu"}


@pytest.mark.parametrize(
    "document",
    [
        {"architectures": ["ViTForImageClassification"], "id2label": {"2": "emu", "0": "cat", "1": "dog"}},
        {"model_type": "vit", "id2label": PAIRS, "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}},
        {"model_type": "vit", "label2id": {"emu": 2, "cat": 0, "dog": 1}},
        {"architecture": "resnet18", "num_classes": 3, "label_names": ANIMALS, "pretrained_cfg": {}},
        {"architecture": "resnet18", "pretrained_cfg": {"label_names": ANIMALS, "mean": [0.5, 0.5, 0.5]}},
        {"epoch": 3, "class_to_idx": {"emu": 2, "cat": 0, "dog": 1}},
        {"nc": 3, "names": ANIMALS},
        {
            "info": {},
            "categories": [{"id": i, "name": name, "supercategory": "x"} for i, name in enumerate(ANIMALS)],
        },
    ],
)
def test_a_configuration_gives_its_names(document: object) -> None:
    assert names(json.dumps(document, indent=2)) == ANIMALS


def test_timms_wnids_get_their_descriptions() -> None:
    described = {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish, Carassius auratus"}
    found = parse_labels(json.dumps({"label_names": list(described), "label_descriptions": described}), "it")
    assert [(label.wnid, label.label) for label in found] == list(described.items())


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {"model_type": "vit", "architectures": ["X"]},
            "it has no names of classes: none of its entries is id2label",
        ),
        ({"do_resize": True, "size": {"height": 224}, "image_mean": [0.5]}, "it has no names of classes"),
        ({"id2label": {"0": "cat", "2": "dog"}}, "class index 1 is missing"),
        ({"id2label": {"0": "cat", "1": 7}}, "['id2label']['1']: the label is 7, not text"),
        (
            {"pretrained_cfg": {"label_names": ["cat", ""]}},
            "['pretrained_cfg']['label_names'][1]: the label is empty",
        ),
    ],
)
def test_a_configuration_without_right_names_is_refused(document: object, said: str) -> None:
    assert said in str(error_of(json.dumps(document)))


def test_label_to_index_may_have_labels_that_are_keys_of_configurations() -> None:
    assert names('{"names": 1, "classes": 0}') == ["classes", "names"]


# YAML

ULTRALYTICS = "# Pets\npath: ../pets # root\ntrain: images/train\nnc: 3\n\n{}\ndownload: none\n"


@pytest.mark.parametrize(
    "block",
    [
        "names: ['cat', 'dog', 'emu']",
        "names: [cat, dog, emu]",
        'names: ["cat",\n  dog,\n  emu]',
        "names: {0: cat, 1: dog, 2: emu}",
        "names: {'2': emu, '0': cat, '1': 'dog'}",
        "names:\n  0: cat\n  1: dog\n  2: emu",
        "names:\n  2: emu\n\n  # pets\n  0: 'cat' # a pet\n  1: \"dog\"",
        "names:\n  - cat\n  - dog\n  - emu",
        "names:\n- cat\n- dog\n- emu",
    ],
)
@pytest.mark.parametrize("document", [ULTRALYTICS, "{}\n", "---\n{}"])
def test_yaml_gives_its_names(document: str, block: str) -> None:
    assert names(document.format(block)) == ANIMALS


def test_texts_of_yaml_are_read_as_yaml_reads_them() -> None:
    yaml = pytest.importorskip("yaml")
    text = "names:\n- it's\n- 'it''s, too'\n- \"a \\\"b\\\" \\u00e9\"\n- C# and c\n- plain # comment\n- a, b\n"
    assert names(text) == yaml.safe_load(text)["names"]
    text = "names: [it's, 'a, b', \"c, \\\" ]d\", # more\n  e f, ]"
    assert names(text) == yaml.safe_load(text)["names"]


@pytest.mark.parametrize("line", ["0: &anchor cat", "0: [cat, kitten]", "0: |", "zero: cat", "0: cat: tabby"])
def test_yaml_that_is_more_than_plain_is_refused(line: str) -> None:
    assert "is not a plain YAML list or dict of class names" in str(error_of(f"names:\n  {line}\n"))


# What the bytes are


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_says_the_encoding(encoding: str, tmp_path: Path) -> None:
    text = "0,Katze\n1,Köter\n2,エミュー\n"
    file = tmp_path / "labels.txt"
    file.write_bytes(("\ufeff" if encoding.endswith("e") else "").encode(encoding) + text.encode(encoding))
    assert [label.label for label in load_labels(file).labels] == ["Katze", "Köter", "エミュー"]


def archive(*members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for member in members:
            file.writestr(member, "x")
    return buffer.getvalue()


def array(save: Callable[..., None], *values: object, **named: object) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *values, **named)
    return buffer.getvalue()


KINDS = {
    "UTF-16LE without a byte order mark": "cat\ndog\n".encode("utf-16-le"),
    "UTF-16BE without a byte order mark": "cat\ndog\n".encode("utf-16-be"),
    "a NumPy array (.npy)": array(np.save, np.array(ANIMALS)),
    "NumPy arrays (.npz)": array(np.savez, names=np.array(ANIMALS)),
    "an Excel file (.xlsx)": archive("[Content_Types].xml", "xl/workbook.xml"),
    "a Word file (.docx)": archive("[Content_Types].xml", "word/document.xml"),
    "a PyTorch file": archive("archive/data.pkl"),
    "a ZIP archive": archive("labels.txt"),
    "a PDF file": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "an HTML page": b"\n<!DOCTYPE html>\n<html></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n",
    "a gzip file": b"\x1f\x8b\x08\x00",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "a binary file": bytes(range(8)) * 4 + bytes(64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_label_file_is_named_for_what_it_is(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(KINDS[kind])
    with pytest.raises(LabelsError) as caught:
        load_labels(file)
    assert f"it is {kind}" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [ANIMALS, PAIRS, np.array(ANIMALS)], ids=["list", "dict", "array"])
def test_a_pickle_is_named_and_not_loaded(value: object, protocol: int, tmp_path: Path) -> None:
    file = tmp_path / "labels.pkl"
    file.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(LabelsError, match=r"it is a Python pickle \(.pkl\), not a label file"):
        load_labels(file)


def test_a_large_file_of_another_kind_is_named_too(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(archive("archive/data.pkl") + bytes(9 * 2**20))
    with pytest.raises(LabelsError, match="it is a PyTorch file"):
        load_labels(file)


# Lines that are copied from a list, a dict or a table ----------------------------------------------------------

COPIED = {
    "all cells in quotes": '"2","emu, big"\n"0","cat"\n"1","dog"\n',
    "all cells in quotes, the label first": '"emu, big";"2"\n"cat";"0"\n"dog";"1"\n',
    "lines of a list": "'cat',\n'dog',\n'emu, big'\n",
    "lines of a list with a last comma": '"cat",\n"dog",\n"emu, big",\n',
    "lines of a dict": "2: 'emu, big',\n0: 'cat',\n1: 'dog',\n",
    "lines in quotes": '"cat"\n"dog"\n"emu, big"\n',
    "full-width colons": "2：emu, big\n0：cat\n1：dog\n",
    "a series of pandas": ',0\n2,"emu, big"\n0,cat\n1,dog\n',
    "JSON lines": '{"id": 2, "name": "emu, big"}\n{"id": 0, "name": "cat"}\n{"id": 1, "name": "dog"}\n',
    "pairs of texts": '[["2", "emu, big"], ["0", "cat"], ["1", "dog"]]',
}


@pytest.mark.parametrize("form", COPIED)
def test_marks_around_labels_are_no_part_of_them(form: str) -> None:
    assert names(COPIED[form]) == ["cat", "dog", "emu, big"]


@pytest.mark.parametrize("label", ['"quoted" cat', "dogs'", "'tis", "a, b,", '19" screen'])
def test_marks_of_one_label_stay(label: str) -> None:
    assert names(f"{label}\ncat\ndog\n") == [label, "cat", "dog"]


def test_a_configuration_of_plain_values_has_no_names() -> None:
    assert "no names of classes" in str(error_of('{"model_type": "vit", "hidden_size": 192}'))


@pytest.mark.parametrize(
    "text",
    [
        '"cat"\n"dog"\n"emu"\n',
        "'cat'\n'dog'\n'emu'\n",
        "'cat',\n'dog',\n'emu',\n",
        '"2","emu"\n"0","cat"\n"1","dog"\n',
        '"emu";"2"\n"cat";"0"\n"dog";"1"\n',
        '2,"emu"\n0,"cat"\n1,"dog"\n',
        "2: 'emu',\n0: 'cat',\n1: 'dog',\n",
        "sep=;\nindex;name\n2;emu\n0;cat\n1;dog\n",
        "SEP=,\r\nindex,name\r\n2,emu\r\n0,cat\r\n1,dog\r\n",
    ],
)
def test_quotes_that_all_lines_have_and_excels_first_line_are_no_part_of_the_labels(text: str) -> None:
    assert names(text) == ["cat", "dog", "emu"]


def test_quotes_that_only_some_lines_have_stay() -> None:
    assert names("'cat'\ndog\nemu's\n") == ["'cat'", "dog", "emu's"]
