"""Label sets: the shipped one against its sources, every form of the user's own files, and every error."""

import csv
import importlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imgclassify.errors import ExitStatus, LabelsError
from imgclassify.labels import Label, LabelSet, list_label_sets, load_labels, lookup, parse_labels, rows, tables
from imgclassify.labels.writing import format_labels

CHECKOUT = Path(__file__).resolve().parent.parent
SHIPPED = CHECKOUT / "labels" / "imagenet1k.tsv"

PLAIN = (Label(0, None, "tench"), Label(1, None, "goldfish"), Label(2, None, "great white shark"))
WITH_WNIDS = (
    Label(0, "n01440764", "tench"),
    Label(1, "n01443537", "goldfish"),
    Label(2, "n01484850", "great white shark"),
)
FULL = (
    Label(0, "n01440764", "tench", ("tench", "Tinca tinca"), "a fish; greenish"),
    Label(1, None, "goldfish", (), ""),
)

# Anything that one line can hold, and that is no form of its own: a letter first, no digit last, and no name of a
# column.
line_texts = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)
    .map(lambda text: ("x" + text).strip())
    .filter(lambda text: text[-1] not in "0123456789")
    .filter(lambda text: tables.header_delimiter(text) is None)
)
# Anything that a document or a quoted cell can hold.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text == text.strip() and text
)
wnids = st.from_regex(r"[nvars][0-9]{8}", fullmatch=True)


def names(found: tuple[Label, ...]) -> list[str]:
    return [label.label for label in found]


def error_of(text: str) -> LabelsError:
    with pytest.raises(LabelsError) as caught:
        parse_labels(text, "my.txt")
    assert str(caught.value).startswith("my.txt: ")
    assert caught.value.hint
    assert caught.value.exit_status is ExitStatus.UNAVAILABLE
    return caught.value


# The shipped set


@pytest.fixture(scope="module")
def imagenet1k() -> LabelSet:
    return load_labels("imagenet1k")


def timm_table(name: str) -> dict[str, str]:
    lines = (files("timm") / "data" / "_info" / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t", 1) for line in lines)


def test_imagenet1k_is_shipped_and_knows_its_name(imagenet1k: LabelSet) -> None:
    assert list_label_sets() == ["cifar10", "imagenet1k"]
    assert imagenet1k.name == "imagenet1k"
    assert len(imagenet1k) == 1000


@pytest.mark.needs_torch
def test_imagenet1k_has_torchvisions_categories_in_class_index_order(imagenet1k: LabelSet) -> None:
    from torchvision.models import MobileNet_V2_Weights

    assert names(imagenet1k.labels) == MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    assert [label.class_index for label in imagenet1k.labels] == list(range(1000))


@pytest.mark.needs_torch
def test_imagenet1k_has_timms_synsets_in_class_index_order(imagenet1k: LabelSet) -> None:
    synsets = (files("timm") / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    assert [label.wnid for label in imagenet1k.labels] == synsets
    # Class index order is sorted wnid order: a shifted or shuffled file cannot pass.
    assert synsets == sorted(synsets)


@pytest.mark.needs_torch
def test_imagenet1k_has_wordnets_lemmas_and_definitions(imagenet1k: LabelSet) -> None:
    lemmas, definitions = (
        timm_table("imagenet_synset_to_lemma.txt"),
        timm_table("imagenet_synset_to_definition.txt"),
    )
    for label in imagenet1k.labels:
        assert label.wnid is not None
        assert ", ".join(label.synonyms) == lemmas[label.wnid]
        assert label.gloss == definitions[label.wnid]


def test_imagenet1k_agrees_with_wordnet_where_it_was_read_by_hand(imagenet1k: LabelSet) -> None:
    assert imagenet1k[207] == Label(
        207,
        "n02099601",
        "golden retriever",
        ("golden retriever",),
        "an English breed having a long silky golden coat",
    )
    # WordNet's gloss goes on with an example: "the church was empty".
    assert imagenet1k[497].gloss == "a place for public (especially Christian) worship"
    assert [(imagenet1k[i].label, imagenet1k[i].wnid) for i in (134, 517)] == [
        ("crane bird", "n02012849"),
        ("crane", "n03126707"),
    ]
    assert imagenet1k[639].synonyms == ("maillot", "tank suit")


def test_every_label_of_imagenet1k_begins_with_its_first_lemma(imagenet1k: LabelSet) -> None:
    assert [label.label for label in imagenet1k.labels if label.label != label.synonyms[0]] == [
        "crane bird",
        "maillot tank suit",
    ]
    assert len(set(names(imagenet1k.labels))) == 1000


def test_the_shipped_file_is_plain_lines_of_five_columns() -> None:
    data = SHIPPED.read_bytes()
    assert b"\r" not in data
    assert data.endswith(b"\n")
    assert {line.count(b"\t") for line in data.splitlines()} == {4}


def test_cifar10_has_labels_alone() -> None:
    # `label_names` in batches.meta of https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz
    wanted = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    cifar10 = load_labels("cifar10", num_classes=10)
    assert cifar10 == LabelSet("cifar10", tuple(Label(index, None, name) for index, name in enumerate(wanted)))
    assert cifar10.search("Frog") == [cifar10[6]]


def test_the_shipped_file_reads_the_same_as_a_users_file(imagenet1k: LabelSet) -> None:
    as_file = load_labels(SHIPPED)
    assert as_file.labels == imagenet1k.labels
    assert as_file.name == str(SHIPPED)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace("gloss", "definition", 1), "the header is wrong"),
        (lambda text: text.replace("\n1\t", "\n3\t", 1), "line 3 does not describe class 1"),
        (lambda text: text.replace("n01443537", "01443537"), "line 3 does not describe class 1"),
        (lambda text: text.replace("goldfish\tgoldfish|", "\tgoldfish|"), "line 3 does not describe class 1"),
        (
            lambda text: text.replace("\tgoldfish|Carassius auratus\t", "\t\t"),
            "line 3 does not describe class 1",
        ),
        (lambda text: text[:60], "not enough values"),
        (lambda text: text + "\n", "not enough values"),
    ],
)
def test_a_damaged_shipped_file_is_named(damage, said, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "imagenet1k.tsv").write_text(damage(SHIPPED.read_text(encoding="utf-8")), encoding="utf-8")
    monkeypatch.setattr(lookup, "data_folder", lambda _: tmp_path)
    with pytest.raises(LabelsError, match="imagenet1k that ships with imgclassify is damaged") as caught:
        load_labels("imagenet1k")
    assert said in str(caught.value)
    assert "reinstall" in caught.value.hint


def test_available_lists_the_tables_alone(tmp_path: Path, monkeypatch) -> None:
    for file in ("b.tsv", "a.tsv", "README.md", "LICENSE.wordnet"):
        (tmp_path / file).touch()
    monkeypatch.setattr(lookup, "data_folder", lambda _: tmp_path)
    assert list_label_sets() == ["a", "b"]


def test_loading_imports_nothing_heavy() -> None:
    program = (
        "import sys, imgclassify.labels as labels; labels.load_labels('imagenet1k', num_classes=1000)\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'rich', 'typer'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"


# The tool that makes it


@pytest.fixture
def make_labels() -> ModuleType:
    return importlib.import_module("make_labels")


@pytest.mark.needs_torch
def test_the_tool_finds_the_shipped_file_up_to_date(make_labels: ModuleType) -> None:
    assert make_labels.main(["--check"]) == 0


@pytest.mark.needs_torch
def test_the_tools_check_fails_on_a_file_that_differs_and_writes_nothing(
    make_labels: ModuleType, tmp_path: Path, monkeypatch
) -> None:
    target = tmp_path / "imagenet1k.tsv"
    target.write_bytes(SHIPPED.read_bytes().replace(b"tench", b"trench", 1))
    before = target.read_bytes()
    (tmp_path / "cifar10.tsv").write_bytes((SHIPPED.parent / "cifar10.tsv").read_bytes())
    monkeypatch.setattr(make_labels, "FOLDER", tmp_path)
    assert make_labels.main(["--check"]) == 1
    assert target.read_bytes() == before
    assert make_labels.main([]) == 0
    assert target.read_bytes() == SHIPPED.read_bytes()


# Looking up and searching


def test_labels_are_found_by_class_index(imagenet1k: LabelSet) -> None:
    assert imagenet1k[0].label == "tench"
    assert imagenet1k[999].label == "toilet tissue"
    with pytest.raises(IndexError):
        imagenet1k[1000]


SEARCHED = LabelSet(
    "searched",
    (
        Label(0, None, "lamp", (), "gives light to a cat"),
        Label(1, None, "catfish"),
        Label(2, None, "Persian cat"),
        Label(3, "n02121620", "CAT"),
        Label(4, None, "tiger", ("big cat", "Panthera tigris")),
        Label(5, None, "puss", ("mouser", "cat")),
        Label(6, None, "boat", ("catamaran",)),
        Label(7, None, "chair", (), "located anywhere"),
        Label(8, None, "wild_cat"),
    ),
)


def test_search_puts_exact_names_before_words_before_parts_before_glosses() -> None:
    found = [label.class_index for label in SEARCHED.search("cat")]
    assert found == [3, 5, 2, 4, 1, 6, 8, 0]


@pytest.mark.parametrize("text", ["cat", "CAT", "  Cat\n"])
def test_search_ignores_case_and_white_space_around(text: str) -> None:
    assert SEARCHED.search(text) == SEARCHED.search("cat")


def test_search_by_wnid_is_exact() -> None:
    assert SEARCHED.search("N02121620") == [SEARCHED[3]]
    assert SEARCHED.search("n0212162") == []


def test_search_by_gloss_wants_every_word_in_any_order() -> None:
    assert SEARCHED.search("cat light") == [SEARCHED[0]]
    assert SEARCHED.search("light dog") == []


@pytest.mark.parametrize("text", ["", "  ", "zyzzyva", "(", "?!", "\\"])
def test_search_finds_nothing_without_a_match(text: str) -> None:
    assert SEARCHED.search(text) == []


def test_search_takes_punctuation_literally() -> None:
    label_set = LabelSet("c", (Label(0, None, "C++ book"), Label(1, None, "c (letter)"), Label(2, None, "cc")))
    assert names(tuple(label_set.search("c++"))) == ["C++ book"]
    assert names(tuple(label_set.search("(letter)"))) == ["c (letter)"]


def test_search_tells_namesakes_by_listing_both(imagenet1k: LabelSet) -> None:
    assert [label.class_index for label in imagenet1k.search("crane")] == [134, 517]
    assert [label.class_index for label in imagenet1k.search("cardigan")] == [264, 474]
    assert [label.class_index for label in imagenet1k.search("Tinca tinca")] == [0]
    assert imagenet1k.search("n02099601")[0].class_index == 207


def test_every_class_is_the_first_answer_to_its_own_wnid_and_among_the_exact_ones_to_its_label(
    imagenet1k: LabelSet,
) -> None:
    for label in imagenet1k.labels[::37]:
        assert imagenet1k.search(str(label.wnid))[0] == label
        assert label in imagenet1k.search(label.label)[:3]


# The number of classes


def test_the_number_of_classes_is_checked_when_asked() -> None:
    assert len(load_labels("imagenet1k", num_classes=1000)) == 1000
    load_labels("imagenet1k").require_num_classes(1000)


@pytest.mark.parametrize("num_classes", [999, 1001, 10])
def test_another_number_of_classes_names_both_counts_the_set_and_what_to_do(num_classes: int) -> None:
    with pytest.raises(LabelsError) as caught:
        load_labels("imagenet1k", num_classes=num_classes)
    message = str(caught.value)
    assert "imagenet1k" in message
    assert "1000 classes" in message
    assert str(num_classes) in message
    assert "--labels FILE" in caught.value.hint


# The forms of a user's file

FORMS = {
    "lines": ("tench\ngoldfish\ngreat white shark\n", PLAIN),
    "lines without an end": ("tench\ngoldfish\ngreat white shark", PLAIN),
    "lines and blank ones after": ("tench\ngoldfish\ngreat white shark\n\n  \n\n", PLAIN),
    "CRLF": ("tench\r\ngoldfish\r\ngreat white shark\r\n", PLAIN),
    "CR": ("tench\rgoldfish\rgreat white shark\r", PLAIN),
    "a byte order mark": ("\ufefftench\ngoldfish\ngreat white shark\n", PLAIN),
    "white space around": ("  tench\t\n goldfish \ngreat white shark", PLAIN),
    "index, label": ("0, tench\n1, goldfish\n2, great white shark\n", PLAIN),
    "index,label": ("0,tench\n1,goldfish\n2,great white shark\n", PLAIN),
    "index,label out of order": ("2,great white shark\n0,tench\n1,goldfish\n", PLAIN),
    "index: label": ("0: tench\n1: goldfish\n2: great white shark\n", PLAIN),
    "index tab label": ("0\ttench\n1\tgoldfish\n2\tgreat white shark\n", PLAIN),
    "zero-padded": ("00, tench\n01, goldfish\n02, great white shark\n", PLAIN),
    "quoted": ('0,"tench"\n1,goldfish\n2,"great white shark"\n', PLAIN),
    "synset_words.txt": ("n01440764 tench\nn01443537 goldfish\nn01484850 great white shark", WITH_WNIDS),
    "wnid tab label": ("n01440764\ttench\nn01443537\tgoldfish\nn01484850\tgreat white shark", WITH_WNIDS),
    "index,wnid,label": (
        '0,n01440764,tench\n1,n01443537,goldfish\n2,n01484850,"great white shark"',
        WITH_WNIDS,
    ),
    "CSV": ("label\ntench\ngoldfish\ngreat white shark\n", PLAIN),
    "CSV with spaces": ('index , label\n 0 , "tench"\n 1 , goldfish\n', PLAIN[:2]),
    "CSV with indices": ("Index,Class Name\n1,goldfish\n2,great white shark\n0,tench\n", PLAIN),
    "CSV quoted": ('"id","name"\r\n"0","tench"\r\n"1","goldfish"\r\n"2","great white shark"\r\n', PLAIN),
    "CSV and blank lines after": ("id,name\n0,tench\n1,goldfish\n2,great white shark\n\n \n", PLAIN),
    "CSV by semicolons": ("class_index;class\n0;tench\n1;goldfish\n2;great white shark\n", PLAIN),
    "CSV with other columns": (
        "count,LABEL,synset\n7,tench,n01440764\n8,goldfish,n01443537\n9,great white shark,n01484850\n",
        WITH_WNIDS,
    ),
    "TSV": (
        "wnid\tclass_name\nn01440764\ttench\nn01443537\tgoldfish\nn01484850\tgreat white shark\n",
        WITH_WNIDS,
    ),
    "TSV, all columns": (
        "class_index\twnid\tlabel\tsynonyms\tdefinition\n"
        "0\tn01440764\ttench\ttench|Tinca tinca\ta fish; greenish\n"
        "1\t\tgoldfish\t\t\n",
        FULL,
    ),
    "JSON list": ('["tench", "goldfish", "great white shark"]', PLAIN),
    "JSON dict": ('{"0": "tench", "2": "great white shark", "1": "goldfish"}', PLAIN),
    "Keras's class index": (
        '\n{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "2": ["n01484850", "great white shark"]}',
        WITH_WNIDS,
    ),
    "JSON label to index": ('{"tench": 0, "great white shark": 2, "goldfish": 1}', PLAIN),
    "JSON list of pairs": (
        '[["n01440764", "tench"], ["n01443537", "goldfish"], ["n01484850", "great white shark"]]',
        WITH_WNIDS,
    ),
    "JSON objects": (
        '[{"name": "goldfish", "id": 1, "wnid": null, "other": []},'
        ' {"Class": "tench", "index": 0, "synset": "n01440764", "synonyms": ["tench", "Tinca tinca"],'
        ' "gloss": "a fish; greenish"}]',
        FULL,
    ),
    "JSON objects without indices": ('[{"label": "tench"}, {"label": "goldfish"}]', PLAIN[:2]),
    "JSON dict of objects": ('{"1": {"label": "goldfish"}, "0": {"label": "tench"}}', PLAIN[:2]),
    "Python dict": ("{0: 'tench',\n 1: 'goldfish',\n 2: \"great white shark\",}\n", PLAIN),
    "Python dict after a comment": (
        "# From a gist\n\n#\n {0: 'tench',\n 1: 'goldfish',\n 2: 'great white shark'}",
        PLAIN,
    ),
    "Python list": ("['tench', 'goldfish',\n 'great white shark']", PLAIN),
    "Python dict of tuples": ("{1: ('n01443537', 'goldfish'), 0: ('n01440764', 'tench')}", WITH_WNIDS[:2]),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_told_by_its_content(form: str) -> None:
    text, expected = FORMS[form]
    assert parse_labels(text, "my.txt") == expected


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_read_the_same_whatever_its_ending(form: str, tmp_path: Path) -> None:
    text, expected = FORMS[form]
    for extension in ("txt", "csv", "json"):
        file = tmp_path / f"labels.{extension}"
        file.write_bytes(text.encode())
        assert load_labels(str(file), num_classes=len(expected)) == LabelSet(str(file), expected)


def test_every_example_in_the_documentation_is_two_classes() -> None:
    page = (CHECKOUT / "docs" / "labels.md").read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fenced if not language and "imgclassify" not in block]
    # The block of JSON documents has one a line.
    examples = [text for block in blocks for text in (block.splitlines() if block.startswith('["') else [block])]
    assert len(examples) == 14
    for text in examples:
        tench, goldfish = parse_labels(text, "docs/labels.md")
        assert tench.label.startswith("tench")
        assert goldfish.label.startswith("goldfish")


def test_commas_in_plain_lines_belong_to_the_label() -> None:
    text = "tench, Tinca tinca\ngoldfish, Carassius auratus\nstingray\n"
    assert names(parse_labels(text, "my.txt")) == ["tench, Tinca tinca", "goldfish, Carassius auratus", "stingray"]


@pytest.mark.parametrize(
    "text",
    [
        "0, tench, Tinca tinca\n1, stingray",
        "0: tench, Tinca tinca\n1: stingray",
        '0,"tench, Tinca tinca"\n1,stingray',
        "n01440764 tench, Tinca tinca\nn01498041 stingray",
        "{0: 'tench, Tinca tinca',\n 1: 'stingray'}",
        '["tench, Tinca tinca", "stingray"]',
        'label\n"tench, Tinca tinca"\nstingray',
        "label\ntench, Tinca tinca\nstingray",
        'index,label\n0,"tench, Tinca tinca"\n1,stingray',
    ],
)
def test_commas_belong_to_the_label_in_every_form(text: str) -> None:
    assert names(parse_labels(text, "my.txt")) == ["tench, Tinca tinca", "stingray"]


@pytest.mark.parametrize(
    "text",
    [
        "101 Dalmatians\n3 dogs\ncat",  # no separator
        "0 dots\n1 dot\n2 dots",  # an index is not told from a count
        "0, tench\ngoldfish",  # not every line
        "7-up\n4:3",
        "n01440764 tench\nstingray",
        "n0144 tench\nn0149 stingray",
        "labels\nname tags",
        'the "tench"\n"goldfish"',
        "label:0\nlabel:1",
        "id\ncat",  # alone, only the label's names are a header
    ],
)
def test_what_only_resembles_another_form_is_plain_lines(text: str) -> None:
    assert parse_labels(text, "my.txt") == tuple(Label(i, None, line) for i, line in enumerate(text.split("\n")))


def test_wnids_alone_are_their_own_labels() -> None:
    assert parse_labels("n01440764\nn01443537\n", "x") == (
        Label(0, "n01440764", "n01440764"),
        Label(1, "n01443537", "n01443537"),
    )


def test_two_classes_may_share_a_label() -> None:
    assert names(parse_labels("maillot\nmaillot\n", "x")) == ["maillot", "maillot"]


def test_control_characters_are_kept() -> None:
    assert names(parse_labels("red\x1b[31mfish\nbell\x07s\n", "x")) == ["red\x1b[31mfish", "bell\x07s"]
    assert names(parse_labels('["two\\nlines", "nul\\u0000l"]', "x")) == ["two\nlines", "nul\0l"]


def test_a_quoted_label_loses_its_quotes_after_an_index_or_if_all_have_them() -> None:
    assert names(parse_labels('0,"the ""Bismarck"", a ship"\n1,"\n', "x")) == ['the "Bismarck", a ship', '"']
    assert names(parse_labels('"tench"\ngoldfish\n', "x")) == ['"tench"', "goldfish"]


def test_a_quoted_cell_may_hold_line_breaks() -> None:
    assert names(parse_labels('id,label\n0,"two\nlines"\n1,cat\n', "x")) == ["two\nlines", "cat"]


# Round trips


@settings(deadline=None)
@given(st.lists(line_texts, min_size=1))
def test_plain_lines_round_trip(labels_: list[str]) -> None:
    assert parse_labels("\n".join(labels_), "x") == tuple(Label(i, None, label) for i, label in enumerate(labels_))


@settings(deadline=None)
@given(st.lists(line_texts, min_size=1), st.sampled_from([",", ", ", ": ", ":", "\t"]), st.randoms())
def test_indexed_lines_round_trip_in_any_order(labels_: list[str], separator: str, random) -> None:
    lines = [f"{i}{separator}{label}" for i, label in enumerate(labels_)]
    random.shuffle(lines)
    assume(not all(line.endswith(",") for line in lines[:-1]) or len(lines) == 1)  # as if copied from a dictionary
    assert names(parse_labels("\r\n".join(lines) + "\r\n", "x")) == labels_


@settings(deadline=None)
@given(st.lists(st.tuples(wnids, line_texts), min_size=1))
def test_wnid_lines_round_trip(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f"{wnid} {label}\n" for wnid, label in pairs)
    assert [(label.wnid, label.label) for label in parse_labels(text, "x")] == pairs


@settings(deadline=None)
@given(st.lists(texts, min_size=1))
def test_json_and_python_documents_round_trip(labels_: list[str]) -> None:
    by_index = dict(enumerate(labels_))
    for text in (
        json.dumps(labels_),
        json.dumps(by_index, ensure_ascii=False),
        repr(labels_),
        repr(by_index),
    ):
        assert names(parse_labels(text, "x")) == labels_


@settings(deadline=None)
@given(st.lists(texts, min_size=1, unique=True), st.randoms())
def test_label_to_index_round_trips(labels_: list[str], random) -> None:
    pairs = [(label, i) for i, label in enumerate(labels_)]
    random.shuffle(pairs)
    assert names(parse_labels(json.dumps(dict(pairs)), "x")) == labels_


synonyms = st.lists(texts.filter(lambda text: "|" not in text), max_size=3).map(tuple)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.none() | wnids, texts, synonyms, st.just("") | texts), min_size=1),
    st.sampled_from([",", "\t", ";"]),
    st.randoms(),
)
def test_tables_and_objects_round_trip(rows: list[tuple], delimiter: str, random) -> None:
    expected = tuple(Label(i, *row) for i, row in enumerate(rows))
    shuffled = list(expected)
    random.shuffle(shuffled)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["class_index", "wnid", "label", "synonyms", "gloss"])
    for label in shuffled:
        writer.writerow([label.class_index, label.wnid or "", label.label, "|".join(label.synonyms), label.gloss])
    assert parse_labels(buffer.getvalue(), "x") == expected
    objects = [{name: getattr(label, name) for name in Label.__slots__} for label in shuffled]
    assert parse_labels(json.dumps(objects), "x") == expected
    assert parse_labels(format_labels(expected), "x") == expected


def test_imagenet1k_round_trips(imagenet1k: LabelSet) -> None:
    assert parse_labels(format_labels(imagenet1k.labels), "x") == imagenet1k.labels


@settings(deadline=None)
@given(st.text() | st.text("[]{}\"':,0123n \n\tlabe#\\|;"))
def test_any_text_is_labels_or_a_labels_error(text: str) -> None:
    try:
        found = parse_labels(text, "x")
    except LabelsError:
        return
    assert [label.class_index for label in found] == list(range(len(found)))
    assert all(label.label.strip() for label in found)


# Errors: each names the place and the value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is nothing in it"),
        ("\n \n", "there is nothing in it"),
        ("\ufeff", "there is nothing in it"),
        ("[]", "there are no classes in it"),
        ("{}", "there are no classes in it"),
        ("index,label\n", "there are no classes in it"),
        ("tench\n\ngoldfish\n", "line 2 is blank"),
        ("\ntench\n", "line 1 is blank"),
        ("List of classes\n\n0, tench\n1, goldfish\n", "line 2 is blank"),
        # indices
        ("0,tench\n1,goldfish\n1,shark\n", "line 3: class index 1 is already used by line 2"),
        ("1,tench\n2,goldfish\n", "the classes are numbered from 1 to 2, but class indices begin at 0"),
        ("4,tench\n0,goldfish\n", "class index 1 is missing: 2 classes have 0 to 1, but line 1 has 4"),
        (
            "0: tench\n1: goldfish\n7: shark\n",
            "class index 2 is missing: 3 classes have 0 to 2, but line 3 has 7",
        ),
        ("4:3\n16:9\n", "all columns are numbers"),
        ("0000000001234,x\n", "line 1: '0000000001234' is not a class index"),
        ('{"0": "a", "00": "b"}', "['00']: class index 0 is already used by ['0']"),
        ('{"0": "a", "2": "b"}', "class index 1 is missing: 2 classes have 0 to 1, but ['2'] has 2"),
        ('{"0": "a", "0": "b"}', "the key '0' occurs twice"),
        ("{0: 'a', 1: 'b', 0: 'c'}", "the key 0 occurs twice"),
        ('{"cat": "dog"}', "['cat']: 'cat' is not a class index"),
        ('{"-1": "a"}', "'-1' is not a class index"),
        ('{"²": "a"}', "'²' is not a class index"),
        ("{True: 'a'}", "True is not a class index"),
        (f"{{0x{'f' * 5000}: 'a'}}", "a huge number is not a class index"),
        ("{0.0: 'a'}", "0.0 is not a class index"),
        ('{"cat": 0, "dog": 0}', "['dog']: class index 0 is already used by ['cat']"),
        ('[{"id": 0, "label": "a"}, {"label": "b"}]', "[1]: None is not a class index"),
        ("index,label\n0,a\n,b\n", "line 3: '' is not a class index"),
        ("id,label\nn01440764,a\n", "line 2: 'n01440764' is not a class index"),
        # labels
        ('{"0": "a", "1": 7}', "['1']: the label is 7, not text"),
        ('{"0": true}', "['0']: the label is True, not text"),
        ('["a", null]', "[1]: the label is None, not text"),
        ("['a', b'b']", "[1]: the label is b'b', not text"),
        ('["a", "  "]', "[1]: the label is empty"),
        ("0,a\n1,\n", "line 2: the label is empty"),
        ("n01440764 a\nn01443537\n", "line 2: the label is empty"),
        ("index,label\n0,a\n1,\n", "line 3: the label is empty"),
        ('{"": 0}', "['']: the label is empty"),
        ('["a", "\\ud800"]', "[1]: the label is '\\ud800', not text"),
        ('[{"label": null}]', "[0]: the label is None, not text"),
        # columns
        ("index,title,artist\n0,a,b\n", "line 1: none of ['index', 'title', 'artist'] names the label"),
        ('[{"title": "a"}]', "[0]: none of ['title'] names the label"),
        ("class,name\na,b\n", "line 1: 'class' and 'name' both name the label"),
        ('[{"label": "a", "Name": "b"}]', "[0]: 'label' and 'Name' both name the label"),
        ("index,label\n0,tench, Tinca tinca\n", "line 2 has 3 columns, the header has 2"),
        ("index,label\n0,a\n\n1,b\n", "line 3 is blank"),
        ('index,label\n0,"a\n1,b\n', "unexpected end of data"),
        ('index,label\n0,"a"b\n', "line 2: "),
        # other values
        ('{"0": ["cat", "tench"]}', "['0']: 'cat' is not a WordNet id"),
        ('{"0": ["n01440764", "tench", "x"]}', "['0'] has 3 values"),
        ('[["tench"]]', "[0] has 1 values: ['tench']"),
        ("wnid,label\nx01440764,a\n", "line 2: 'x01440764' is not a WordNet id"),
        ('[{"label": "a", "wnid": 1440764}]', "[0]: the wnid is 1440764, not text"),
        ('[{"label": "a", "synonyms": 5}]', "[0]: the synonyms is 5, not text"),
        ('[{"label": "a", "synonyms": ["b", 5]}]', "[0]: the synonyms is 5, not text"),
        ('[{"label": "a", "gloss": ["b"]}]', "[0]: the gloss is ['b'], not text"),
        # documents
        ('["a", "b"', "line 1: neither JSON nor a Python list or dict"),
        ('{"0": "a",\n "1": "b"\n "2": "c"}', "line 3: neither JSON nor a Python list or dict"),
        ('["a",\n "b"', "line 2: neither JSON nor a Python list or dict"),
        ("# A comment\n\n['a'\n 'b', 'c'", "line 3: neither JSON nor a Python list or dict"),
        ("{0: 'a',\n 1: 'b',\n 2 'c'}", "line 3: neither JSON nor a Python list or dict"),
        ("{0: open('x').read()}", "neither JSON nor a Python list or dict"),
        ("{**{}}", "neither JSON nor a Python list or dict"),
        ("{[]: 'a'}", "neither JSON nor a Python list or dict"),
        ("[" * 100_000, "neither JSON nor a Python list or dict"),
        ("[background]\ncat\ndog\n", "neither JSON nor a Python list or dict"),
        ("{'a', 'b'}", "it is a set, not a list or a dict"),
        ("['a'], ['b']", "it is a tuple, not a list or a dict"),
    ],
)
def test_each_error_names_the_place_and_the_value(text: str, said: str) -> None:
    assert said in str(error_of(text))


def test_no_code_in_a_python_literal_is_run(tmp_path: Path) -> None:
    target = tmp_path / "made"
    error_of(f"{{0: __import__('pathlib').Path({str(target)!r}).touch()}}")
    assert not target.exists()


def test_a_misspelt_name_lists_the_shipped_sets_and_says_that_a_file_was_looked_for() -> None:
    with pytest.raises(LabelsError) as caught:
        load_labels("IMAGENET-1K")
    assert "'IMAGENET-1K'" in str(caught.value)
    assert "no such file exists" in str(caught.value)
    assert caught.value.hint.startswith("did you mean imagenet1k?")


def test_a_name_like_no_other_still_lists_the_shipped_sets(tmp_path: Path) -> None:
    with pytest.raises(LabelsError) as caught:
        load_labels(str(tmp_path / "absent.txt"))
    assert "did you mean" not in caught.value.hint
    assert "imagenet1k" in caught.value.hint


def test_a_folder_and_an_impossible_path_are_no_label_files(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"cannot read .*directory"):
        load_labels(tmp_path)
    with pytest.raises(LabelsError, match=r"cannot read .*null"):
        load_labels("a\0b")


def test_a_path_out_of_the_shipped_folder_is_no_name() -> None:
    with pytest.raises(LabelsError, match="no label set is named"):
        load_labels("../labels/imagenet1k")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("tench\ncafé\n".encode("latin-1"), "byte 0xe9 at offset 9, in line 2"),
        ("\ufefftench\n".encode() + b"\xff", "byte 0xff at offset 9, in line 2"),
    ],
)
def test_a_file_that_is_not_utf8_says_so_and_where(data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(data)
    assert data[int(said.split("offset ")[1].split(",")[0])] == int(said[7:9], 16)
    with pytest.raises(LabelsError) as caught:
        load_labels(file)
    assert f"{file}: not UTF-8: {said}" in str(caught.value)
    assert "iconv" in caught.value.hint


def test_a_file_far_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    with file.open("wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(LabelsError, match="more than 8,388,608 bytes"):
        load_labels(file)


def test_a_file_that_fails_is_named_as_the_user_named_it(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "labels.txt").write_text("tench\n\ngoldfish\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabelsError, match=r"^labels\.txt: line 2 is blank$"):
        load_labels("labels.txt")


def test_a_users_file_with_another_number_of_classes_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pets.txt"
    file.write_text("cat\ndog\n")
    with pytest.raises(LabelsError, match=r"pets\.txt has 2 classes, the network has 3"):
        load_labels(file, num_classes=3)


# What may keep a reader waiting or reading


READ = "import sys; from imgclassify import labels; print(len(labels.load_labels(sys.argv[1])))"


def test_what_a_command_writes_is_read_through_a_pipe() -> None:
    """Process substitution, as shells have it; the command takes its time."""
    command = f"exec {sys.executable} -c '{READ}' <(echo tench; sleep 0.3; echo goldfish)"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_a_pipe_of_more_than_one_buffer_is_read_whole(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    text = "".join(f"class {number}\n" for number in range(20_000))
    writer = subprocess.Popen(["bash", "-c", f"cat > {tmp_path / 'pipe'}"], stdin=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: writer.communicate(text)).start()
    assert len(load_labels(tmp_path / "pipe")) == 20_000
    assert writer.wait(10) == 0


def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "PIPE_SECONDS", 0.5)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LabelsError, match=r"pipe': it is a pipe that did not end within 0\.5 s"):
        load_labels(tmp_path / "pipe")


@pytest.mark.parametrize("command", ["yes", "while echo a; do sleep 0.01; done"])
def test_a_pipe_without_end_is_given_up(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its length, or by the time it takes."""
    monkeypatch.setattr(lookup, "PIPE_SECONDS", 1.0)
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["bash", "-c", f"{{ {command}; }} > {tmp_path / 'pipe'} 2> /dev/null"]) as writer:
        with pytest.raises(LabelsError, match=r"more than 8,388,608 bytes|did not end within 1 s"):
            load_labels(tmp_path / "pipe")
        writer.wait(10)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_no_label_file(device: str) -> None:
    with pytest.raises(LabelsError, match=r"cannot read .*: it is a device"):
        load_labels(device)


MEBIBYTES = 8 * 2**20 - 100
FLOODS = {
    "lines": lambda: "a\n" * (MEBIBYTES // 2),
    "indexed lines": lambda: "".join(f"{number},a\n" for number in range(800_000)),
    "json": lambda: '["a"' + ',"a"' * (MEBIBYTES // 4 - 9) + "]",
    "json numbers": lambda: "[1" + ",1" * (MEBIBYTES // 2 - 9) + "]",
    "json object": lambda: json.dumps(dict.fromkeys(range(600_000), "a")),
    "python": lambda: "['a'" + ",'a'" * (MEBIBYTES // 4 - 9) + "]",
    "python numbers": lambda: "[1" + ",1" * (MEBIBYTES // 2 - 9) + ",]",
    "formatted text": lambda: "[f'" + "{1}" * 1_000_000 + "']",
    "a sum": lambda: "[1" + "+1" * (MEBIBYTES // 2 - 9) + "]",
    "a sum of signs": lambda: "[1" + "-1" * (MEBIBYTES // 2 - 9) + "]",
    "indices": lambda: "['a'" + "[0]" * (MEBIBYTES // 3 - 9) + "]",
    "calls": lambda: "['a'" + "()" * (MEBIBYTES // 2 - 9) + "]",
    "attributes": lambda: "[1.0" + ".real" * (MEBIBYTES // 5 - 9) + "]",
    "nested json": lambda: "[" * MEBIBYTES,
    "nested python": lambda: "[" + "{0:" * (MEBIBYTES // 3),
    "table": lambda: "label\n" + "a\n" * (MEBIBYTES // 2 - 9),
    "columns": lambda: "label" + ",x" * (MEBIBYTES // 2 - 9) + "\na\n",
    "comments": lambda: "#\n" * (MEBIBYTES // 2) + "[",
    "yaml list": lambda: "names:\n" + "- a\n" * (MEBIBYTES // 4 - 9),
    "yaml in brackets": lambda: "names: [" + "a," * (MEBIBYTES // 2 - 9),
    "yaml spaces": lambda: "names: [a" + " " * (MEBIBYTES - 99) + "b",
    "table without a header": lambda: "aa,bb,cc,1\n" * (MEBIBYTES // 11),
    "an open quote": lambda: 'label,a\n"' + "x" * (MEBIBYTES - 99),
}
FLOODED = """
import sys
from pathlib import Path
from imgclassify import labels
from imgclassify.errors import LabelsError
try: labels.load_labels(sys.argv[1])
except LabelsError as error: print("refused", len(str(error)))
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", FLOODS)
def test_a_file_of_more_than_labels_takes_little_time_and_memory(kind: str, tmp_path: Path) -> None:
    (tmp_path / "flood.txt").write_text(FLOODS[kind]())
    command = [sys.executable, "-c", FLOODED, str(tmp_path / "flood.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    refused, kibibytes = done.stdout.splitlines()
    assert refused.split()[0] == "refused"
    assert int(refused.split()[1]) < 1000
    assert int(kibibytes) < 250 * 1024


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"class {number}" for number in range(rows.MAX_CLASSES)),
        "label" + ",x" * 999 + "\n" + "a" + "," * 999,
    ],
    ids=["classes", "columns"],
)
def test_as_much_as_is_allowed_is_read(text: str) -> None:
    assert parse_labels(text, "it")[0].label in ("class 0", "a")


def test_control_characters_and_markup_stay_in_a_label_and_out_of_errors() -> None:
    odd = "\x1b[2J<script>[bold]\u202e\x00tench"
    assert parse_labels(json.dumps([odd]), "it")[0].label == odd
    for text in (
        json.dumps([[odd, odd]]),
        json.dumps({odd: odd}),
        f"label,wnid\nx,{odd}",
        f"{{{odd!r}: 1, {odd!r}: 2}}",
    ):
        with pytest.raises(LabelsError) as error:
            parse_labels(text, "it")
        assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "{0: 'tench', 1: \"gold\\'fish\"}",
        "['tench', 'a' 'b', u'c', r'\\d',]",
        "# one\n{0: ('n01440764', 'tench'), # two 'quoted\n 1: ('n01443537', 'it\\'s # no comment')}",
        "{0: {'label': 'a', 'synonyms': ['b', 'c']}, 0x1: {'label': 'd'}}",
    ],
)
def test_python_data_is_read_as_python_reads_it(text: str) -> None:
    import ast

    document = ast.literal_eval(text)
    values = document.values() if isinstance(document, dict) else document
    expected = [
        value["label"] if isinstance(value, dict) else value[-1] if isinstance(value, tuple) else value
        for value in values
    ]
    assert [label.label for label in parse_labels(text, "it")] == expected
