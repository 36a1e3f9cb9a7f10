"""Manifests of the user's own, of any content: read whole or refused in words."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from fuzz import harness, texts
from fuzz.harness import FindingError, Target

from imgclassify import catalog, paths, weights
from imgclassify.catalog import lookup
from imgclassify.errors import ManifestError, WeightsError

OWN = b"""\
[[models]]
name = "birds"
weights = "V1"
default = true
architecture = "resnet18"
provider = "torchvision"
url = "https://models.example.org/birds-0123abcd.pth"
sha256 = "0123abcd"
num_classes = 200
label_set = "/data/birds/labels.txt"
preprocess = { resize_size = [256, 300], crop_size = 224, interpolation = "bilinear", antialias = true, \
mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225], crop_mode = "squash" }
options = { image_size = 384, backend = "x", nested = { when = 1979-05-27T07:32:00Z, parts = [1, [2.5, "three"]] } }
rename = [["^module\\\\.", ""], ["(a|b)\\\\.([0-9]+)", "\\\\2.\\\\1"]]

[models.metadata]
num_params = 25557032
gflops = 4.089
acc1 = 80.858
acc5 = 95.434
min_size = [1, 1]
file_size_mib = 97.79
license = ''
recipe = "https://example.org"
"""

WORDS = [b"[[models]]\n", b"[", b"]", b"{", b"}", b"=", b".", b"a.", b'"', b"'''", b"inf", b"nan", b"-1", b"1e999"]
WORDS += [
    b"0x" + b"f" * 40,
    b"9" * 5000,
    b"\\u0000",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff",
    b"(",
    b"(?i)",
    b"{9999999999}",
]
WORDS += [b'file = "a/b.pth"\n', b"gflops = 1.5\n", b'"onnx"']
WORDS += [b"\\g<9>", b"file:///dev/zero", b"package:os/x", b"checkpoint_path", b"true", b"9999-12-31", b"\r"]
"""What a mutation may put in: TOML's own signs, and what lies at the ends of what it can say."""


@cache
def seeds() -> list[bytes]:
    """Manifests that parse."""
    shipped = [entry.read_bytes() for entry in paths.data_folder("models").iterdir() if entry.is_file()]
    return [OWN, *sorted(shipped, key=len)[:6]]


def attempt(content: bytes) -> str:
    """What becomes of a manifest: "models" or "refused". Whatever else is raised is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "own.toml")
        file.write_bytes(content)
        try:
            models = catalog.parse_manifests(lookup.read_manifest_file(file), str(file))
        except ManifestError as error:
            if str(file) not in str(error):
                raise FindingError(f"an error that names no file: {error}") from error
            return "refused"
    for model in models:
        json.dumps(model.to_dict(), allow_nan=False)
        with suppress(WeightsError):
            weights.cache_path(model.url)
    return "models"


def target() -> Target:
    return Target("manifests", texts.mutated(seeds(), WORDS), lambda given_input: attempt(given_input.content))


if __name__ == "__main__":
    harness.main(target())
