"""Regenerates models/features/efficientnet_lite0.json: `python tools/make_familiarity.py`; `--check` exits 1
when it differs.

The file holds the mean feature of the embedded model over images as those that it was trained on. The weights alone
give it: the last batch norm makes each of its channels N(β, γ²) over the training set, ReLU6 and average pooling
follow, and so the mean feature is the mean of ReLU6 of this distribution.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from generated_file import write_or_check

from imgclassify import catalog
from imgclassify.catalog import EMBEDDED_MODEL
from imgclassify.checkpoints import load_arrays, rename_parameters
from imgclassify.weights import fetch_weights

FOLDER = Path(__file__).resolve().parent.parent / "models" / "features"
LAST_NORM = "bn2"
"""In timm's names. Only ReLU6 and average pooling are between it and the features."""
SOURCE = (
    "the checkpoint itself: the mean of ReLU6 of N(beta, gamma^2), with the weight and bias of the last batch norm"
)


def relu6_mean(mean: float, std: float) -> float:
    """Returns the mean of min(max(x, 0), 6), where x has a normal distribution.

    It is the integral of P(x > t) over t from 0 to 6.
    """

    def tail(limit: float) -> float:
        """The mean of max(x − limit, 0)."""
        if std == 0:
            return max(mean - limit, 0.0)
        z = (mean - limit) / std
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return std * (z * math.erfc(-z / math.sqrt(2)) / 2 + density)

    return tail(0) - tail(6)


def feature_file() -> str:
    """Returns the text of the file. The mean has five significant digits."""
    model = catalog.find_model(EMBEDDED_MODEL)
    weights = fetch_weights(model.url, model.sha256)
    state_dict: dict[str, Any] = rename_parameters(load_arrays(weights.path), model.rename)
    betas, gammas = (state_dict[f"{LAST_NORM}.{name}"].tolist() for name in ("bias", "weight"))
    mean = [float(f"{relu6_mean(beta, abs(gamma)):.4e}") for beta, gamma in zip(betas, gammas, strict=True)]
    content = {
        "model": model.name,
        "weights": model.weights,
        "sha256": model.sha256,
        "source": SOURCE,
        "mean": mean,
    }
    return json.dumps(content, indent=0) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Regenerate models/features/efficientnet_lite0.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file differs")
    check = parser.parse_args(arguments).check
    return write_or_check(FOLDER / f"{EMBEDDED_MODEL}.json", feature_file(), check=check)


if __name__ == "__main__":
    sys.exit(main())
