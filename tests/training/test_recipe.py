"""Recipes: their defaults, their file, and what is said of a setting that cannot be."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclassify.errors import UsageError
from imgclassify.training.recipe import METHODS, NETWORK_KINDS, default_recipe, named_recipe, settings_of
from imgclassify.training.recipe_file import format_recipe, parse_recipe, read_recipe

DEFAULT = default_recipe("finetune", 244)
TUTORIAL = named_recipe("tutorial")


class TestDefaults:
    @given(
        st.sampled_from(METHODS), st.integers(0, 10**7), st.sampled_from(NETWORK_KINDS), st.sampled_from([28, 224])
    )
    def test_every_number_of_images_has_a_recipe_that_can_be_read(
        self, method: str, num_images: int, kind: str, side: int
    ) -> None:
        recipe = default_recipe(method, num_images, kind=kind, crop_side=side)
        assert parse_recipe(format_recipe(recipe), "x", TUTORIAL) == recipe

    def test_fewer_images_are_seen_more_often_in_smaller_batches(self) -> None:
        few, many = (default_recipe("finetune", count, kind="transformer") for count in (200, 50_000))
        assert few.max_epochs > 2 * many.max_epochs
        assert few.batch_size < many.batch_size
        assert few.ema_decay < many.ema_decay
        # At least a dozen steps an epoch, and batches that a GPU is busy with.
        assert 200 // few.batch_size >= 8
        assert many.batch_size >= 32

    def test_steps_are_gentle_where_images_are_few(self) -> None:
        few, more = (default_recipe("finetune", count) for count in (244, 5000))
        assert (few.optimizer, more.optimizer) == ("sgd", "adamw")
        assert few.max_epochs < more.max_epochs
        assert 244 // few.batch_size >= 8

    def test_a_network_without_weights_needs_more_epochs_and_its_own_statistics(self) -> None:
        fine, scratch = (default_recipe(method, 5000) for method in METHODS)
        assert scratch.max_epochs >= 3 * fine.max_epochs
        assert scratch.learning_rate > fine.learning_rate
        assert (scratch.batch_norm, scratch.first_layer_rate) == ("updated", 1.0)

    def test_small_images_are_shifted_and_not_zoomed(self) -> None:
        recipe = default_recipe("scratch", 50_000, crop_side=32)
        assert (recipe.crop, recipe.crop_shift) == ("shifted", 4)  # He et al. 2015
        assert default_recipe("scratch", 50_000, crop_side=224).crop == "resized"

    def test_transformers_are_trained_with_adamw(self) -> None:
        assert default_recipe("scratch", 50_000, kind="transformer").optimizer == "adamw"

    def test_an_unknown_method_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^method is 'prob'"):
            default_recipe("prob", 10)


def test_the_tutorials_numbers_are_those_of_its_text() -> None:
    """https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html"""
    wanted = {"epochs": 2, "batch_size": 4, "optimizer": "sgd", "learning_rate": 0.001, "momentum": 0.9}
    wanted |= {"loss_every": 2000, "schedule": "constant", "weight_decay": 0.0, "crop": "center", "flip": 0.0}
    wanted |= {"ema_decay": 0.0, "keep": "last", "label_smoothing": 0.0, "trivial_augment": False}
    wanted |= {"dtype": "float32", "channels_last": False, "clip_norm": 0.0, "last_batch": "keep"}
    assert asdict(TUTORIAL).items() >= wanted.items()


class TestFile:
    @pytest.mark.parametrize("recipe", [DEFAULT, TUTORIAL], ids=["finetune", "tutorial"])
    def test_it_holds_every_setting_with_a_comment_and_is_read_again(self, recipe: Any) -> None:
        text = format_recipe(recipe)
        assert list(tomllib.loads(text)) == list(settings_of())
        lines = text.splitlines()
        for name, setting in settings_of().items():
            [position] = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
            comment = ""
            while (line := lines[(position := position - 1)]).startswith("# "):
                comment = f"{line.removeprefix('# ')} {comment}"
                assert len(line) <= 100
            assert comment == f"{setting.comment} ({setting.describe()}) "
        other = TUTORIAL if recipe is DEFAULT else DEFAULT
        assert parse_recipe(text, "x", other) == recipe

    def test_settings_that_are_left_out_have_their_defaults(self) -> None:
        recipe = parse_recipe("learning_rate = 1\nepochs = 3", "x", DEFAULT)
        assert recipe == replace(DEFAULT, learning_rate=1.0, epochs=3)
        assert isinstance(recipe.learning_rate, float)

    @pytest.mark.parametrize(
        ("line", "message", "hint"),
        [
            ("learnig_rate = 1", "my.toml: unknown setting 'learnig_rate'", "learning_rate"),
            ("batch-size = 1", "my.toml: unknown setting 'batch-size'", "batch_size"),
            ("[data]", "my.toml: unknown setting 'data'", "settings are epochs"),
            ("batch_size = 0", "my.toml: batch_size is 0, and must be a whole number of at least 1", "print"),
            ("batch_size = 2.5", "my.toml: batch_size is 2.5, and must be a whole number of at least 1", "print"),
            ("batch_size = true", "my.toml: batch_size is True, and must be a whole number", "print"),
            ('epochs = "many"', "epochs is 'many', and must be a whole number of at least 1, or \"auto\"", "print"),
            ("learning_rate = 0", "learning_rate is 0.0, and must be a number above 0", "print"),
            ("learning_rate = nan", "learning_rate is nan, and must be a number above 0", "print"),
            ('learning_rate = "1"', "learning_rate is '1', and must be a number above 0", "print"),
            ("flip = 1.5", "flip is 1.5, and must be a number from 0 to 1", "print"),
            ("flip = -1", "flip is -1.0, and must be a number from 0 to 1", "print"),
            ("flip = {}", "flip is {}, and must be a number from 0 to 1", "print"),
            ('optimizer = "adam"', 'optimizer is \'adam\', and must be one of "adamw", "sgd"', "print"),
            ("crop_scale = [0.5]", "crop_scale is [0.5], and must be [least, most], two numbers above 0", "print"),
            ("crop_scale = [0.5, 0.1]", "crop_scale is [0.5, 0.1], and must be [least, most]", "print"),
            ("crop_scale = 0.5", "crop_scale is 0.5, and must be [least, most]", "print"),
            ("nesterov = 1", "nesterov is 1, and must be true or false", "print"),
            ("momentum = 0.0\nnesterov = true", "my.toml: nesterov is True, and must be false", "print"),
            ("epochs = ", "my.toml: not TOML: Invalid value", "print"),
        ],
        ids=lambda text: text.partition("\n")[0][:20],
    )
    def test_one_sentence_says_what_is_wrong(self, line: str, message: str, hint: str) -> None:
        with pytest.raises(UsageError) as raised:
            parse_recipe(line, "my.toml", DEFAULT)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
        assert hint in str(raised.value.hint)

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"^recipe '.*none.toml': No such file"):
            read_recipe(tmp_path / "none.toml", DEFAULT)
        (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
        with pytest.raises(UsageError, match=r"^recipe '.*bytes.toml': 'utf-8' codec"):
            read_recipe(tmp_path / "bytes.toml", DEFAULT)
        (tmp_path / "good.toml").write_text("epochs = 7")
        assert read_recipe(tmp_path / "good.toml", DEFAULT).epochs == 7

    def test_an_unknown_name_lists_those_that_there_are(self) -> None:
        with pytest.raises(UsageError, match=r"^recipe 'turorial' is not known") as raised:
            named_recipe("turorial")
        assert "tutorial" in str(raised.value.hint)

    def test_a_setting_that_is_changed_in_code_is_checked_too(self) -> None:
        with pytest.raises(UsageError, match=r"^recipe: batch_size is 0") as raised:
            replace(DEFAULT, batch_size=0)
        assert raised.value.argument == "recipe"
