"""The user's own tree of classes, as a table of parents or of ranks."""

from __future__ import annotations

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclassify import labels
from imgclassify.errors import UnknownClassError, UsageError
from imgclassify.labels import Label, LabelSet
from imgclassify.labels.taxonomy import Taxonomy
from imgclassify.labels.taxonomy_file import read_taxonomy

ANIMALS = LabelSet(
    "animals",
    (
        Label(0, None, "lion", ("lion", "Panthera leo")),
        Label(1, None, "tiger", ("tiger", "Panthera tigris")),
        Label(2, None, "lynx", ("lynx", "Lynx lynx")),
        Label(3, None, "wolf", ("wolf", "Canis lupus")),
        Label(4, None, "eagle", ("eagle", "Aquila chrysaetos")),
        Label(5, None, "car"),
    ),
)
TREES = {
    "parents": """class,parent
lion,big cat
TIGER,Big Cat
big cat,cat
lynx,cat
cat,mammal
wolf,mammal
mammal,animal
eagle,animal
animal,
car,machine
""",
    "no roots, other order": """parent;label
big cat;Panthera leo
big cat;1
cat;big cat
cat;lynx
mammal;cat
mammal;wolf
animal;mammal
animal;eagle
machine;car
""",
}
CHAINS = {
    "lion": ["big cat", "cat", "mammal", "animal"],
    "tiger": ["big cat", "cat", "mammal", "animal"],
    "lynx": ["cat", "mammal", "animal"],
    "wolf": ["mammal", "animal"],
    "eagle": ["animal"],
    "car": ["machine"],
}


def read(tmp_path: Path, text: str | bytes, label_set: LabelSet = ANIMALS) -> Taxonomy:
    path = tmp_path / "tree.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_taxonomy(path, label_set)


def chains(taxonomy: Taxonomy) -> dict[str, list[str]]:
    return {
        label.label: [taxonomy.nodes[position].label.casefold() for position in taxonomy.chains[label.class_index]]
        for label in taxonomy.label_set.labels
    }


@pytest.mark.parametrize("form", TREES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "crlf", "tabs", "quotes"])
def test_a_table_of_parents(form: str, encoding: str, tmp_path: Path) -> None:
    text = TREES[form]
    if encoding == "crlf":
        text = text.replace("\n", "\r\n")
    if encoding == "tabs":
        text = text.replace(",", "\t").replace(";", "\t")
    if encoding == "quotes":
        text = text.replace("big cat", '"big cat"')
    data = text.encode(encoding if encoding.startswith("utf") else "utf-8")
    taxonomy = read(tmp_path, data)
    assert chains(taxonomy) == CHAINS
    assert taxonomy.num_unplaced == 0
    members = {node.label.casefold(): list(node.class_indices) for node in taxonomy.nodes}
    assert members == {
        "big cat": [0, 1],
        "cat": [0, 1, 2],
        "mammal": [0, 1, 2, 3],
        "animal": [0, 1, 2, 3, 4],
        "machine": [5],
    }
    assert all(node.wnid is None for node in taxonomy.nodes)


def test_columns_without_a_name_are_ignored_if_they_say_nothing(tmp_path: Path) -> None:
    taxonomy = read(tmp_path, ",class,parent,\n0,lion,cat,\n1,tiger,cat,\n")
    assert chains(taxonomy)["tiger"] == ["cat"]
    with pytest.raises(UsageError, match="must be one column 'class', not '', 'class'"):
        read(tmp_path, ",class,parent\nhot,lion,cat\n")


def test_classes_without_a_row_are_directly_under_the_root(tmp_path: Path) -> None:
    taxonomy = read(tmp_path, "class,parent\nlion,cat\ntiger,cat\n\n")
    assert chains(taxonomy) == {name: ["cat"] if name in ("lion", "tiger") else [] for name in CHAINS}
    assert taxonomy.num_unplaced == 4


def test_a_node_above_all_classes_is_left_out(tmp_path: Path) -> None:
    rows = "".join(f"{name},thing\n" for name in CHAINS)
    assert all(chain == [] for chain in chains(read(tmp_path, f"class,parent\n{rows}")).values())


def test_a_class_may_be_the_parent_of_others(tmp_path: Path) -> None:
    taxonomy = read(tmp_path, "class,parent\nlion,lynx\ntiger,LYNX\nlynx,cat\n")
    assert chains(taxonomy)["lynx"] == ["lynx", "cat"]
    assert chains(taxonomy)["lion"] == ["lynx", "cat"]
    assert list(taxonomy.nodes[taxonomy.chains[2][0]].class_indices) == [0, 1, 2]
    assert taxonomy.num_unplaced == 3
    # The class has no row: it is a node all the same, with itself under it.
    taxonomy = read(tmp_path, "class,parent\nlion,lynx\n")
    assert list(taxonomy.nodes[taxonomy.chains[0][0]].class_indices) == [0, 2]


RANKS = {
    "class": ["lion", "tiger", "lynx", "wolf", "eagle"],
    "species": ["Panthera leo", "Panthera tigris", "Lynx lynx", "Canis lupus", "Aquila chrysaetos"],
    "genus": ["Panthera", "Panthera", "", "Canis", "Aquila"],
    "family": ["Felidae", "Felidae", "Felidae", "Canidae", ""],
    "order": ["Carnivora", "Carnivora", "Carnivora", "Carnivora", "Accipitriformes"],
}
RANK_CHAINS = {
    "lion": ["panthera leo", "panthera", "felidae", "carnivora"],
    "tiger": ["panthera tigris", "panthera", "felidae", "carnivora"],
    "lynx": ["lynx lynx", "felidae", "carnivora"],
    "wolf": ["canis lupus", "canis", "canidae", "carnivora"],
    "eagle": ["aquila chrysaetos", "aquila", "accipitriformes"],
    "car": [],
}


def table(columns: dict[str, list[str]], delimiter: str = ",") -> str:
    rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    return "".join(delimiter.join(row) + "\n" for row in rows)


def test_ranks_of_biology_are_put_in_their_order(tmp_path: Path) -> None:
    assert chains(read(tmp_path, table(RANKS))) == RANK_CHAINS
    backwards = dict(reversed(RANKS.items()))
    taxonomy = read(tmp_path, table(backwards, "\t"))
    assert chains(taxonomy) == RANK_CHAINS
    assert taxonomy.num_unplaced == 1


@pytest.mark.parametrize("name", ["label", "name", "common_name", "Common Name", "species"])
def test_class_may_be_a_rank(name: str, tmp_path: Path) -> None:
    columns = {
        "class": ["Mammalia", "Mammalia", "Mammalia", "Mammalia", "Aves"],
        "genus": RANKS["genus"],
        name: RANKS["species" if name == "species" else "class"],
    }
    assert chains(read(tmp_path, table(columns))) == {
        "lion": ["panthera", "mammalia"],
        "tiger": ["panthera", "mammalia"],
        "lynx": ["mammalia"],
        "wolf": ["canis", "mammalia"],
        "eagle": ["aquila", "aves"],
        "car": [],
    }


def test_a_numbering_of_the_rows_is_no_class_index_beside_names(tmp_path: Path) -> None:
    columns = {"class_index": ["4", "3", "2", "1", "0"], "label": RANKS["class"], "order": RANKS["order"]}
    assert chains(read(tmp_path, table(columns)))["eagle"] == ["accipitriformes"]
    del columns["label"]
    assert chains(read(tmp_path, table(columns)))["lion"] == ["accipitriformes"]


def test_other_ranks_go_from_the_most_specific_one_on(tmp_path: Path) -> None:
    columns = {
        "label": ["lion", "lynx", "eagle", "car"],
        "kind": ["cat", "cat", "bird", "motor"],
        "group": ["animal", "animal", "animal", ""],
    }
    expected = {"lion": ["cat", "animal"], "lynx": ["cat", "animal"], "eagle": ["bird", "animal"], "car": ["motor"]}
    assert {name: chain for name, chain in chains(read(tmp_path, table(columns))).items() if chain} == expected
    with pytest.raises(UsageError, match="the column 'group' has 1 different names, but 'kind', which follows"):
        read(tmp_path, table({name: columns[name] for name in ("label", "group", "kind")}))


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("class,parent\nlion,cat\nlionn,cat\n", "line 3: 'lionn' is no class of animals", "did you mean lion"),
        ("class,genus\nlion,P\npuma,P\n", "line 3: 'puma' is no class of animals", "by its label"),
        (
            "class,parent\nlion,cat\n\nPanthera leo,dog\n",
            "line 4: 'lion' lies under 'dog', but in line 2 under 'cat'",
            "",
        ),
        ("class,parent\nlion,cat\nlion,\n", "line 3: 'lion' lies under 'the root', but in line 2 under 'cat'", ""),
        (
            "class,genus,family\nlion,Panthera,Felidae\ntiger,Panthera,Canidae\n",
            "line 3: 'Panthera' lies under 'Canidae', but in line 2 under 'Felidae'",
            "one parent",
        ),
        ("class,parent\nlion,a\na,b\nb,c\nc,a\n", "a > b > c > a is a circle", "under itself"),
        ("class,parent\nlion,lion\n", "line 2: lion > lion is a circle", ""),
        ("class,parent\n,cat\n", "line 2: the class is empty", ""),
        ("class,genus,family\n,Panthera,Felidae\nlion,Panthera,Felidae\n", "line 2: the class is empty", ""),
        ("class,parent\nlion\n", "line 2 has 1 columns, the header has 2", ""),
        ("class,parent\nlion,cat,x\n", "line 2 has 3 columns, the header has 2", "double quotes"),
        ('class,parent\n"lion,cat\n', "line 2: ", ""),
        ("class,parent\n", "there is no tree in it", "class,parent"),
        ("", "there is no tree in it", "class,parent"),
        ("lion,cat\ntiger,cat\n", "no column holds classes of animals", "'label'"),
        (
            "class,order,genus\nMammalia,Carnivora,Panthera\n",
            r"no column holds classes of animals: 'class' \(Mammalia, …\) does not",
            "'label'",
        ),
        ("class\nlion\n", "there is no column of parents or of ranks", "class,parent"),
        ("class,parent,family\nlion,cat,x\n", "beside 'parent' there must be one column 'class'", ""),
        ("parent,child\nlion,cat\n", "beside 'parent' there must be one column 'class', not 'child'", ""),
        ("class,parent,Parent\nlion,cat,x\n", "two columns are named 'parent'", ""),
        (
            "label,genus,family,notes\nlion,P,F,x\n",
            "the place of the column 'notes' among the ranks genus, family",
            "",
        ),
    ],
)
def test_a_wrong_tree_is_one_clear_error(text: str, words: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read(tmp_path, text)
    assert hint in str(caught.value.hint)
    assert str(tmp_path / "tree.csv") in str(caught.value)


def test_an_unknown_class_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(UnknownClassError):
        read(tmp_path, "class,parent\nhamster,rodent\n")


@pytest.mark.parametrize("name", ["missing.csv", "x" * 5000, "a\0b"])
def test_a_tree_that_is_not_there_is_not_taken_for_a_label_set(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the tree") as caught:
        read_taxonomy(tmp_path / name, ANIMALS)
    assert "class,parent" in str(caught.value.hint)
    with pytest.raises(UsageError, match="Is a directory"):
        read_taxonomy(tmp_path, ANIMALS)


def test_a_name_of_two_classes_is_asked_for(tmp_path: Path) -> None:
    imagenet1k = labels.load_labels("imagenet1k")
    with pytest.raises(UsageError, match=r"line 2: 'crane' can mean 2 classes: 134 \(crane bird\), 517 \(crane\)"):
        read(tmp_path, "class,parent\ncrane,machine\n", imagenet1k)
    taxonomy = read(tmp_path, "class,parent\nn03126707,machine\ncrane bird,bird\n207,dog\n", imagenet1k)
    assert {index for index, chain in enumerate(taxonomy.chains) if chain} == {134, 207, 517}
    assert taxonomy.num_unplaced == 997


def test_heights_count_from_the_classes_to_the_root(tmp_path: Path) -> None:
    taxonomy = read(tmp_path, TREES["parents"])
    by_label = {node.label: taxonomy.heights[node.key] for node in taxonomy.nodes}
    assert by_label == {"big cat": 1, "cat": 2, "mammal": 3, "animal": 4, "machine": 1}
    assert taxonomy.heights[taxonomy.lineage(taxonomy.class_keys[0])[-1]] == 5


@given(
    st.lists(st.integers(0, 5), min_size=6, max_size=6),
    st.lists(st.integers(1, 8), min_size=8, max_size=8),
    st.randoms(use_true_random=False),
)
def test_any_tree_holds_under_each_node_what_a_literal_walk_finds(
    class_parents: list[int], steps: list[int], random: Random
) -> None:
    # Node i is under a node with a higher number, or under the root, which has the numbers from 8 on.
    node_parents = [index + step for index, step in enumerate(steps)]
    rows = [f"{label.label},n{parent}" for label, parent in zip(ANIMALS.labels, class_parents, strict=True)]
    rows += [f"n{index},{f'n{parent}' if parent < 8 else ''}" for index, parent in enumerate(node_parents)]

    def walk(index: int) -> list[int]:
        return [index, *walk(node_parents[index])] if index < 8 else []

    lineages = [walk(parent) for parent in class_parents]
    used = {node for lineage in lineages for node in lineage}
    rows = [row for row in rows if row[0] != "n" or int(row[1]) in used]
    random.shuffle(rows)
    with TemporaryDirectory() as folder:
        taxonomy = read(Path(folder), "class,parent\n" + "\n".join(rows))
    for class_index, lineage in enumerate(lineages):
        expected = [
            (f"n{node}", tuple(index for index, other in enumerate(lineages) if node in other)) for node in lineage
        ]
        chain = [taxonomy.nodes[position] for position in taxonomy.chains[class_index]]
        assert [(node.label, node.class_indices) for node in chain] == [
            (name, members) for name, members in expected if len(members) < 6
        ]
