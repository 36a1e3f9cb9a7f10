"""Completion in bash of words that contain @, : or =."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from typer._completion_classes import BashComplete

_BREAKS = "@:="
"""The characters among bash's COMP_WORDBREAKS that occur in model references, URLs and options."""


class JoiningBashComplete(BashComplete):
    """Joins the words into which bash splits "resnet50@IMAGENET1K_V1", and offers only what bash will replace."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, part = super().get_completion_args()
        *args, incomplete = join_words([*args, part])
        self._kept = kept_prefix(incomplete, part)
        return args, incomplete

    def format_completion(self, item: Any) -> str:
        return super().format_completion(item).removeprefix(self._kept)


def kept_prefix(word: str, part: str) -> str:
    """Returns the beginning of a word that bash does not replace.

    Args:
        part: what bash takes as the word, because of its breaks.
    """
    if part == word:
        return ""
    kept = word if not part.strip(_BREAKS) else word.removesuffix(part)
    if word.startswith("-"):  # of --model=NAME, only NAME is completed
        kept = kept.partition("=")[2]
    return kept.removesuffix("@")  # readline's rl_special_prefixes: an @ belongs to what follows it


def join_words(words: list[str]) -> list[str]:
    """Joins words that bash has split at breaks, which are words of their own. The result has at least one word."""
    joined: list[str] = []
    after_break = False
    for word in words:
        is_break = word != "" and not word.strip(_BREAKS)
        if joined and (is_break or (after_break and word)):
            joined[-1] += word
        else:
            joined.append(word)
        after_break = is_break
    return joined


def register_bash_completion() -> None:
    """Replaces typer's completion for bash."""
    # ShellComplete is in click or in typer's copy of click, by the release of typer.
    module = import_module(BashComplete.__mro__[1].__module__)
    module.add_completion_class(JoiningBashComplete, "bash")
