"""Mutated manifests: parsed or refused, in time, and nothing else."""

from __future__ import annotations

import time

import pytest
from fuzz import manifests as target
from fuzz import texts
from fuzz.harness import Input
from hypothesis import given, settings

SECONDS = 10.0
"""A hundred times what the slowest takes."""


@settings(max_examples=300)
@given(mutated=texts.mutated(target.seeds(), target.WORDS))
def test_a_mutated_manifest_is_read_or_refused(mutated: Input) -> None:
    begin = time.monotonic()
    assert target.attempt(mutated.content) in ("models", "refused")
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize("number", range(len(target.seeds())))
def test_every_seed_is_read(number: int) -> None:
    assert target.attempt(target.seeds()[number]) == "models"
