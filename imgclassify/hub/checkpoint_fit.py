"""Chooses the state_dict of a user's checkpoint, and gives its parameters the names of an architecture.

This is done once, before a backend sees the state_dict: both engines get the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from imgclassify import catalog, checkpoints
from imgclassify.catalog import RGB, ModelManifest, PreprocessSpec, Size
from imgclassify.checkpoints import StateDict, Tensor
from imgclassify.checkpoints.candidates import Candidate, find_candidates, flatten, preference
from imgclassify.checkpoints.fitting import NORMALIZATION_NAMES, Fit, Wanted, fit_names, have_same_tensors
from imgclassify.checkpoints.misfit import EXPORT_HINT, SAVED_FROM_HINT, Misfit
from imgclassify.checkpoints.state_dict import Checkpoint
from imgclassify.errors import CheckpointError, make_printable
from imgclassify.graphs.graph import find_graph
from imgclassify.hub import architectures

_SIMILAR = 8
"""The number of parameters by which a checkpoint may differ from an architecture that is suggested for it."""
_SHOWN, _SHOWN_CHARACTERS = 3, 100
"""The number of names that a note shows, and of characters of each."""
_SUGGESTED = 3
"""The number of architectures that an error suggests."""
NO_ARCHITECTURE_FITS = f"no catalogued architecture fits: {SAVED_FROM_HINT}, such as timm:NAME; {EXPORT_HINT}"
_IMAGE_SIZE = {"torchvision": "image_size", "timm": "img_size"}
"""The option of each provider for the size of images, of networks with position embeddings."""


class FittedCheckpoint(NamedTuple):
    """The state_dict of a checkpoint, with the names of its architecture."""

    manifest: ModelManifest
    """The architecture, with the options and the preprocessing for this checkpoint."""
    state_dict: StateDict
    num_classes: int
    key: str = ""
    """The key of the state_dict in the checkpoint, if there are others that fit, or if the user names it."""
    notes: Sequence[str] = ()
    """What the user should know, as sentences: which of several state_dicts is used, and what is left out."""


def fit_checkpoint(
    checkpoint: Checkpoint, manifest: ModelManifest, *, key: str | None = None, source_name: str
) -> FittedCheckpoint:
    """Finds the state_dict that fits an architecture.

    Of several that fit, averaged weights come first, as in timm's own loader.

    Args:
        key: the key of the state_dict in the checkpoint, with dots between the keys of nested mappings.
        source_name: names the checkpoint in errors.

    Raises:
        CheckpointError: no state_dict fits, or several do and none is preferred; or there is no such key.
    """
    candidates = find_candidates(checkpoint.content, checkpoint.path, key)
    wanted = find_wanted(manifest)
    found, chosen_key, notes = _choose(candidates, wanted, source_name, by_key=bool(key))
    if found is None and not key and len(candidates) > 1:
        joined = fit_names(flatten(checkpoint.content).state_dict, wanted)
        found = joined if isinstance(joined, Fit) else None
    if found is None:
        raise _explain(candidates, wanted, manifest, source_name)
    notes += [*found.notes, *_describe_left_out(found.left_out)]
    manifest = _adapt_manifest(manifest, found, notes)
    return FittedCheckpoint(
        manifest, found.state_dict, found.num_classes, chosen_key, [f"{source_name}: {note}" for note in notes]
    )


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


def _choose(
    candidates: list[Candidate], wanted: Wanted, source_name: str, *, by_key: bool
) -> tuple[Fit | None, str, list[str]]:
    """Returns (the fit of the first candidate that fits, FittedCheckpoint.key, notes about the choice).

    Raises:
        CheckpointError: another candidate fits that is as good.
    """
    fits: list[tuple[Candidate, Fit]] = []
    notes = []
    for candidate in candidates:
        if len(candidate.state_dict) < len(wanted.shapes) // 2:
            continue
        fit = fit_names(candidate.state_dict, wanted)
        if isinstance(fit, Fit):
            if not any(have_same_tensors(fit.state_dict, other.state_dict) for _, other in fits):
                fits.append((candidate, fit))
        elif fit.is_ambiguous and not fits:
            raise fit.under(candidate.key).to_error(source_name, wanted.architecture)
        elif candidate.is_averaged and not fits:
            notes.append(f"the averaged weights under {candidate.key!r} do not fit, and are not used")
    if not fits:
        return None, "", []
    chosen, fit = fits[0]
    others = [candidate for candidate, _ in fits[1:]]
    rivals = [each.key for each in others if preference(each) == preference(chosen)]
    if rivals:
        raise Misfit.ambiguous([chosen.key, *rivals], len(wanted.shapes)).to_error(source_name, wanted.architecture)
    if chosen.is_averaged and not by_key:
        choice = f"; --checkpoint-key {others[0].key} takes the others" if others and others[0].key else ""
        notes.append(f"the averaged weights under {chosen.key!r} are used{choice}")
    elif others:
        unused = ", ".join(repr(each.key) for each in others)
        notes.append(f"the weights under {chosen.key!r} are used, not those under {unused}")
    return fit, chosen.key if by_key or others else "", notes


def _describe_left_out(tensors: Mapping[str, Any]) -> list[str]:
    count = len(tensors)
    if not count:
        return []
    shown = ", ".join(make_printable(name, _SHOWN_CHARACTERS) for name in list(tensors)[:_SHOWN])
    what = "tensor that belongs to no layer is" if count == 1 else "tensors that belong to no layer are"
    return [f"{count} {what} left out: {shown}{' …' if count > _SHOWN else ''}"]


# What the tensors say about the preprocessing ------------------------------------------------------------------


def _adapt_manifest(manifest: ModelManifest, fit: Fit, notes: list[str]) -> ModelManifest:
    """Returns the manifest with the image size, the channels and the normalisation that the checkpoint is for.

    Args:
        notes: gets a note of each change.
    """
    spec = manifest.preprocess
    if fit.image_size is not None:
        spec = _resize_spec(spec, fit.image_size)
        manifest = replace(manifest, options={**manifest.options, _IMAGE_SIZE[manifest.provider]: fit.image_size})
        size = f"{fit.image_size}×{fit.image_size}"
        notes.append(
            f"the position embeddings are for images of {size} pixels, so images are cropped to {size} after a "
            f"resize to {spec.resize_size}; --resize-size changes the latter"
        )
    if (normalization := _read_normalization(fit.left_out)) is not None:
        mean, std = normalization
        spec = replace(spec, mean=mean, std=std)
        notes.append(f"mean and std are those in the file: {mean} and {std}")
    if fit.is_grey and spec.channel_order != "grey":
        # timm does the same: timm.data.loader.adapt_to_chs.
        grey_mean, grey_std = sum(spec.mean) / 3, sum(spec.std) / 3
        spec = replace(spec, channel_order="grey", mean=(grey_mean,) * 3, std=(grey_std,) * 3)
        notes.append(
            f"the network takes one channel, so images are converted to grey; mean {grey_mean:.4g} and std "
            f"{grey_std:.4g} are averages over the channels of the architecture's"
        )
    return replace(manifest, preprocess=spec)


def _read_normalization(tensors: Mapping[str, Any]) -> tuple[RGB, RGB] | None:
    """Returns (mean, std) of a layer that normalises images, in 0..1. None if there is no such layer."""
    found: dict[str, RGB] = {}
    for name, value in tensors.items():
        kind = NORMALIZATION_NAMES.get(name.rpartition(".")[2])
        if kind and isinstance(value, Tensor) and math.prod(value.shape) == 3:
            red, green, blue = (round(float(each), 6) for each in value.to_array().ravel())
            found.setdefault(kind, (red, green, blue))
    if found.keys() != {"mean", "std"} or min(found["std"]) <= 0:
        return None
    scale = 255 if max(*found["mean"], *found["std"]) > 1 else 1
    mean, std = (tuple(each / scale for each in found[kind]) for kind in ("mean", "std"))
    return mean, std  # type: ignore[return-value]


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
    if names := [name for name in suggest_architectures(candidate.state_dict) if name != manifest.name]:
        hint = f"it fits --arch {' or --arch '.join(names)}"
    elif misfit.hint == SAVED_FROM_HINT:
        hint = NO_ARCHITECTURE_FITS
    else:
        hint = misfit.hint
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
