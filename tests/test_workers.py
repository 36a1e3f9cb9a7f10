"""What decodes images, and how many: what a user says, and what is chosen for the rest."""

from __future__ import annotations

import math

import pytest

from imgclassify import Classifier
from imgclassify.errors import UsageError
from imgclassify.images import workers
from imgclassify.images.workers import WorkerChoice

PHOTO, TINY = (224, 224), (32, 32)


@pytest.mark.parametrize(
    ("said", "kind", "number"),
    [
        (None, None, None),
        (3, None, 3),
        ("3", None, 3),
        ("threads", "threads", None),
        ("processes", "processes", None),
        ("threads:2", "threads", 2),
        ("processes:12", "processes", 12),
    ],
)
def test_a_kind_and_a_number_may_be_given(said: int | str | None, kind: str | None, number: int | None) -> None:
    assert WorkerChoice.parse(said) == (kind, number)


@pytest.mark.parametrize(
    "said", [0, -1, True, 2.0, "", "0", "-3", "1.5", "four", "threads:", "threads:0", "process", "3 "]
)
def test_anything_else_is_refused_with_what_can_be_given(said: object) -> None:
    with pytest.raises(UsageError, match=r"^workers is ") as caught:
        Classifier(workers=said)  # type: ignore[arg-type]
    assert "processes:N" in (caught.value.hint or "")
    assert caught.value.argument == "workers"


@pytest.mark.parametrize(
    ("cores", "images_per_second", "crop_size", "num_images", "chosen"),
    [
        (2, 200, PHOTO, None, "threads"),  # the embedded model on two cores
        (8, 800, PHOTO, None, "threads"),
        (16, 1600, PHOTO, None, "processes"),
        (2, math.inf, PHOTO, None, "threads"),  # a GPU, but decoding is slower
        (8, math.inf, PHOTO, None, "processes"),
        (8, math.inf, PHOTO, 1499, "threads"),  # done before the processes have started
        (8, math.inf, PHOTO, 1500, "processes"),
        (2, 20_000, TINY, None, "processes"),
        (2, 20_000, TINY, 100, "threads"),
        (2, 500, TINY, None, "threads"),
    ],
)
def test_processes_are_chosen_where_threads_would_not_keep_up(
    cores: int, images_per_second: float, crop_size: tuple[int, int], num_images: int | None, chosen: str
) -> None:
    facts = {
        "cores": cores,
        "images_per_second": images_per_second,
        "crop_size": crop_size,
        "num_images": num_images,
    }
    assert WorkerChoice().complete(**facts) == (chosen, cores)  # type: ignore[arg-type]
    other = "threads" if chosen == "processes" else "processes"
    assert WorkerChoice(other, 5).complete(**facts) == (other, 5)  # type: ignore[arg-type]


def test_there_are_at_most_so_many_unless_the_user_wants_more() -> None:
    facts = {"cores": 192, "images_per_second": math.inf, "crop_size": PHOTO, "num_images": None}
    assert WorkerChoice().complete(**facts) == ("processes", workers.MAX_WORKERS)  # type: ignore[arg-type]
    assert WorkerChoice(None, 100).complete(**facts)[1] == 100  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isolate": True, "workers": "threads"}, "isolate works only with worker processes"),
        (
            {"decode_device": "gpu", "workers": "processes:2"},
            'workers="processes" works only with decoding on the CPU',
        ),
    ],
)
def test_kinds_that_exclude_each_other_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Classifier(**options)  # type: ignore[arg-type]
    assert caught.value.hint
