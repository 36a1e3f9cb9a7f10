"""Regenerates labels/imagenet1k.tree.tsv: `python tools/make_tree.py`; `--check` exits 1 when the file differs.

It reads data.noun of WordNet 3.0, which Debian's package wordnet-base installs. The file holds the synsets of the
1000 classes and all that lie above them, up to "entity". A synset may have several parents: a dog is both a canine
and a domestic animal. Which nodes are said of an image, and by which word, is decided in unsaid_nodes.txt.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from generated_file import write_or_check

from imgclassify.labels import load_labels

TARGET = Path(__file__).resolve().parent.parent / "labels" / "imagenet1k.tree.tsv"
WORDNET = Path("/usr/share/wordnet")
UNSAID = Path(__file__).resolve().parent / "unsaid_nodes.txt"
COLUMNS = ("wnid", "parents", "synonyms", "said", "gloss")
_HYPERNYMS = ("@", "@i")
"""The pointers of data.noun to a hypernym, and from an instance to its class (`man wninput`)."""


class Synset(NamedTuple):
    """A line of data.noun (`man wndb`)."""

    wnid: str
    parents: tuple[str, ...]
    synonyms: tuple[str, ...]
    gloss: str


def parse_synset(line: str) -> Synset:
    """Parses a line of data.noun."""
    data, _, gloss = line.partition(" | ")
    fields = iter(data.split())
    offset, _, kind = next(fields), next(fields), next(fields)
    synonyms = []
    for _ in range(int(next(fields), 16)):
        synonyms.append(next(fields).replace("_", " "))
        next(fields)  # the number of the meaning
    pointers = [(next(fields), next(fields), next(fields), next(fields)) for _ in range(int(next(fields)))]
    parents = tuple(f"{part}{target}" for symbol, target, part, _ in pointers if symbol in _HYPERNYMS)
    definition = gloss.partition('; "')[0].strip()  # without the example sentences
    return Synset(f"{kind}{offset}", parents, tuple(synonyms), definition)


def tree(nouns: Path, unsaid: str) -> str:
    """Returns the text of the file: a header line, then one line per synset, sorted by wnid.

    Args:
        nouns: data.noun.
        unsaid: the text of unsaid_nodes.txt.

    Raises:
        ValueError: a class is no synset of it, or a value would break the format, or a line of `unsaid` is wrong.
    """
    with nouns.open(encoding="utf-8") as stream:
        synsets = {synset.wnid: synset for line in stream if line[0] != " " for synset in [parse_synset(line)]}
    classes = [label.wnid or "" for label in load_labels("imagenet1k").labels]
    wanted = set(_with_ancestors([*classes], synsets))
    said = said_words(classes, synsets, unsaid)
    rows = [COLUMNS]
    for wnid in sorted(wanted):
        synset = synsets[wnid]
        if any(set("|\t") & set(text) for text in synset.synonyms):
            raise ValueError(f"{wnid}: a lemma holds a separator")
        rows.append((wnid, "|".join(synset.parents), "|".join(synset.synonyms), said.get(wnid, ""), synset.gloss))
    return "".join("\t".join(row) + "\n" for row in rows)


def _with_ancestors(wnids: list[str], synsets: dict[str, Synset]) -> Iterator[str]:
    seen: set[str] = set()
    while wnids:
        wnid = wnids.pop()
        if wnid not in synsets:
            raise ValueError(f"{wnid!r} is no noun of WordNet 3.0")
        if wnid not in seen:
            seen.add(wnid)
            yield wnid
            wnids += synsets[wnid].parents


def said_words(classes: list[str], synsets: dict[str, Synset], unsaid: str) -> dict[str, str]:
    """Returns wnid → the word that is said, for the nodes that are.

    Args:
        unsaid: the text of unsaid_nodes.txt, which says which they are.

    Raises:
        ValueError: a line of `unsaid` names no such node, or names it wrongly or twice.
    """
    above: Counter[str] = Counter()  # how many classes lie under a node, by any parent
    on_chains = set()
    for wnid in classes:
        above.update(set(_with_ancestors([wnid], synsets)) - {wnid})
        while synsets[wnid].parents:
            wnid = synsets[wnid].parents[0]
            on_chains.add(wnid)
    words = {wnid: synsets[wnid].synonyms[0] for wnid in on_chains if above[wnid] > 1}
    listed = set()
    for number, line in enumerate(unsaid.splitlines(), 1):
        wnid, _, text = line.partition("#")[0].strip().partition(" ")
        name, _, word = (part.strip() for part in text.partition("="))
        if not wnid:
            continue
        if wnid in listed or words.get(wnid) != name or (word and word not in synsets[wnid].synonyms[1:]):
            raise ValueError(f"{UNSAID.name}: line {number} is wrong: {line!r}")
        listed.add(wnid)
        words[wnid] = word
    return {wnid: word for wnid, word in words.items() if word}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Regenerate labels/imagenet1k.tree.tsv.")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, metavar="FOLDER", help="the folder of data.noun")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file differs")
    chosen = parser.parse_args(arguments)
    return write_or_check(TARGET, tree(chosen.wordnet / "data.noun", UNSAID.read_text("utf-8")), check=chosen.check)


if __name__ == "__main__":
    sys.exit(main())
