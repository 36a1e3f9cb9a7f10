"""A training that is killed at any moment goes on to the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from interrupted_training import RECIPE, digest, fit
from labelled_images import make_images

from imgclassify.errors import UsageError
from imgclassify.training import trainer
from imgclassify.training.fitting import Progress, StoppedError

KILLS = 10
TIMES = ("seconds", "images_per_second")
"""The keys of training.jsonl that differ between two runs."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_images(folder / "train", 3, 20, (40, 48))
    make_images(folder / "val", 3, 4, (40, 48))
    return folder


def history(work: Path) -> list[dict[str, Any]]:
    lines = (work / trainer.HISTORY).read_text("utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


class StopAfter:
    """Sets an event after a number of reports that are of steps."""

    def __init__(self, steps: int) -> None:
        self.event = Event()
        self._left = steps

    def __call__(self, progress: Progress) -> None:
        self._left -= progress.stage == "training"
        if self._left <= 0:
            self.event.set()


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports each step."""
    monkeypatch.setattr(trainer, "REPORT_SECONDS", 0.0)


def stop(data: Path, work: Path, steps: int, **more: Any) -> None:
    stopping = StopAfter(steps)
    with pytest.raises(StoppedError):
        fit(data, work, stop_event=stopping.event, report=stopping, **more)


def test_ten_kills_change_nothing(data: Path, tmp_path: Path) -> None:
    """interrupted_training.py trains once undisturbed, and once with SIGKILLs at random moments."""
    script = Path(__file__).parent.parent / "interrupted_training.py"
    done = subprocess.run(
        [sys.executable, script, data, tmp_path, str(KILLS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len({tuple(place) for place in found["places"]}) > KILLS // 2
    assert found["killed"] == found["undisturbed"] != None  # noqa: E711
    undisturbed, killed = (history(tmp_path / name) for name in ("undisturbed", "killed"))
    assert [record["epoch"] for record in killed] == list(range(RECIPE.epochs + 1))
    assert killed == undisturbed
    # Nothing is left of files that were being written.
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {
        path.name for path in (tmp_path / "undisturbed").iterdir()
    }


@pytest.mark.usefixtures("every_step")
class TestStopping:
    def test_a_training_that_was_asked_to_stop_goes_on(self, data: Path, tmp_path: Path) -> None:
        whole = fit(data, tmp_path / "whole")
        for steps in (1, 20, 33):
            stop(data, tmp_path / "stopped", steps, resume=True)
        assert digest(fit(data, tmp_path / "stopped", resume=True)) == digest(whole)
        assert history(tmp_path / "stopped") == history(tmp_path / "whole")

    def test_a_training_that_has_ended_gives_its_weights_again(self, data: Path, tmp_path: Path) -> None:
        whole = fit(data, tmp_path)
        reported: list[Progress] = []
        assert digest(fit(data, tmp_path, resume=True, report=reported.append)) == digest(whole)
        assert not reported

    def test_without_resume_it_begins_again(self, data: Path, tmp_path: Path) -> None:
        stop(data, tmp_path, 20)
        assert digest(fit(data, tmp_path)) == digest(fit(data, tmp_path / "other"))

    def test_a_stop_while_images_are_decoded(self, data: Path, tmp_path: Path) -> None:
        event = Event()

        def report(_: Progress) -> None:
            event.set()

        with pytest.raises(StoppedError):
            fit(data, tmp_path, stop_event=event, report=report)
        assert not (tmp_path / trainer.STATE).exists()
        assert digest(fit(data, tmp_path, resume=True)) == digest(fit(data, tmp_path / "other"))

    def test_the_seed_and_the_number_of_threads_count(self, data: Path, tmp_path: Path) -> None:
        """So the tests above could fail."""
        assert digest(fit(data, tmp_path / "five")) != digest(fit(data, tmp_path / "six", seed=6))


@pytest.mark.usefixtures("every_step")
class TestAnotherTraining:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"recipe": replace(RECIPE, learning_rate=0.5)}, "learning_rate was 0.003 and is now 0.5"),
            ({"seed": 6}, "seed was 5 and is now 6"),
            (
                {"recipe": replace(RECIPE, crop_scale=(0.25, 1.0))},
                r"crop_scale was \[0.5, 1.0\] and is now \[0.25, 1.0\]",
            ),
        ],
        ids=["recipe", "seed", "pair"],
    )
    def test_other_settings_are_refused(
        self, data: Path, tmp_path: Path, changes: dict[str, Any], words: str
    ) -> None:
        stop(data, tmp_path, 1)
        with pytest.raises(UsageError, match=f"^resume: .*{words}") as raised:
            fit(data, tmp_path, resume=True, **changes)
        assert raised.value.argument == "resume"

    def test_other_images_are_refused(self, data: Path, tmp_path: Path) -> None:
        stop(data, tmp_path / "work", 1)
        make_images(tmp_path / "data" / "train", 3, 19, (40, 48))
        make_images(tmp_path / "data" / "val", 3, 4, (40, 48))
        with pytest.raises(UsageError, match=r"began with other settings: the images differ$"):
            fit(tmp_path / "data", tmp_path / "work", resume=True)

    def test_other_weights_are_refused(self, data: Path, tmp_path: Path) -> None:
        stop(data, tmp_path, 1)
        with pytest.raises(UsageError, match=r"the initial weights differ$"):
            fit(data, tmp_path, resume=True, network_seed=99)

    @pytest.mark.parametrize(
        "damage", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      "], ids=["empty", "text", "no state"]
    )
    def test_a_damaged_state_is_said_to_be_so(self, data: Path, tmp_path: Path, damage: bytes) -> None:
        (tmp_path / trainer.STATE).write_bytes(damage)
        with pytest.raises(UsageError, match=r"^resume: the state in .* cannot be continued"):
            fit(data, tmp_path, resume=True)

    def test_a_state_that_was_cut_short_is_said_to_be_so(self, data: Path, tmp_path: Path) -> None:
        stop(data, tmp_path, 1)
        state = tmp_path / trainer.STATE
        state.write_bytes(state.read_bytes()[:-100])
        with pytest.raises(UsageError, match=r"^resume: the state in .* cannot be continued"):
            fit(data, tmp_path, resume=True)


def test_threads_are_those_of_the_first_process(data: Path, tmp_path: Path, every_step: None) -> None:
    stop(data, tmp_path, 1)
    former = torch.get_num_threads()
    used = []
    torch.set_num_threads(former + 1)
    try:
        fit(data, tmp_path, resume=True, report=lambda _: used.append(torch.get_num_threads()))
        assert set(used) == {former}
        assert torch.get_num_threads() == former + 1
    finally:
        torch.set_num_threads(former)
