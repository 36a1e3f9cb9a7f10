"""Reads the model catalog: the manifests in models/*.toml and in the user's own files of the same form.

A manifest ties weights, preprocessing and a label set together. None of the three is inferred from another.
"""

from imgclassify.catalog.lookup import (
    SORT_KEYS,
    filter_models,
    find_model,
    load_manifests,
    require_weights,
    user_models_folder,
)
from imgclassify.catalog.manifest import (
    ACTIVATIONS,
    CHANNEL_ORDERS,
    CROP_MODES,
    CROP_ROUNDINGS,
    EMBEDDED_MODEL,
    INTERPOLATIONS,
    MAX_SIDE,
    PROGRAMS,
    PROVIDERS,
    RGB,
    FeatureLayers,
    ModelManifest,
    ModelMetadata,
    PreprocessSpec,
    PublishedTemperature,
    Size,
)
from imgclassify.catalog.parsing import parse_manifests, parse_preprocess, parse_temperature

__all__ = [
    "ACTIVATIONS",
    "CHANNEL_ORDERS",
    "CROP_MODES",
    "CROP_ROUNDINGS",
    "EMBEDDED_MODEL",
    "INTERPOLATIONS",
    "MAX_SIDE",
    "PROGRAMS",
    "PROVIDERS",
    "RGB",
    "SORT_KEYS",
    "FeatureLayers",
    "ModelManifest",
    "ModelMetadata",
    "PreprocessSpec",
    "PublishedTemperature",
    "Size",
    "filter_models",
    "find_model",
    "load_manifests",
    "parse_manifests",
    "parse_preprocess",
    "parse_temperature",
    "require_weights",
    "user_models_folder",
]
