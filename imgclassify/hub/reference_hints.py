"""Says which reference may be meant by a text that is no file, such as a repository or an address."""

from __future__ import annotations

import re
from pathlib import PurePath

from imgclassify import catalog
from imgclassify.hub.reference import FILE_SUFFIXES

_REPOSITORY = r"(?P<owner>[\w-]+)/(?P<name>[\w.-]+?)(?:@[\w./-]+)?"
_SITE = r"(?:https?://)?(?:www\.)?"
_FORMS = (
    (rf"(?:hf[-_]hub|hf|huggingface):{_REPOSITORY}", "write {repository}"),
    (rf"{_SITE}(?:huggingface|hf)\.co/{_REPOSITORY}/?(?:tree/.*)?", "write {repository}"),
    (
        rf"{_SITE}(?:huggingface|hf)\.co/{_REPOSITORY}/.*",
        "write {repository}, or fetch the file and give its path: -m ./FILE",
    ),
    (
        rf"{_SITE}github\.com/{_REPOSITORY}(?:\.git|/|/tree/.*)?",
        "write hub:{owner}/{name}/ENTRYPOINT, with --trust, if it is a repository for torch.hub",
    ),
    (r"file://(?P<path>.*)", "write {path}"),
    (r"[a-z][\w+.-]*://.*", "fetch the file, and give its path: -m ./FILE"),
    (r"torchvision/(?:models/)?(?P<name>\w+)", "write {name}"),
    (_REPOSITORY, "check the path; if it is a repository on the Hugging Face hub, write {repository}"),
)
"""(pattern of a reference, hint). {repository} is the reference of a repository on the Hugging Face hub."""
_SHORTEST = 3
"""The number of characters from which on a text may be meant for a name. Shorter ones are in many names."""


def suggest_reference(text: str) -> str:
    """Returns a hint for a reference that was taken for a file, which does not exist."""
    # A path with a file extension is more likely than a repository.
    has_suffix = text.lower().endswith(FILE_SUFFIXES)
    for pattern, hint in _FORMS[:-1] if has_suffix else _FORMS:
        if found := re.fullmatch(pattern, text):
            return hint.format(**found.groupdict(), repository=_name_repository(**found.groupdict()))
    stem = PurePath(text).stem
    is_name = has_suffix and len(stem) >= _SHORTEST
    named = catalog.filter_models(catalog.load_manifests(), stem) if is_name else []
    near = {each.name for each in named if each.has_weights}
    names = ", ".join(sorted(near, key=lambda name: (name != stem, name))[:3])
    return "check the path" + (f"; names of catalogued models have no suffix: {names}" if names else "")


def _name_repository(owner: str = "", name: str = "", **_: str) -> str:
    # timm's own repositories have the names of its models.
    return f"timm:{name}" if owner == "timm" else f"hf:{owner}/{name}"
