"""Regenerates labels/imagenet1k.tsv: `python tools/make_labels.py`; `--check` exits 1 when the file differs.

Labels are torchvision's categories. Wnids, lemmas and definitions are timm's copy of WordNet 3.0, because
the development environment has it. Compared with WordNet 3.0's own data.noun (from Debian's wordnet-base),
that copy was the same for all 1000 synsets: every lemma in WordNet's spelling and order (none holds a comma,
so timm's ", " splits them without loss), and every gloss up to its first example sentence. 28 of WordNet's
glosses go on with such examples ("the church was empty"); timm leaves them out, and so does the file: a
definition is what tells one class from another.
"""

import argparse
import sys
from pathlib import Path

from timm.data import ImageNetInfo
from torchvision.models import ResNet50_Weights

TARGET = Path(__file__).resolve().parent.parent / "labels" / "imagenet1k.tsv"
COLUMNS = ("class_index", "wnid", "label", "synonyms", "gloss")


def imagenet1k() -> str:
    """The file's text: a header line, then one line a class, in class-index order.

    Raises:
        ValueError: the two sources disagree on the classes, or a value would break the format.
    """
    info = ImageNetInfo("imagenet-1k")
    rows = [COLUMNS]
    for class_index, (wnid, label) in enumerate(
        zip(info.label_names(), ResNet50_Weights.DEFAULT.meta["categories"], strict=True)
    ):
        lemmas = info.label_name_to_description(wnid)
        gloss = info.label_name_to_description(wnid, detailed=True).removeprefix(f"{lemmas}: ")
        synonyms = lemmas.split(", ")
        # torchvision tells namesakes apart with a word more: "crane bird", "maillot tank suit".
        if not label.startswith(synonyms[0]):
            raise ValueError(f"class {class_index}: torchvision's {label!r} is not {wnid}, {lemmas!r}")
        if any(set("|,") & set(synonym) for synonym in synonyms):
            raise ValueError(f"{wnid}: a lemma of {lemmas!r} holds a separator")
        rows.append((str(class_index), wnid, label, "|".join(synonyms), gloss))
    if any(set("\t\r\n") & set(cell) or cell != cell.strip() for row in rows for cell in row):
        raise ValueError("a value holds a tab or a line break, or begins or ends with a space")
    return "".join("\t".join(row) + "\n" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Regenerate labels/imagenet1k.tsv.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file differs")
    check = parser.parse_args(arguments).check
    expected = imagenet1k().encode()
    if TARGET.is_file() and TARGET.read_bytes() == expected:
        print(f"labels/{TARGET.name} is up to date")
        return 0
    if check:
        print(f"labels/{TARGET.name} differs: run python tools/make_labels.py", file=sys.stderr)
        return 1
    TARGET.write_bytes(expected)
    print(f"labels/{TARGET.name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
