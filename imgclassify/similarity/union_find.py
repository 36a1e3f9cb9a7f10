"""Joins things that belong together into sets, step by step."""

from __future__ import annotations

from collections import defaultdict


class UnionFind:
    """Sets of numbers that are joined step by step."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self._find(one), self._find(other)))
        self._parents[second] = first

    def sets(self) -> list[list[int]]:
        """Returns the sets, in the order of their smallest numbers, each ascending."""
        found: dict[int, list[int]] = defaultdict(list)
        for number in range(len(self._parents)):
            found[self._find(number)].append(number)
        return list(found.values())

    def _find(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number
