"""Mutated files of calibrations: read or refused, and nothing else."""

from __future__ import annotations

from fuzz import calibrations as target
from fuzz.harness import Input
from fuzz.mutations import mutated
from hypothesis import HealthCheck, given, settings


def test_every_seed_is_read() -> None:
    for name, content in target.seeds().items():
        assert target.attempt(Input(name, content)) == "read"


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(changed=target.exchanged() | mutated(target.seeds()))
def test_a_mutated_calibration_is_read_or_refused(changed: Input) -> None:
    assert target.attempt(changed) in ("read", "refused")
