"""Mutated outputs: gone on with or refused, and nothing else."""

from __future__ import annotations

from fuzz import outputs as target
from fuzz.harness import Input
from fuzz.mutations import mutated
from hypothesis import HealthCheck, given, settings


def test_every_seed_is_gone_on_with() -> None:
    for name, content in target.seeds().items():
        assert target.attempt(Input(name.split()[0], content)) == "gone on with"


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(changed=mutated(target.seeds()))
def test_a_mutated_output_is_gone_on_with_or_refused(changed: Input) -> None:
    assert target.attempt(changed) in ("gone on with", "refused")
