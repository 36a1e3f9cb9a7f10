"""What torch networks of users return: tensors, tuples, dictionaries and objects."""

from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgclassify import Classifier
from imgclassify.catalog import PreprocessSpec
from imgclassify.engines import LOGITS
from imgclassify.engines.probing import OneAtATime, probe_network
from imgclassify.engines.torch_engine import TorchEngine
from imgclassify.errors import CheckpointError, UsageError

SPEC = PreprocessSpec(24, (24, 24), "bilinear", True, (0.0,) * 3, (1.0,) * 3)
Named = namedtuple("Named", ["logits", "aux"])  # as torchvision has GoogLeNetOutputs


class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As transformers': a dictionary whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@dataclass
class Fields:
    scores: torch.Tensor
    hidden: torch.Tensor | None = None


class Returning(torch.nn.Module):
    def __init__(self, form: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self._form = form

    def forward(self, images: torch.Tensor) -> Any:
        return self._form(images, images.mean(dim=(2, 3)) * self.weight)


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)


def infer(form: Any, count: int = 4, num_labels: int | None = 3, output_name: str | None = None) -> np.ndarray:
    engine = TorchEngine(
        lambda: Returning(form), SPEC, device="cpu", num_labels=num_labels, output_name=output_name
    )
    return engine.infer(crops(count))[LOGITS]


FORMS: dict[str, Any] = {
    "a tensor": lambda images, means: means,
    "a list of one": lambda images, means: [means],
    "a tuple with a map": lambda images, means: (images, means),
    "a dictionary with text": lambda images, means: {"task": "classify", "out": means},
    "a named tuple without auxiliary": lambda images, means: Named(means, None),
    "a ModelOutput with hidden states": lambda images, means: ModelOutput(
        logits=means, hidden_states=(images, images), pooler_output=means * 2
    ),
    "fields": lambda images, means: Fields(means),
    "features of another width": lambda images, means: (means, images.mean(dim=2).flatten(1)),
    "(N, C, 1, 1)": lambda images, means: means[:, :, None, None],
    "float64": lambda images, means: means.double(),
    "squeezed": lambda images, means: means.squeeze(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 4])
def test_the_logits_are_found(form: str, count: int) -> None:
    wanted = crops(count).mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(infer(FORMS[form], count), wanted, atol=1e-6)


def test_of_two_heads_the_user_chooses_by_name_or_position() -> None:
    def pair(images: torch.Tensor, means: torch.Tensor) -> Any:
        return means, -means

    def named(images: torch.Tensor, means: torch.Tensor) -> Any:
        return Named(means, -means)

    with pytest.raises(UsageError, match=r"0 \(float32 .*1 \(float32") as error:
        infer(pair)
    assert "--output-name" in str(error.value.hint)
    np.testing.assert_allclose(infer(pair, output_name="1"), -infer(pair, output_name="0"))
    np.testing.assert_allclose(infer(named, output_name="aux"), -infer(named, output_name="logits"))
    with pytest.raises(UsageError, match="no output 'head'"):
        infer(named, output_name="head")
    assert infer(named, num_labels=None).shape == (4, 3)


@pytest.mark.parametrize(
    "form",
    [
        lambda images, means: images,
        lambda images, means: means.argmax(dim=1),
        lambda images, means: "cat",
        lambda images, means: None,
        lambda images, means: {},
        lambda images, means: means[0, 0],
    ],
)
def test_what_is_no_row_for_each_image_is_refused(form: Any) -> None:
    with pytest.raises(CheckpointError):
        infer(form)


def test_rows_that_depend_on_each_other_are_computed_apart() -> None:
    engine = TorchEngine(lambda: Returning(lambda images, means: means - means.mean(0)), SPEC, device="cpu")
    probe = probe_network(engine, (24, 24))
    assert isinstance(probe.engine, OneAtATime)
    np.testing.assert_array_equal(probe.engine.infer(crops(3))[LOGITS], np.zeros((3, 3)))
    plain = TorchEngine(lambda: Returning(FORMS["a tensor"]), SPEC, device="cpu")
    assert probe_network(plain, (24, 24)).engine is plain


class Tagger(torch.nn.Module):
    """Says of each channel by itself whether it is bright."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = (images.mean(dim=(2, 3)) * 10 - 5).sigmoid()
        return {"scores": scores, "maps": images}


def test_a_torchscript_program_of_independent_classes(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Tagger()), tmp_path / "tags.pt")
    (tmp_path / "tags.txt").write_text("red\ngreen\nblue\n")
    classifier = Classifier(
        str(tmp_path / "tags.pt"),
        labels=str(tmp_path / "tags.txt"),
        trust=True,
        resize_size=8,
        crop_size=8,
        interpolation="bilinear",
        mean=0.0,
        std=1.0,
    )
    assert (classifier.run.activation, classifier.run.multi_label) == ("none", True)
    result = classifier.predict(np.full((9, 9, 3), (255, 204, 51), np.uint8))
    found = {each.label: each.probability for each in result.predictions}
    for name, level in (("red", 1.0), ("green", 0.8), ("blue", 0.2)):
        assert found[name] == pytest.approx(1 / (1 + np.exp(5 - 10 * level)), abs=1e-5)
