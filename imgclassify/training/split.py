"""PROVISIONAL"""
from __future__ import annotations
from collections.abc import Sequence
import random
from collections import defaultdict

def split_images(class_indices: Sequence[int], groups: Sequence[int], *, fraction: float, seed: int) -> list[bool]:
    members: dict[int, list[int]] = defaultdict(list)
    for i, g in enumerate(groups):
        members[g].append(i)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    chosen = [False] * len(groups)
    per_class = defaultdict(int)
    total = defaultdict(int)
    for c in class_indices: total[c] += 1
    for g in order:
        c = class_indices[members[g][0]]
        if per_class[c] + len(members[g]) <= max(1, round(fraction * total[c])):
            for i in members[g]: chosen[i] = True
            per_class[c] += len(members[g])
    return chosen

def find_leaks(train_groups: Sequence[int], val_groups: Sequence[int]) -> list[int]:
    s = set(val_groups)
    return [i for i, g in enumerate(train_groups) if g in s]
