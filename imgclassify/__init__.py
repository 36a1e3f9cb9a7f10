"""imgclassify classifies images with pretrained models, from the command line and from Python.

    from imgclassify import Classifier

    classifier = Classifier("resnet50")
    result = classifier.predict("dog.jpg")
    print(result.predictions[0].label, result.predictions[0].probability)

Importing this module is cheap: each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from imgclassify._version import __version__

if TYPE_CHECKING:
    from imgclassify.catalog import ModelManifest, PreprocessSpec
    from imgclassify.classifier import Classifier
    from imgclassify.embedding import ImageEmbedding
    from imgclassify.errors import ExitStatus, ImageError, ImgclassifyError
    from imgclassify.labels import LabelSet
    from imgclassify.results import ImageFailure, ImageResult, Prediction, RunInfo

_HOMES = {
    "Classifier": "classifier",
    "ExitStatus": "errors",
    "ImageEmbedding": "embedding",
    "ImageError": "errors",
    "ImageFailure": "results",
    "ImageResult": "results",
    "ImgclassifyError": "errors",
    "LabelSet": "labels",
    "ModelManifest": "catalog",
    "Prediction": "results",
    "PreprocessSpec": "catalog",
    "RunInfo": "results",
}
"""The module that defines each public name."""

__all__ = [
    "Classifier",
    "ExitStatus",
    "ImageEmbedding",
    "ImageError",
    "ImageFailure",
    "ImageResult",
    "ImgclassifyError",
    "LabelSet",
    "ModelManifest",
    "Prediction",
    "PreprocessSpec",
    "RunInfo",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
