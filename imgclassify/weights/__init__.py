"""Finds or downloads the weights file of a URL, and verifies it. Downloads go to torch.hub's own cache.

The contents of the file are read in checkpoints/.
"""

from imgclassify.http.addresses import public_url
from imgclassify.weights.cache import (
    Progress,
    cached_files,
    fetch_weights,
    is_cached,
    leftover_files,
    remove_cached,
    remove_leftover,
    sha256_of,
    verify_weights,
)
from imgclassify.weights.locations import cache_path
from imgclassify.weights.verification import WeightsFile

__all__ = [
    "Progress",
    "WeightsFile",
    "cache_path",
    "cached_files",
    "fetch_weights",
    "is_cached",
    "leftover_files",
    "public_url",
    "remove_cached",
    "remove_leftover",
    "sha256_of",
    "verify_weights",
]
