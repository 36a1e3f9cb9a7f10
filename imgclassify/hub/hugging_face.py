"""Loads model folders from the Hugging Face hub: hf:OWNER/REPO[@REVISION].

Files are kept in the Hugging Face hub's own cache. Files that are there are not asked for again.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from imgclassify.errors import OfflineError, UsageError
from imgclassify.hub.hub_files import cached_file, download_file
from imgclassify.hub.model_files import MANIFEST, ModelFiles, digest_of_configs
from imgclassify.hub.model_folder import load_folder
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.reference import ModelReference, ReferenceLoader

_FORM = "hf:OWNER/REPO or hf:OWNER/REPO@REVISION"


class HuggingFaceLoader(ReferenceLoader):
    """Loads repositories of the Hugging Face hub; see ReferenceLoader."""

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        repository = _Repository(reference, offline=options.offline, quiet=options.progress is None)
        return load_folder(repository, options)

    def is_quick(self, reference: ModelReference) -> bool:
        return _Repository(reference, offline=True, quiet=True).find_local(MANIFEST) is not None

    def cache_key(self, reference: ModelReference) -> dict[str, Any]:
        repository = _Repository(reference, offline=True, quiet=True)
        return super().cache_key(reference) | {"code": digest_of_configs(repository)}


class _Repository(ModelFiles):
    """The files of a repository at one revision. Each is fetched when it is first asked for."""

    def __init__(self, reference: ModelReference, *, offline: bool, quiet: bool) -> None:
        """
        Raises:
            UsageError: the reference is malformed.
        """
        self.reference = reference.text
        name, at, revision = reference.value.partition("@")
        if not _is_repository(name) or (at and not revision):
            raise UsageError(f"malformed model reference {reference.text!r}", hint=f"write {_FORM}")
        self.name = name
        self._revision = revision
        self._offline = offline
        self._quiet = quiet

    def find_local(self, name: str) -> Path | None:
        return self._pin(cached_file(self.name, name, self._revision), name)

    def find(self, name: str) -> Path | None:
        if path := self.find_local(name):
            return path
        if self._offline:
            return None
        return self._pin(download_file(self.name, name, self._revision, quiet=self._quiet), name)

    def missing(self, names: str) -> Exception:
        if self._offline:
            return OfflineError(
                f"{names} of {self.name} is not in the Hugging Face cache, and nothing may be fetched now",
                hint=f"run `imgclassify models pull {self.reference}` while online",
            )
        return super().missing(names)

    def _pin(self, path: Path | None, name: str) -> Path | None:
        """Stays with the revision of the first file, so that all files belong together."""
        if path is not None:
            # The cache has a file as snapshots/REVISION/NAME.
            self._revision = path.parents[name.count("/")].name
        return path


def _is_repository(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    with suppress(HFValidationError):
        validate_repo_id(name)
        return name.count("/") == 1
    return False
