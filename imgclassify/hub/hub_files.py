"""Fetches files of repositories on the Hugging Face hub, into the hub's own cache, and verifies them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from imgclassify import weights
from imgclassify.errors import DownloadError, HashMismatchError, OfflineError, WeightsError, describe_error


def cached_file(repository: str, file_name: str, revision: str) -> Path | None:
    """Returns a file of a repository, or None if it is not in the cache.

    Args:
        revision: a branch, tag or commit. Empty for the main branch.
    """
    # Even with local_files_only, hf_hub_download sends a request, for its statistics.
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file_name, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


def download_file(repository: str, file_name: str, revision: str, *, quiet: bool, hint: str = "") -> Path | None:
    """Fetches a file of a repository. Returns its path, or None if the repository does not have it.

    Args:
        revision: as in `cached_file`.
        quiet: whether to show no progress.
        hint: what else the user can do if the hub cannot be reached, as a clause.

    Raises:
        DownloadError: the hub cannot be reached, or refuses the file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    if quiet:
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return Path(hf_hub_download(repository, file_name, revision=revision or None))
    except LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError: the hub cannot be reached
        reason: Exception = error
    except EntryNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - the base of its HTTP exceptions differs between releases
        reason = error
    raise _explain(reason, repository, file_name, revision, hint) from reason


def _explain(error: Exception, repository: str, file_name: str, revision: str, hint: str) -> WeightsError:
    """Returns the error for a file that the hub does not give."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return OfflineError(
            f"{file_name} of {repository} is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids fetching it",
            hint="unset HF_HUB_OFFLINE once to fetch it",
        )
    if isinstance(error, GatedRepoError):
        return DownloadError(
            f"the repository {repository} is gated: its owner gives access to people who have asked for it",
            hint=f"ask for access at {constants.ENDPOINT}/{repository}, then set HF_TOKEN or run `hf auth login`",
        )
    if isinstance(error, RepositoryNotFoundError):
        return DownloadError(
            f"the Hugging Face hub has no repository {repository}, or it is private",
            hint="check the name; set HF_TOKEN or run `hf auth login` if it is private",
        )
    if isinstance(error, RevisionNotFoundError):
        return DownloadError(
            f"the repository {repository} has no revision {revision!r}",
            hint="give a branch, a tag or the full hash of a commit after the @",
        )
    return DownloadError(
        f"cannot fetch {file_name} of {repository} from the Hugging Face hub: {describe_error(error)}",
        hint="check the network; set HF_ENDPOINT to use a mirror, and HF_TOKEN if the repository needs a token"
        + (f"; or {hint}" if hint else ""),
    )


def verified_digest(path: Path) -> str:
    """Returns the file's SHA-256, compared with the expected one if the file's name contains it.

    The Hugging Face cache names large files by their SHA-256.

    Raises:
        HashMismatchError: the file has another SHA-256.
    """
    digest, blob = weights.sha256_of(path), path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != digest:
        raise HashMismatchError(
            f"{path} has the wrong content: expected SHA-256 {blob.name}, found {digest}",
            hint=f"remove {blob} and run again to fetch it",
        )
    return digest
