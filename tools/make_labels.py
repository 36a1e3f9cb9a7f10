"""Regenerates the label sets in labels/: `python tools/make_labels.py`; `--check` exits 1 when a file differs.

The labels of cifar10 are `label_names` in the file batches.meta of CIFAR-10, in its order. It gives the classes no
wnids.

The labels of imagenet1k are torchvision's categories. Wnids, lemmas and definitions come from timm's copy of
WordNet 3.0, because the development environment has it. That copy was compared with WordNet 3.0's own data.noun
(from Debian's wordnet-base). For all 1000 synsets it was the same: every lemma in WordNet's spelling and order, and
every gloss up to its first example sentence. No lemma contains a comma, so splitting timm's text at ", " loses
nothing. 28 of WordNet's glosses continue with such examples ("the church was empty"). timm leaves them out, and
so does the file, because the definition alone distinguishes the classes.
"""

import argparse
import sys
from pathlib import Path

from generated_file import write_or_check
from timm.data import ImageNetInfo
from torchvision.models import ResNet50_Weights

FOLDER = Path(__file__).resolve().parent.parent / "labels"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COLUMNS = ("class_index", "wnid", "label", "synonyms", "gloss")


def imagenet1k() -> str:
    """Returns the text of the file: a header line, then one line per class, in class-index order.

    Raises:
        ValueError: torchvision and timm disagree on the classes, or a value would break the format.
    """
    info = ImageNetInfo("imagenet-1k")
    rows = [COLUMNS]
    for class_index, (wnid, label) in enumerate(
        zip(info.label_names(), ResNet50_Weights.DEFAULT.meta["categories"], strict=True)
    ):
        lemmas = info.label_name_to_description(wnid)
        gloss = info.label_name_to_description(wnid, detailed=True).removeprefix(f"{lemmas}: ")
        synonyms = lemmas.split(", ")
        # torchvision adds a word to names that occur twice: "crane bird", "maillot tank suit".
        if not label.startswith(synonyms[0]):
            raise ValueError(f"class {class_index}: torchvision's {label!r} is not {wnid}, {lemmas!r}")
        if any(set("|,") & set(synonym) for synonym in synonyms):
            raise ValueError(f"{wnid}: a lemma of {lemmas!r} holds a separator")
        rows.append((str(class_index), wnid, label, "|".join(synonyms), gloss))
    if any(set("\t\r\n") & set(cell) or cell != cell.strip() for row in rows for cell in row):
        raise ValueError("a value holds a tab or a line break, or begins or ends with a space")
    return "".join("\t".join(row) + "\n" for row in rows)


def cifar10() -> str:
    """Returns the text of the file: only labels, because no more is published of the classes."""
    rows = [COLUMNS, *((str(class_index), "", label, "", "") for class_index, label in enumerate(CIFAR10))]
    return "".join("\t".join(row) + "\n" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Regenerate the label sets in labels/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file differs")
    check = parser.parse_args(arguments).check
    texts = {"cifar10.tsv": cifar10(), "imagenet1k.tsv": imagenet1k()}
    return max(write_or_check(FOLDER / name, text, check=check) for name, text in texts.items())


if __name__ == "__main__":
    sys.exit(main())
