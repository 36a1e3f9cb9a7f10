"""Finds the class that a name in a data set stands for. Never guesses: what means two classes means none."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from imgclassify.file_names import safe_name
from imgclassify.labels.label_set import Label, LabelSet
from imgclassify.labels.tree import Tree, load_tree

if TYPE_CHECKING:
    from imgclassify.evaluation.class_map import ClassMap

_WNID = re.compile(r"([nvars][0-9]{8})(?:[\s_.-].*)?", re.DOTALL)
_BLANKS = re.compile(r"[\s_<>:\"/\\|?*]+")
_HYPHENS = re.compile(r"(?<=\S) *-+ *(?=\S)")
_WITH_SUFFIX = re.compile(r"(.+) \(([nvars][0-9]{8}|[0-9]{1,9})\)", re.DOTALL)
_INDEX = re.compile(r"[0-9]{1,9}")

K = TypeVar("K", bound=Hashable)

WAYS = ("label", "wnid", "class_index")
"""What a name may be."""


class Match(NamedTuple):
    """The classes that are right for a name."""

    label: str
    """The label of the class, or the name of the node."""
    wnid: str | None
    class_indices: frozenset[int]
    is_node: bool = False
    """Whether it is not one class, but all under a node of WordNet, or all that a map names."""
    is_number: bool = False
    """Whether the name was read as a class index."""
    note: str = ""
    """What the user should know about the choice."""


class Mismatch(NamedTuple):
    """Why a name stands for no class."""

    kind: str
    """unknown, ambiguous, or node: a node of WordNet that is no class."""
    reason: str = ""
    """What it may mean, in words. Empty for unknown names."""
    choices: tuple[frozenset[int], ...] = ()
    """The classes that it may mean."""
    remedy: str = ""
    """A name that means one of them."""
    by_label: Match | None = None
    """The class whose label it is, if it is only a synonym of the others."""


class ClassFinder:
    """The names of the classes of a label set, as data sets write them."""

    def __init__(self, label_set: LabelSet, class_map: ClassMap | None = None) -> None:
        """
        Args:
            class_map: what is looked for in it first, unless only a class index is meant.
        """
        self.label_set = label_set
        self._map = class_map

    def find(self, name: str, ways: Collection[str] = WAYS) -> Match | Mismatch:
        """Returns the class that a name stands for.

        It may be a label, a wnid, a wnid with a label behind it, a synonym, a class index, or a label with the
        wnid or the class index in brackets, as `imgclassify sort` names folders. A name that is written like that
        of the class comes first, then one that differs in case, then one with underscores or hyphens for blanks.

        Args:
            ways: what the name may be, of WAYS. A label may also be a synonym.
        """
        name = name.strip()
        if self._map and set(ways) != {"class_index"} and (mapped := self._map.find(name)):
            return mapped
        if "label" in ways and (found := self._find_label(name)):
            return found
        if "wnid" in ways and (found := self._find_wnid(name)):
            return found
        if "class_index" in ways and _INDEX.fullmatch(name) and int(name) < len(self.label_set):
            return self._to_match(self.label_set[int(name)], is_number=True)
        if "label" in ways and (nodes := self._node_names.get(normalise(name))):
            return self._describe_nodes(nodes)
        return Mismatch("unknown")

    def suggest(self, name: str) -> list[str]:
        """Returns names that may be meant by an unknown one: its singular, or up to three like it."""
        wanted = normalise(name)
        for singular in _singulars(wanted):
            found = self.find(singular, ["label"])
            if isinstance(found, Match):
                return [found.label]
            if found.kind != "unknown":
                return [singular]
        from difflib import get_close_matches

        return list(dict.fromkeys(self._shown[near] for near in get_close_matches(wanted, self._shown, 3, 0.8)))

    def explain(self, found: Mismatch, name: str) -> str:
        """Returns why a name stands for no class, as the end of a sentence that begins with the name."""
        if found.kind != "unknown":
            return found.reason
        near = self.suggest(name)
        return f"is no class of {self.label_set.name}" + (f"; did you mean {' or '.join(near)}?" if near else "")

    def require_used_map(self, names: Iterable[str]) -> None:
        """Raises UsageError if there is a map, and none of the names is in it."""
        if self._map:
            self._map.unused(names)

    def _find_label(self, name: str) -> Match | Mismatch | None:
        for spelling in _SPELLINGS:
            text = spelling(name)
            labels, synonyms = (
                names[spelling.__name__].get(text, set()) for names in (self._labels, self._synonyms)
            )
            if labels or synonyms:
                return self._choose(name, labels | synonyms, is_label=bool(labels))
        if suffixed := _WITH_SUFFIX.fullmatch(name):
            for label in self._with_key(suffixed[2]):
                names = (label.label, safe_name(label.label), *label.synonyms)
                if normalise(suffixed[1]) in map(normalise, names):
                    return self._to_match(label)
        return None

    def _choose(self, name: str, keys: set[str], *, is_label: bool) -> Match | Mismatch:
        """Chooses among the classes with a name, and the nodes if it is not the label of a class."""
        nodes = sorted(self._node_names.get(normalise(name), set()))
        labels = sorted((self._by_key[key][0] for key in keys), key=lambda label: label.class_index)
        if len(labels) == 1 and (is_label or not nodes):
            return self._to_match(labels[0])._replace(note=self._describe_choice(name, labels[0], nodes))
        choices = [self._to_match(label).class_indices for label in labels]
        meanings = [f"{label.label} (class {label.class_index}{_wnid_of(label)})" for label in labels]
        if not is_label:
            choices += map(self._under, nodes)
            meanings += [f"any {self._tree[wnid].name} ({wnid})" for wnid in nodes]
        remedy = labels[0].wnid or str(labels[0].class_index)
        by_label = [label for label in labels if normalise(label.label) == normalise(name)]
        return Mismatch(
            "ambiguous",
            f"can mean {' or '.join(meanings)}",
            tuple(choices),
            remedy,
            self._to_match(by_label[0]) if len(by_label) == 1 else None,
        )

    def _describe_choice(self, name: str, label: Label, nodes: list[str]) -> str:
        """Returns what the user should know if a node has the name of a class too, as WordNet's plane does."""
        if not nodes:
            return ""
        others = " or ".join(f"{self._tree[wnid].name} ({self._tree[wnid].gloss})" for wnid in nodes)
        gloss = f" ({label.gloss})" if label.gloss else ""
        return f"{name!r} is taken as class {label.class_index}, {label.label}{gloss}, not as {others}"

    def _find_wnid(self, name: str) -> Match | Mismatch | None:
        found = _WNID.fullmatch(name.casefold())
        if not found:
            return None
        if labels := self._by_key.get(found[1]):
            return self._to_match(labels[0])
        return self._describe_nodes({found[1]}) if found[1] in self._nodes else None

    def _describe_nodes(self, wnids: set[str]) -> Mismatch:
        nodes = sorted(wnids)
        choices = tuple(map(self._under, nodes))
        groups = [
            f"{self._tree[wnid].name} ({wnid}, {len(choice)} class{'es' * (len(choice) > 1)})"
            for wnid, choice in zip(nodes, choices, strict=True)
        ]
        remedy = self._tree[nodes[0]].name if len(nodes) == 1 and self._is_only_name(nodes[0]) else nodes[0]
        return Mismatch("node", f"is not one class, but a group: {' or '.join(groups)}", choices, remedy)

    def _is_only_name(self, wnid: str) -> bool:
        name = normalise(self._tree[wnid].name)
        return self._node_names[name] == {wnid} and name not in self._labels[normalise.__name__]

    def _to_match(self, label: Label, *, is_number: bool = False) -> Match:
        same = self._by_key[_key(label)]
        return Match(label.label, label.wnid, frozenset(each.class_index for each in same), is_number=is_number)

    def _with_key(self, text: str) -> Iterator[Label]:
        if text.isdigit() and int(text) < len(self.label_set):
            yield self.label_set[int(text)]
        yield from self._by_key.get(text, ())

    def _under(self, wnid: str) -> frozenset[int]:
        under = self._tree.under(wnid)
        return frozenset(label.class_index for label in self.label_set.labels if label.wnid in under)

    @cached_property
    def _by_key(self) -> dict[str, list[Label]]:
        """Classes with the same wnid are one class. Those with the same label are not."""
        labels: dict[str, list[Label]] = defaultdict(list)
        for label in self.label_set.labels:
            labels[_key(label)].append(label)
        return dict(labels)

    @cached_property
    def _labels(self) -> dict[str, dict[str, set[str]]]:
        return _index_names((label.label, _key(label)) for label in self.label_set.labels)

    @cached_property
    def _synonyms(self) -> dict[str, dict[str, set[str]]]:
        return _index_names((synonym, _key(label)) for label in self.label_set.labels for synonym in label.synonyms)

    @cached_property
    def _shown(self) -> dict[str, str]:
        """The names of classes and nodes, as they are compared → as they are shown."""
        shown = {normalise(name): name for wnid in self._nodes for name in self._tree[wnid].synonyms}
        for label in self.label_set.labels:
            shown.update((normalise(synonym), synonym) for synonym in label.synonyms)
        return shown | {normalise(label.label): label.label for label in self.label_set.labels}

    @cached_property
    def _tree(self) -> Tree:
        return load_tree()

    @cached_property
    def _nodes(self) -> frozenset[str]:
        """The nodes above the classes, without those that are classes."""
        wnids = {label.wnid for label in self.label_set.labels if label.wnid}
        return self._tree.above(wnids) - wnids if wnids else frozenset()

    @cached_property
    def _node_names(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = defaultdict(set)
        for wnid in self._nodes:
            for synonym in self._tree[wnid].synonyms:
                names[normalise(synonym)].add(wnid)
        return dict(names)


def settle(found: Mapping[K, Match | Mismatch]) -> dict[K, Match | Mismatch]:
    """Decides names that are the label of one class and a synonym of others, if other names stand for the others.

    So "crane" is the machine in a data set that has "crane bird" too, as one named by the labels has.
    """
    named = {match.class_indices for match in found.values() if isinstance(match, Match) and not match.is_node}
    return {
        name: each.by_label
        if isinstance(each, Mismatch)
        and each.by_label
        and all(choice in named for choice in each.choices if choice != each.by_label.class_indices)
        else each
        for name, each in found.items()
    }


def exact(text: str) -> str:
    """Returns the text in Unicode's form NFC."""
    return unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Returns the same text for texts that differ only in case."""
    return exact(text).casefold()


def normalise(text: str) -> str:
    """Returns the same text for texts that differ only in case, and in what stands for a blank.

    This may be an underscore, a hyphen, or a character that `safe_name` replaces.
    """
    return _HYPHENS.sub(" ", _BLANKS.sub(" ", fold(text))).strip()


_SPELLINGS = (exact, fold, normalise)


def _index_names(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, set[str]]]:
    """Returns for each spelling the keys by name."""
    names: dict[str, dict[str, set[str]]] = {spelling.__name__: defaultdict(set) for spelling in _SPELLINGS}
    for name, key in pairs:
        for spelling in _SPELLINGS:
            names[spelling.__name__][spelling(name)].add(key)
    return {spelling: dict(found) for spelling, found in names.items()}


def _key(label: Label) -> str:
    return label.wnid or f"#{label.class_index}"


def _wnid_of(label: Label) -> str:
    return f", {label.wnid}" if label.wnid else ""


def _singulars(plural: str) -> Iterator[str]:
    """Yields what an English plural may be the plural of."""
    for ending, singular in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
        if plural.endswith(ending) and len(plural) > len(ending) + 1:
            yield plural.removesuffix(ending) + singular
