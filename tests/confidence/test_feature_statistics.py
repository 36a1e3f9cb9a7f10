"""The mean feature that ships, against torch, scipy and the features of images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from imgclassify.catalog import EMBEDDED_MODEL, find_model
from imgclassify.confidence import feature_statistics
from imgclassify.confidence.feature_statistics import find_feature_mean
from imgclassify.engines import FEATURES, LOGITS
from imgclassify.errors import ResourceError
from imgclassify.runner import load_runner
from imgclassify.weights import fetch_weights

SHA256 = find_model(EMBEDDED_MODEL).sha256
EXAMPLES = Path(__file__).parents[2] / "examples"


def shipped() -> np.ndarray:
    mean = find_feature_mean(SHA256)
    assert mean is not None
    return mean


def test_the_mean_is_that_of_a_normal_distribution_after_relu6() -> None:
    model = find_model(EMBEDDED_MODEL)
    weights = torch.load(fetch_weights(model.url, model.sha256).path, weights_only=True)
    mean = shipped()
    assert mean.shape == (1280,)
    for channel in range(0, 1280, 40):
        law = norm(weights["_bn1.bias"][channel].item(), abs(weights["_bn1.weight"][channel].item()))
        assert mean[channel] == pytest.approx(law.expect(lambda x: x, lb=0, ub=6) + 6 * law.sf(6), rel=6e-5)


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (-2, 0.5), (7, 1), (3, 4), (-40, 1), (40, 1)])
def test_the_tools_formula_is_the_mean_of_a_sample(mean: float, std: float) -> None:
    tool = importlib.import_module("make_familiarity")
    sample = np.random.default_rng(0).normal(mean, std, 400_000).clip(0, 6)
    assert tool.relu6_mean(mean, std) == pytest.approx(sample.mean(), abs=5 * sample.std() / 630 + 1e-12)


@pytest.mark.parametrize("value", [-1, 2.5, 7])
def test_a_channel_that_never_changes_has_its_own_value(value: float) -> None:
    tool = importlib.import_module("make_familiarity")
    assert tool.relu6_mean(value, 0) == min(max(value, 0), 6)


def test_the_mean_resembles_the_features_of_photographs() -> None:
    """Its length is what three photographs have, to a half, and it is nearer to them than zero is."""
    runner = load_runner(None, outputs=(LOGITS, FEATURES))
    features = np.array([output.arrays[FEATURES] for output in runner.run(EXAMPLES) if output.arrays])
    assert len(features) == 3
    assert 0.5 < features.sum(axis=1).mean() / shipped().sum() < 1.5
    assert np.linalg.norm(features.mean(axis=0) - shipped()) < np.linalg.norm(features.mean(axis=0))


def test_other_weights_have_no_mean() -> None:
    assert find_feature_mean("0" * 64) is None
    assert find_feature_mean("") is None
    assert find_feature_mean(SHA256[:16]) is None


def test_regenerating_the_file_changes_nothing() -> None:
    assert importlib.import_module("make_familiarity").main(["--check"]) == 0


def test_the_tool_tells_a_file_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = importlib.import_module("make_familiarity")
    monkeypatch.setattr(tool, "FOLDER", tmp_path)
    assert tool.main(["--check"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert tool.main([]) == tool.main(["--check"]) == 0
    [file] = tmp_path.iterdir()
    assert json.loads(file.read_text("utf-8"))["sha256"] == SHA256


@pytest.mark.parametrize("text", ["", "{", '{"sha256": "%s"}', '{"sha256": "%s", "mean": ["x"]}', '["%s"]'])
def test_a_damaged_file_is_named_as_such(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_statistics, "data_folder", lambda _: tmp_path)
    if text:
        (tmp_path / "features").mkdir()
        (tmp_path / "features" / "a.json").write_text(text % SHA256 if "%" in text else text + SHA256)
    with pytest.raises(ResourceError, match="mean features that ship with imgclassify"):
        find_feature_mean(SHA256)
