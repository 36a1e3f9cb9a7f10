"""Defines label sets: the names of a network's classes, and a search among them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import itemgetter

from imgclassify.errors import LabelsError

_NO_MATCH = 4
"""Greater than every rank of a match."""


@dataclass(frozen=True, slots=True)
class Label:
    """One class of a label set.

    The texts are kept as they were read, including control characters. Code that prints them must escape them.
    """

    class_index: int
    """0-based position among the network's logits."""
    wnid: str | None
    """WordNet id such as "n02099601"; None if it is unknown."""
    label: str
    """Text for people, never empty. Two classes may have the same label."""
    synonyms: tuple[str, ...] = ()
    """All names of the class (in the shipped sets, WordNet's lemmas); empty if they are unknown."""
    gloss: str = ""
    """A short definition; empty if it is unknown."""


@dataclass(frozen=True)
class LabelSet:
    """The labels of all classes of a network."""

    name: str
    """The name of a shipped set, such as "imagenet1k", or the path of a file as the user gave it."""
    labels: tuple[Label, ...]
    """The labels in class-index order: `labels[i].class_index == i`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, class_index: int) -> Label:
        return self.labels[class_index]

    def search(self, text: str) -> list[Label]:
        """Returns the classes that `text` may mean, best first. Case is ignored, and blank text finds nothing.

        The order is:

        1. classes whose wnid, label or synonym equals the text;
        2. classes whose label or synonym contains the text as whole words;
        3. classes whose label or synonym contains the text;
        4. classes whose gloss contains all words of the text.

        Each group is in class-index order.
        """
        wanted = text.strip().casefold()
        if not wanted:
            return []
        phrase = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
        ranked = [(_match_rank(label, wanted, phrase), label) for label in self.labels]
        return [label for rank, label in sorted(ranked, key=itemgetter(0)) if rank < _NO_MATCH]

    def find_nearest(self, text: str, count: int = 5) -> list[str]:
        """Returns up to `count` labels of which a name, or a word of a name, looks like `text` or a word of it."""
        from difflib import get_close_matches

        named: dict[str, str] = {}
        for label in self.labels:
            for name in (label.label, *label.synonyms):
                for key in (name.casefold(), *_words(name)):
                    named.setdefault(key, label.label)
        wanted = text.strip().casefold()
        near = [key for part in (wanted, *_words(wanted)) for key in get_close_matches(part, named, count, 0.75)]
        return list(dict.fromkeys(named[key] for key in near))[:count]

    def digest(self) -> str:
        """Returns the SHA-256 digest of the wnids and labels, in order: 64 hex digits."""
        from hashlib import sha256

        lines = "\n".join(f"{label.wnid or ''}\t{label.label}" for label in self.labels)
        return sha256(lines.encode(errors="surrogatepass")).hexdigest()

    def require_num_classes(self, num_classes: int) -> None:
        """Raises LabelsError unless the set names the classes of a network with `num_classes` outputs.

        These are as many labels as outputs. A single output may also have two labels: it then gives the probability
        of the second one.
        """
        if num_classes == 1 and len(self) > 2:
            raise LabelsError(
                f"label set {self.name} has {len(self)} classes, but the network has one output, "
                "which tells at most two classes apart",
                hint="give --labels FILE with one label, or with two: the second is that of a high output",
            )
        if len(self) != num_classes and (num_classes, len(self)) != (1, 2):
            raise LabelsError(
                f"label set {self.name} has {len(self)} classes, the network has {num_classes}",
                hint="give the labels that the network was trained with: --labels FILE, one label per class, "
                "in class-index order",
            )


def _words(text: str) -> list[str]:
    return re.findall(r"\b(?!and\b|the\b)\w{3,}", text.casefold())


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
