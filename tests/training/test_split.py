"""The division into a part to train on and a validation part."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclassify.errors import ExitStatus, UsageError
from imgclassify.training.split import find_leaks, split_images


def val_counts(class_indices: list[int], is_val: list[bool]) -> Counter[int]:
    return Counter(index for index, val in zip(class_indices, is_val, strict=True) if val)


def split(class_indices: list[int], groups: list[int] | None = None, **options: float) -> list[bool]:
    arguments = {"fraction": 0.2, "seed": 0, **options}
    return split_images(class_indices, groups or [*range(len(class_indices))], **arguments)  # type: ignore[arg-type]


def error_of(class_indices: list[int], groups: list[int], **options: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        split_images(class_indices, groups, **{"fraction": 0.2, "seed": 0, **options})  # type: ignore[arg-type]
    assert caught.value.exit_status is ExitStatus.USAGE
    assert caught.value.hint
    return caught.value


def test_each_class_has_the_fraction_for_validation() -> None:
    class_indices = [0] * 100 + [1] * 50 + [2] * 10
    assert val_counts(class_indices, split(class_indices)) == {0: 20, 1: 10, 2: 2}


def test_parts_are_rounded_so_that_they_sum_up_to_the_fraction_of_all() -> None:
    class_indices = [index for index in range(40) for _ in range(7)]  # a fifth of 7 is 1.4
    counts = val_counts(class_indices, split(class_indices))
    assert counts.total() == 40 * 7 / 5
    assert set(counts.values()) == {1, 2}


@pytest.mark.parametrize(("fraction", "expected"), [(0.001, 1), (0.5, 3), (0.999, 5)])
def test_each_side_has_an_image_of_each_class(fraction: float, expected: int) -> None:
    class_indices = [0] * 6 + [1] * 6
    assert val_counts(class_indices, split(class_indices, fraction=fraction)) == {0: expected, 1: expected}


def test_the_split_is_the_same_each_time_and_another_for_another_seed() -> None:
    class_indices = [0] * 50 + [1] * 50
    assert split(class_indices) == split(class_indices)
    assert len({tuple(split(class_indices, seed=seed)) for seed in range(20)}) == 20


def test_the_split_of_a_seed_stays_the_same() -> None:
    """A model folder says which seed it was made with."""
    is_val = split([0] * 10 + [1] * 10, seed=7)
    assert [index for index, val in enumerate(is_val) if val] == [3, 6, 11, 12]


def test_every_image_is_for_validation_with_some_seed() -> None:
    is_val = [split([0] * 10 + [1] * 10, seed=seed) for seed in range(60)]
    assert all(any(column) and not all(column) for column in zip(*is_val, strict=True))


def test_a_group_is_whole_on_one_side() -> None:
    groups = [0, 0, 0, 1, 1, 2, 3, 4, 5, 6] * 2
    groups = groups[:10] + [group + 10 for group in groups[10:]]
    for seed in range(50):
        is_val = split([0] * 10 + [1] * 10, groups, seed=seed)
        sides = dict(zip(groups, is_val, strict=True))
        assert [sides[group] for group in groups] == is_val
        assert val_counts([0] * 10 + [1] * 10, is_val) == {0: 2, 1: 2}


def test_large_groups_come_as_near_to_the_fraction_as_whole_groups_can() -> None:
    groups = [0] * 40 + [1] * 30 + [2] * 30
    assert sum(split([0] * 100, groups, fraction=0.2)) == 30
    assert sum(split([0] * 100, groups, fraction=0.4)) in (30, 40)
    # A group that would exceed the part by more than the part lacks is left out, if there is another one.
    assert sum(split([0] * 100, [0, 1, 2] + [3] * 97, fraction=0.2)) == 3


def test_a_group_of_two_classes_is_left_to_train_on_where_others_can_be_taken() -> None:
    class_indices = [0] * 10 + [1] * 10
    groups = [0, *range(1, 10), 0, *range(11, 20)]
    assert not any(split(class_indices, groups, seed=seed)[0] for seed in range(30))


def test_a_group_of_two_classes_is_taken_if_there_is_no_other() -> None:
    is_val = split([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])
    assert is_val[0] != is_val[1]
    assert 0 < val_counts([0, 0, 1, 1, 1], is_val)[1] < 3


def test_a_class_that_is_one_group_is_an_error_that_names_it() -> None:
    error = error_of([0, 0, 1, 1, 1], [0, 1, 2, 2, 2], classes=("cat", "dog"))
    assert str(error) == (
        "no image of class 'dog' can be set apart for validation: all its 3 images are near duplicates of "
        "each other"
    )
    assert "--val FOLDER" in str(error.hint)
    assert "class 'dog' can be set apart for validation: it has only one" in str(
        error_of([0, 0, 1], [0, 1, 2], classes=("cat", "dog"))
    )
    assert "class 1 " in str(error_of([0, 0, 1], [0, 1, 2]))


def test_classes_whose_groups_are_those_of_others_may_be_an_error() -> None:
    # Of three groups two are on one side, and each two of them are a class.
    error = error_of([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 0, 2], classes=("a", "b", "c"))
    assert "all are near duplicates of images of other classes" in str(error)


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 20, float("nan")])
def test_a_fraction_is_between_0_and_1(fraction: float) -> None:
    error = error_of([0, 0, 1, 1], [0, 1, 2, 3], fraction=fraction)
    error.rename_argument("--val")
    assert str(error) == f"--val must be above 0 and below 1, not {fraction}"


data_sets = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), min_size=1, max_size=60)
fractions = st.floats(0.01, 0.99)


@given(data_sets, fractions, st.integers(0, 2**70))
def test_groups_of_one_class_are_whole_and_each_class_is_on_both_sides(
    data: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    class_indices = [index for index, _ in data]
    groups = [100 * index + group for index, group in data]
    groups_of = {index: {each for each in groups if each // 100 == index} for index in set(class_indices)}
    if any(len(found) == 1 for found in groups_of.values()):
        error_of(class_indices, groups, fraction=fraction, seed=seed)
        return
    is_val = split(class_indices, groups, fraction=fraction, seed=seed)
    sides = dict(zip(groups, is_val, strict=True))
    assert [sides[group] for group in groups] == is_val
    for found in groups_of.values():
        assert {sides[group] for group in found} == {True, False}
    # Neither the numbers of the groups nor those of the classes matter, if their order stays.
    assert is_val == split([3 * index + 1 for index in class_indices], [-group for group in groups],
                           fraction=fraction, seed=seed)  # fmt: skip


@given(st.lists(st.integers(2, 40), min_size=1, max_size=20), fractions, st.integers(0, 2**32))
def test_without_groups_the_fraction_is_exact(counts: list[int], fraction: float, seed: int) -> None:
    class_indices = [index for index, count in enumerate(counts) for _ in range(count)]
    found = val_counts(class_indices, split(class_indices, fraction=fraction, seed=seed))
    for index, count in enumerate(counts):
        assert abs(found[index] - fraction * count) < 1 or found[index] in (1, count - 1)
    if all(1 <= fraction * count <= count - 1 for count in counts):
        assert abs(found.total() - fraction * len(class_indices)) <= 0.5 + 1e-6


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=4, max_size=24), st.integers(0, 99))
def test_where_groups_have_several_classes_a_split_is_found_or_there_is_an_error(
    data: list[tuple[int, int]], seed: int
) -> None:
    class_indices, groups = ([pair[place] for pair in data] for place in (0, 1))
    pairs = set(zip(class_indices, groups, strict=True))
    try:
        is_val = split(class_indices, groups, seed=seed)
    except UsageError as error:
        if "of other classes" in str(error):
            assert any(len({index for index, each in pairs if each == group}) > 1 for group in groups)
        return
    sides = {(index, val) for index, val in zip(class_indices, is_val, strict=True)}
    assert sides == set(product(set(class_indices), (True, False)))
    assert len(set(zip(groups, is_val, strict=True))) == len(set(groups))


def test_leaks_are_images_to_train_on_whose_group_is_for_validation_too() -> None:
    assert find_leaks([0, 1, 2, 1, 3], [4, 1, 3, 3]) == [1, 3, 4]
    assert find_leaks([0, 1], []) == []
