"""Chooses the state_dict of a user's checkpoint, and gives its parameters the names of an architecture.

This is done once, before a backend sees the state_dict: both engines get the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from imgclassify import catalog, checkpoints
from imgclassify.catalog import ModelManifest, PreprocessSpec, Size
from imgclassify.checkpoints import StateDict
from imgclassify.checkpoints.candidates import Candidate, find_candidates, flatten, preference
from imgclassify.checkpoints.fitting import Fit, Wanted, fit_names, have_same_tensors
from imgclassify.checkpoints.misfit import Misfit
from imgclassify.checkpoints.state_dict import Checkpoint
from imgclassify.errors import CheckpointError
from imgclassify.graphs.graph import find_graph
from imgclassify.hub import architectures

logger = logging.getLogger("imgclassify")

_SIMILAR = 8
"""The number of parameters by which a checkpoint may differ from an architecture that is suggested for it."""
_SUGGESTED = 3
"""The number of architectures that an error suggests."""
_IMAGE_SIZE = {"torchvision": "image_size", "timm": "img_size"}
"""The option of each provider for the size of images, of networks with position embeddings."""


class FittedCheckpoint(NamedTuple):
    """The state_dict of a checkpoint, with the names of its architecture."""

    manifest: ModelManifest
    """The architecture, with the options and the preprocessing for this checkpoint."""
    state_dict: StateDict
    num_classes: int


def fit_checkpoint(
    checkpoint: Checkpoint, manifest: ModelManifest, *, key: str | None = None, source_name: str
) -> FittedCheckpoint:
    """Finds the state_dict that fits an architecture.

    Of several that fit, averaged weights come first, as in timm's own loader. What a user should know is logged:
    which of them is used, and what is left out.

    Args:
        key: the key of the state_dict in the checkpoint, with dots between the keys of nested mappings.
        source_name: names the checkpoint in errors.

    Raises:
        CheckpointError: no state_dict fits, or several do and none is preferred; or there is no such key.
    """
    candidates = find_candidates(checkpoint.content, checkpoint.path, key)
    wanted = find_wanted(manifest)
    found = _choose(candidates, wanted, source_name, by_key=bool(key))
    if found is None and not key and len(candidates) > 1:
        joined = fit_names(flatten(checkpoint.content).state_dict, wanted)
        found = joined if isinstance(joined, Fit) else None
    if found is None:
        raise _explain(candidates, wanted, manifest, source_name)
    _log_notes(found, source_name)
    return FittedCheckpoint(_adapt_manifest(manifest, found, source_name), found.state_dict, found.num_classes)


def read_fitted(path: Path, manifest: ModelManifest) -> StateDict:
    """Reads the state_dict of a user's own file that is in the catalog."""
    checkpoint = checkpoints.open_checkpoint(path)
    return fit_checkpoint(checkpoint, manifest, key=manifest.checkpoint_key, source_name=repr(str(path))).state_dict


def find_wanted(manifest: ModelManifest) -> Wanted:
    """Returns what an architecture needs: from its graph if there is one, which takes no torch, else from torch."""
    graph = find_graph(manifest, manifest.preprocess)
    shapes, heads, optional = graph.requirements() if graph else architectures.requirements(manifest)
    return Wanted(
        architecture=manifest.name,
        shapes=shapes,
        heads=heads,
        optional=optional,
        rename=checkpoints.renamer(manifest.rename),
        crop_size=manifest.preprocess.crop_size,
    )


def _choose(candidates: list[Candidate], wanted: Wanted, source_name: str, *, by_key: bool) -> Fit | None:
    """Returns the fit of the first candidate that fits, or None.

    Raises:
        CheckpointError: another candidate fits that is as good.
    """
    fits: list[tuple[Candidate, Fit]] = []
    for candidate in candidates:
        if len(candidate.state_dict) < len(wanted.shapes) // 2:
            continue
        fit = fit_names(candidate.state_dict, wanted)
        if isinstance(fit, Fit):
            fits.append((candidate, fit))
        elif fit.is_ambiguous and not fits:
            raise fit.to_error(source_name, wanted.architecture)
        elif candidate.is_averaged and not fits:
            logger.warning(
                "%s: the averaged weights under %r are not used: %s", source_name, candidate.key, fit.reason
            )
    if not fits:
        return None
    (chosen, fit), *others = fits
    others = [each for each in others if not have_same_tensors(each[1].state_dict, fit.state_dict)]
    rivals = [each.key for each, _ in others if preference(each) == preference(chosen)]
    if rivals:
        raise Misfit.ambiguous([chosen.key, *rivals], len(wanted.shapes)).to_error(source_name, wanted.architecture)
    names = " and ".join(repr(each.key) for each, _ in others)
    if chosen.is_averaged and not by_key:
        choice = f"; --checkpoint-key {others[0][0].key} takes the others" if others and others[0][0].key else ""
        logger.warning("%s: the averaged weights under %r are used%s", source_name, chosen.key, choice)
    elif others:
        logger.warning("%s holds %r and %s; %r is used", source_name, chosen.key, names, chosen.key)
    return fit


def _log_notes(fit: Fit, source_name: str) -> None:
    for note in fit.notes:
        logger.warning("%s %s", source_name, note)
    if fit.left_out:
        count = len(fit.left_out)
        shown = ", ".join(fit.left_out[:3]) + (" …" if count > 3 else "")
        logger.warning(
            "%s: %d %s left out, which the network does not have: %s",
            source_name,
            count,
            "tensor is" if count == 1 else "tensors are",
            shown,
        )


# What the tensors say about the preprocessing ------------------------------------------------------------------


def _adapt_manifest(manifest: ModelManifest, fit: Fit, source_name: str) -> ModelManifest:
    """Returns the manifest with the image size and the number of channels that the checkpoint is for."""
    spec = manifest.preprocess
    if fit.image_size is not None:
        spec = _resize_spec(spec, fit.image_size)
        options = {**manifest.options, _IMAGE_SIZE[manifest.provider]: fit.image_size}
        logger.warning(
            "%s: its position embeddings are for images of %d×%d pixels, so images are cropped to that after a "
            "resize to %s; --resize-size changes the latter",
            source_name,
            fit.image_size,
            fit.image_size,
            spec.resize_size if isinstance(spec.resize_size, int) else "×".join(map(str, spec.resize_size)),
        )
        manifest = replace(manifest, options=options)
    if fit.is_grey and spec.channel_order != "grey":
        # timm does the same: timm.data.loader.adapt_to_chs.
        mean, std = sum(spec.mean) / 3, sum(spec.std) / 3
        spec = replace(spec, channel_order="grey", mean=(mean,) * 3, std=(std,) * 3)
        logger.warning(
            "%s takes one channel, so images are converted to grey; mean %.4g and std %.4g are those of the "
            "architecture on average; --mean and --std change them",
            source_name,
            mean,
            std,
        )
    return replace(manifest, preprocess=spec)


def _resize_spec(spec: PreprocessSpec, side: int) -> PreprocessSpec:
    """Returns the preprocessing for square images of another size, of which the same share is cropped."""

    def scale(length: int, crop: int) -> int:
        return round(length * side / crop)

    height, width = spec.crop_size
    resize: int | Size = (
        scale(spec.resize_size, min(spec.crop_size))
        if isinstance(spec.resize_size, int)
        else (scale(spec.resize_size[0], height), scale(spec.resize_size[1], width))
    )
    return replace(spec, crop_size=(side, side), resize_size=resize)


# What fits instead -----------------------------------------------------------------------------------------------


def _explain(
    candidates: list[Candidate], wanted: Wanted, manifest: ModelManifest, source_name: str
) -> CheckpointError:
    """Returns the error for a checkpoint that does not fit. It says what the nearest candidate lacks."""
    misfits = [
        (each, fit)
        for each in sorted(candidates, key=lambda each: -len(each.state_dict))[:_SUGGESTED]
        if isinstance(fit := fit_names(each.state_dict, wanted), Misfit)
    ]
    candidate, misfit = max(misfits, key=lambda each: each[1].matched)
    names = [name for name in suggest_architectures(candidate.state_dict) if name != manifest.name]
    hint = f"it fits --arch {' or --arch '.join(names)}" if names else misfit.hint
    return misfit.to_error(source_name, manifest.name, hint=hint)


def suggest_architectures(state_dict: StateDict) -> list[str]:
    """Returns the names of catalogued models whose architecture a state_dict fits, a few at most."""
    names: list[str] = []
    for manifest in _catalogued_architectures():
        graph = find_graph(manifest, manifest.preprocess)
        if graph is None or abs(len(graph.requirements()[0]) - _count_parameters(state_dict)) > _SIMILAR:
            continue
        if isinstance(fit_names(state_dict, find_wanted(manifest)), Fit):
            names.append(manifest.name)
            if len(names) == _SUGGESTED:
                break
    return names


def _catalogued_architectures() -> Iterator[ModelManifest]:
    for manifest in catalog.load_manifests():
        if manifest.default and not manifest.file and manifest.provider in catalog.PROVIDERS:
            yield manifest


def _count_parameters(state_dict: StateDict) -> int:
    return sum(
        hasattr(value, "shape") and not name.endswith(checkpoints.BATCH_COUNTER_SUFFIX)
        for name, value in state_dict.items()
    )
