"""What the classes of a network are called, and which of them a text may mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import itemgetter

from imgclassify.errors import LabelsError

_NO_MATCH = 4
"""Worse than every rank of a match."""


@dataclass(frozen=True, slots=True)
class Label:
    """One class of a label set.

    The texts are kept as their source has them, control characters too: what prints them escapes them.
    """

    class_index: int
    """0-based position among the network's logits."""
    wnid: str | None
    """WordNet id such as "n02099601"; None where the source has none."""
    label: str
    """Human text, never empty; two classes may share it."""
    synonyms: tuple[str, ...] = ()
    """All names of the class (WordNet's lemmas, in the shipped sets); empty where the source has none."""
    gloss: str = ""
    """A definition; empty where the source has none."""


@dataclass(frozen=True)
class LabelSet:
    """What the classes of a network are called."""

    name: str
    """A shipped set's name such as "imagenet1k", or the file as the user named it."""
    labels: tuple[Label, ...]
    """In class-index order: `labels[i].class_index == i`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, class_index: int) -> Label:
        return self.labels[class_index]

    def search(self, text: str) -> list[Label]:
        """The classes that `text` may mean, best first; case is ignored, and blank text finds nothing.

        First those whose wnid, label or a synonym it is; then those where it stands as whole words in label
        or synonym; then those where it is part of one; last those whose gloss has all its words. Each group
        is in class-index order.
        """
        wanted = text.strip().casefold()
        if not wanted:
            return []
        phrase = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
        ranked = [(_match_rank(label, wanted, phrase), label) for label in self.labels]
        return [label for rank, label in sorted(ranked, key=itemgetter(0)) if rank < _NO_MATCH]

    def digest(self) -> str:
        """SHA-256 of its wnids and labels, in order: 64 hex digits."""
        from hashlib import sha256

        lines = "\n".join(f"{label.wnid or ''}\t{label.label}" for label in self.labels)
        return sha256(lines.encode(errors="surrogatepass")).hexdigest()

    def require_num_classes(self, num_classes: int) -> None:
        """Raises LabelsError unless the set names exactly `num_classes` classes."""
        if len(self) != num_classes:
            raise LabelsError(
                f"label set {self.name} has {len(self)} classes, the network has {num_classes}",
                hint="give the labels the network was trained with: --labels FILE, one label a class, "
                "in class-index order",
            )


def _match_rank(label: Label, wanted: str, phrase: re.Pattern[str]) -> int:
    names = [name.casefold() for name in (label.label, *label.synonyms)]
    if wanted == label.wnid or wanted in names:
        return 0
    if any(phrase.search(name) for name in names):
        return 1
    if any(wanted in name for name in names):
        return 2
    words = set(re.findall(r"\w+", wanted))
    if words and words <= set(re.findall(r"\w+", label.gloss.casefold())):
        return 3
    return _NO_MATCH
