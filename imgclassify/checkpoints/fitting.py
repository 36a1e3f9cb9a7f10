"""Gives the tensors of a checkpoint the names that an architecture has for them.

Training scripts wrap networks, and so put prefixes before the names. They keep what belongs to no network beside
them, and replace the head. Only what cannot change what the network computes is left out: where a checkpoint has a
layer that the architecture has not, it holds another network, and nothing fits.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from imgclassify.checkpoints.candidates import StateDict, copy_metadata, is_averaged
from imgclassify.checkpoints.misfit import Differences, Misfit, Shape, describe_differences
from imgclassify.checkpoints.state_dict import BATCH_COUNTER_SUFFIX
from imgclassify.checkpoints.storage import Tensor

_INFIXES = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Components that wrappers of torch insert anywhere in a name: DataParallel, torch.compile, FSDP."""
_WRAPPERS = {
    *("model", "net", "network", "backbone", "encoder", "timm_model", "base_model", "feature_extractor"),
}
"""Attributes in which modules of users keep a network. They are taken off name by name. Where one prefix leads to
all names, it may be any."""
_HEAD_NAMES = {
    *("head", "heads", "fc", "classifier", "linear", "last_linear", "cls", "cls_head", "clf", "out", "output"),
    *("logits", "classification_head", "fc_out", "final"),
}
"""Attributes in which modules of users keep a head of their own, beside a network without one."""
_TRAINING = re.compile(
    r"(crit(erion)?|loss|losses|metrics?|acc|accuracy|scores?|f1|auroc|auc|precision|recall|confmat|queue|"
    r"optim(izer)?s?|schedulers?|scaler|mixup|total_ops|total_params|num_updates|n_averaged|class_weights?|"
    r"pos_weight|tp|fp|tn|fn|correct|total|preds|epochs?|steps?|best)(_.*|\d*)|"
    r".*_(criterion|crit|loss|losses|metrics?|acc|accuracy|f1|auroc|auc|precision|recall|queue|epoch|step)\d*|"
    r"(train|val|valid|validation|test)_.*"
)
"""A component of the names of what only training uses."""
_MAKES_PROBABILITIES = re.compile(r"temperature|logit_scale|.*calibrat.*")
"""A component of the names of what changes the probabilities of a network that it stands beside."""
NORMALIZATION_NAMES = {
    **dict.fromkeys(("mean", "new_mean", "mu", "image_mean", "pixel_mean"), "mean"),
    **dict.fromkeys(("std", "new_std", "sigma", "image_std", "pixel_std"), "std"),
}
"""Last components of the names of what a network normalises images with, before its first layer."""
_PROFILED = {"total_ops", "total_params"}
"""thop leaves these in every module that it has counted."""
_COMPUTED = {
    *("relative_position_index", "relative_coords_table", "attn_mask", "position_ids", "_extra_state"),
    *_PROFILED,
}
"""Last components of the names of what is computed when a network is built, or serves no computation."""
_LAYER = re.compile(r"weight(_g|_v|_orig)?|bias|running_(mean|var)|original[01]|gamma|beta|in_proj_\w+")
"""Last components of the names of a layer's parameters."""
_POSITIONS = re.compile(r"pos(ition)?_?embed(ding)?s?")
"""Last components of the names of position embeddings, (1, tokens, width)."""
_MAX_PREFIX = 6
"""The number of components that a prefix may have."""
_MAX_EXTRA_TOKENS = 16
"""The number of tokens that may come before those of patches, such as a class token."""


class Wanted(NamedTuple):
    """What an architecture needs."""

    architecture: str
    """Its name in errors."""
    shapes: Mapping[str, Shape]
    """The shapes of the parameters that it must be given, by name."""
    heads: Sequence[str]
    """The names of parameters whose first dimension is the number of classes, including optional ones."""
    optional: Mapping[str, Shape]
    """The shapes of those that it can do without, such as auxiliary heads."""
    rename: Callable[[str], str]
    """Gives a parameter of the publisher's own layout the architecture's name."""
    crop_size: tuple[int, int]
    """(height, width) of the images that the shapes are for."""


class Fit(NamedTuple):
    """A state_dict with the names of an architecture."""

    state_dict: StateDict
    num_classes: int
    left_out: dict[str, Any]
    """The tensors that belong to nothing, by their names in the checkpoint."""
    notes: list[str]
    """What a user should know, as clauses that follow the name of the file."""
    image_size: int | None = None
    """The side of the images that the position embeddings are for, if it is not that of the architecture."""
    is_grey: bool = False
    """Whether the network takes one channel. Its first convolution was extended: it takes three channels and uses
    the first."""


def fit_names(state_dict: StateDict, wanted: Wanted) -> Fit | Misfit:
    """Finds a tensor for each of an architecture's parameters."""
    found = _match_exactly(state_dict, wanted) or _match_by_prefix(state_dict, wanted)
    return found if isinstance(found, Misfit) else _fit_shapes(state_dict, found, wanted)


class _Match(NamedTuple):
    """Which of the checkpoint's names is which of the architecture's."""

    names: dict[str, str]
    """The architecture's name → the checkpoint's."""
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()


# Names -----------------------------------------------------------------------------------------------------------


def _match_exactly(state_dict: StateDict, wanted: Wanted) -> _Match | None:
    """Matches the names as they are. Returns None if they differ from the architecture's."""
    names = {wanted.rename(name): name for name in state_dict}
    if not wanted.shapes.keys() <= names.keys():
        return None
    known = wanted.shapes.keys() | wanted.optional.keys()
    if any(name not in known and not name.endswith(BATCH_COUNTER_SUFFIX) for name in names):
        return None
    return _Match(names)


def _match_by_prefix(state_dict: StateDict, wanted: Wanted) -> _Match | Misfit:
    """Matches the names without a prefix that all have, or without the prefixes that each has."""
    known = wanted.shapes.keys() | wanted.optional.keys()
    body = wanted.shapes.keys() - set(wanted.heads)
    tidy = {name: _remove_infixes(name, known) for name in state_dict}
    groups = _group_by_prefix(tidy, known, wanted.rename)
    whole = [prefix for prefix, names in groups.items() if body <= names.keys()]
    chosen = _distinct_groups(whole, groups, state_dict, body)
    notes = []
    if len(chosen) > 1 and len(averaged := [prefix for prefix in chosen if is_averaged(prefix)]) == 1:
        chosen = averaged
        notes = [f"holds averaged and other weights; the averaged ones, {averaged[0][:-1]!r}, are used"]
    if len(chosen) > 1:
        keys = [_as_in_file(prefix, groups[prefix]) for prefix in chosen]
        return Misfit.ambiguous(keys, len(body))
    if chosen:
        [prefix] = chosen
        names = groups[prefix]
    else:
        prefix, names = "", _strip_each(tidy, known, wanted.rename)
        # If nothing fits, the largest group is described.
        largest = max(groups, key=lambda each: len(groups[each]), default="")
        if len(names) < len(groups[largest]):
            prefix, names = largest, groups[largest]
    taken = set(names.values())
    # Of several whole networks, those that are not chosen are left alone.
    others = [each for each in whole if each != prefix]
    rest = {
        given: name
        for given, name in tidy.items()
        if given not in taken and _longest_prefix(name, whole) not in others
    }
    return _complete_match(state_dict, wanted, dict(names), rest, prefix, notes)


def _as_in_file(prefix: str, names: Mapping[str, str]) -> str:
    """Returns a prefix with the wrappers that were taken off it, without the last dot."""
    name, given = next(iter(names.items()))
    return (given.removesuffix(name) if given.endswith(name) else prefix).rstrip(".")


def _longest_prefix(name: str, prefixes: Iterable[str]) -> str | None:
    return max(filter(name.startswith, prefixes), key=len, default=None)


def _remove_infixes(name: str, known: Iterable[str]) -> str:
    if name in known or not _INFIXES & set(parts := name.split(".")):
        return name
    return ".".join(part for part in parts if part not in _INFIXES)


def _group_by_prefix(
    tidy: Mapping[str, str], known: Iterable[str], rename: Callable[[str], str]
) -> dict[str, dict[str, str]]:
    """Returns, for each prefix, the architecture's names that follow it, with the checkpoint's name of each."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for given, name in tidy.items():
        begin = 0
        for _ in range(_MAX_PREFIX):
            found = rename(name[begin:])
            if found in known:
                groups[name[:begin]].setdefault(found, given)
            begin = name.find(".", begin) + 1
            if not begin:
                break
    return groups


def _distinct_groups(
    prefixes: list[str], groups: Mapping[str, Mapping[str, str]], state_dict: StateDict, body: Iterable[str]
) -> list[str]:
    """Returns the prefixes without those of shared modules, whose tensors are under an earlier one too."""
    distinct: dict[str, dict[str, Any]] = {}
    for prefix in prefixes:
        values = {name: state_dict[groups[prefix][name]] for name in body}
        if not any(have_same_tensors(values, other) for other in distinct.values()):
            distinct[prefix] = values
    return list(distinct)


def have_same_tensors(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two state_dicts are the same tensors of a file, by name."""
    return one.keys() == other.keys() and all(
        value is other[name] or (isinstance(value, Tensor) and value == other[name]) for name, value in one.items()
    )


def _strip_each(tidy: Mapping[str, str], known: Iterable[str], rename: Callable[[str], str]) -> dict[str, str]:
    """Takes the usual wrappers off each name alone. Returns nothing if two names become the same."""
    names: dict[str, str] = {}
    for given, name in tidy.items():
        for _ in range(_MAX_PREFIX):
            found = rename(name)
            if found in known:
                if found in names:
                    return {}
                names[found] = given
                break
            first, _, rest = name.partition(".")
            if first not in _WRAPPERS or not rest:
                break
            name = rest
    return names


def _complete_match(
    state_dict: StateDict,
    wanted: Wanted,
    names: dict[str, str],
    rest: Mapping[str, str],
    prefix: str,
    notes: list[str],
) -> _Match | Misfit:
    """Finds the head if it is not in its place, and judges what is left.

    Args:
        rest: the checkpoint's name → the same without infixes, of what has no place yet.
    """
    left_out: list[str] = []
    layers: dict[str, str] = {}
    tops = {name.partition(".")[0] for name in wanted.shapes} | {name.partition(".")[0] for name in wanted.optional}
    for given, name in rest.items():
        inner = name.removeprefix(prefix) if name.startswith(prefix) else None
        if f".{name}".endswith(BATCH_COUNTER_SUFFIX):
            continue
        if _belongs_to_nothing(name, inner, state_dict[given], tops):
            left_out.append(given)
        else:
            inner = inner if inner is not None else _strip_ancestors(name, prefix)
            if inner in wanted.heads and inner not in names:
                names[inner] = given
            else:
                layers[given] = inner
    moved = _find_head(state_dict, wanted, names, layers)
    if moved:
        names |= moved
        notes = [*notes, *_name_head(wanted, names, moved)]
        layers = {given: name for given, name in layers.items() if given not in moved.values()}
    missing = [
        name
        for name in wanted.shapes
        if name not in names and not (name in wanted.heads and name.endswith(".bias") and _weight_of(name) in names)
    ]
    if missing or layers:
        differing = Differences(missing, layers, _other_shapes(state_dict, names, wanted))
        return describe_differences(differing, wanted.shapes, wanted.heads, len(names))
    tensors = [name for name in left_out if hasattr(state_dict[name], "shape")]
    return _Match(names, tensors, notes)


def _belongs_to_nothing(name: str, inner: str | None, value: Any, tops: Iterable[str]) -> bool:
    """Whether a tensor that has no place in the architecture cannot be part of the checkpoint's network.

    Args:
        name: its name.
        inner: what follows the network's prefix. None if it is not under that prefix.
        tops: the first components of the architecture's names.
    """
    parts = name.split(".")
    parts = [*parts[:_MAX_PREFIX], *parts[-2:]]
    if parts[-1] in _COMPUTED:
        return True
    if inner is not None and inner.partition(".")[0] in tops:
        return False
    if any(map(_TRAINING.fullmatch, parts)):
        return True
    if parts[-1] in NORMALIZATION_NAMES:
        return True
    if _LAYER.fullmatch(parts[-1]) or any(map(_MAKES_PROBABILITIES.fullmatch, parts)):
        return False
    is_counter = math.prod(_shape_of(value) or ()) == 1 and "int" in str(getattr(value, "dtype", ""))
    return inner is None or is_counter or not hasattr(value, "shape")


def _strip_ancestors(name: str, prefix: str) -> str:
    """Takes off as much of the prefix as a name begins with, in whole components."""
    parts, wrappers = name.split("."), prefix.rstrip(".").split(".")
    while len(parts) > 1 and wrappers and parts[0] == wrappers[0]:
        parts, wrappers = parts[1:], wrappers[1:]
    return ".".join(parts)


def _weight_of(bias: str) -> str:
    return bias.removesuffix(".bias") + ".weight"


def _find_head(
    state_dict: StateDict, wanted: Wanted, names: Mapping[str, str], layers: Mapping[str, str]
) -> dict[str, str]:
    """Finds the head of a checkpoint that has it in another module: in a Sequential, or beside the network.

    Returns:
        The architecture's names → the checkpoint's. Empty if there is no head, or anything else beside it.
    """
    weights = [name for name in wanted.heads if name.endswith(".weight") and name in wanted.shapes]
    if len(weights) != 1 or weights[0] in names:
        return {}
    [weight] = weights
    modules = {name.rpartition(".")[0] for name in layers.values()}
    if len(modules) != 1:
        return {}
    [module] = modules
    parts = {name.rpartition(".")[2]: given for given, name in layers.items()}
    if not {"weight"} <= parts.keys() <= {"weight", "bias"} or len(parts) != len(layers):
        return {}
    shape = _shape_of(state_dict[parts["weight"]])
    if shape is None or shape[1:] != wanted.shapes[weight][1:]:
        return {}
    bias = weight.removesuffix(".weight") + ".bias"
    is_at_home = module.partition(".")[0] == weight.partition(".")[0]
    is_named_so = bool(_HEAD_NAMES & set(module.split("."))) and "bias" in parts
    if not (is_at_home or is_named_so) or ("bias" in parts and bias not in wanted.shapes):
        return {}
    return {weight: parts["weight"]} | ({bias: parts["bias"]} if "bias" in parts else {})


def _name_head(wanted: Wanted, names: Mapping[str, str], moved: Mapping[str, str]) -> list[str]:
    """Returns a note if the head has a name of its own."""
    [weight] = [name for name in moved if name.endswith(".weight")]
    given = moved[weight].split(".")
    if weight.partition(".")[0] in given:
        return []
    return [f"has {moved[weight]!r} in place of {weight!r}, and it is taken for the head"]


# Shapes ----------------------------------------------------------------------------------------------------------


def _fit_shapes(state_dict: StateDict, match: _Match, wanted: Wanted) -> Fit | Misfit:
    weights = [name for name in wanted.heads if name in match.names and name in wanted.shapes]
    if not weights:
        differing = Differences([name for name in wanted.heads if name in wanted.shapes], {}, [])
        return describe_differences(differing, wanted.shapes, wanted.heads, len(match.names))
    head_shapes = [_shape_of(state_dict[match.names[name]]) for name in weights]
    num_classes = next((shape[0] for shape in head_shapes if shape), 0)
    other = _other_shapes(state_dict, match.names, wanted, num_classes)
    notes, image_size, stem = list(match.notes), None, None
    if other:
        image_size, positions = _find_image_size(other, wanted)
        stem = _find_grey_stem(other, wanted)
        other = [each for each in other if each[0] not in (*positions, stem)]
    if other:
        return describe_differences(Differences([], {}, other), wanted.shapes, wanted.heads, len(match.names))
    fitted: StateDict = OrderedDict(
        (name, state_dict[given])
        for name, given in match.names.items()
        if name in wanted.shapes or name in wanted.optional or name.endswith(BATCH_COUNTER_SUFFIX)
    )
    for name in wanted.heads:
        if name not in fitted and name in wanted.shapes:
            fitted[name] = _zeros((num_classes, *wanted.shapes[name][1:]))
    if stem:
        fitted[stem] = _extend_to_rgb(fitted[stem])
    if not _are_complete(fitted, _with_classes(wanted.optional, wanted, num_classes)):
        optional = {_module_of(name) for name in wanted.optional}
        for name in [name for name in fitted if _module_of(name) in optional]:
            del fitted[name]
    copy_metadata(state_dict, fitted)
    left_out = {name: state_dict[name] for name in match.left_out}
    return Fit(fitted, num_classes, left_out, notes, image_size, is_grey=stem is not None)


def _are_complete(state_dict: Mapping[str, Any], shapes: Mapping[str, Shape]) -> bool:
    """Whether a state_dict has all of these. An auxiliary head may be that of an earlier training."""
    return all(name in state_dict and _shape_of(state_dict[name]) == shape for name, shape in shapes.items())


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _shape_of(value: Any) -> Shape | None:
    """Returns the shape of a tensor, or None for anything else."""
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def _with_classes(shapes: Mapping[str, Shape], wanted: Wanted, num_classes: int) -> dict[str, Shape]:
    return {name: (num_classes, *shape[1:]) if name in wanted.heads else shape for name, shape in shapes.items()}


def _other_shapes(
    state_dict: StateDict, names: Mapping[str, str], wanted: Wanted, num_classes: int | None = None
) -> list[tuple[str, Shape | None, Shape]]:
    """Returns (name, shape in the checkpoint, shape in the architecture) for each that differs."""
    shapes = wanted.shapes if num_classes is None else _with_classes(wanted.shapes, wanted, num_classes)
    return [
        (name, found, shape)
        for name, shape in shapes.items()
        if name in names
        and (found := _shape_of(state_dict[names[name]])) != shape
        and not (num_classes is None and name in wanted.heads and found and found[1:] == shape[1:])
    ]


def _find_image_size(other: list[tuple[str, Shape | None, Shape]], wanted: Wanted) -> tuple[int | None, list[str]]:
    """Finds the size of images that position embeddings of another length are for.

    Returns:
        (the side in pixels or None, the names of the position embeddings).
    """
    kernels = [shape for shape in wanted.shapes.values() if len(shape) == 4 and shape[1] in (1, 3)]
    height, width = wanted.crop_size
    if not kernels or height != width:
        return None, []
    patch = kernels[0][-1]
    sides, names = set(), []
    for name, found, shape in other:
        if (
            not _POSITIONS.fullmatch(name.rpartition(".")[2])
            or found is None
            or not (len(found) == len(shape) == 3 and (found[0], found[2]) == (shape[0], shape[2]))
        ):
            continue
        extra = shape[1] - (height // patch) ** 2
        if not 0 <= extra <= _MAX_EXTRA_TOKENS:
            continue
        grid = math.isqrt(max(found[1] - extra, 0))
        if grid and grid**2 == found[1] - extra:
            sides.add(grid * patch)
            names.append(name)
    return (sides.pop(), names) if len(sides) == 1 else (None, [])


def _find_grey_stem(other: list[tuple[str, Shape | None, Shape]], wanted: Wanted) -> str | None:
    """Returns the name of the first convolution if it takes one channel in place of three."""
    first = next((name for name, shape in wanted.shapes.items() if len(shape) == 4), None)
    for name, found, shape in other:
        if name == first and shape[1] == 3 and found == (shape[0], 1, *shape[2:]):
            return name
    return None


def _zeros(shape: Shape) -> Any:
    import numpy as np

    return np.zeros(shape, np.float32)


def _extend_to_rgb(weight: Any) -> Any:
    """Returns a convolution of one channel as one of three that uses the first, which computes the same."""
    import numpy as np

    array = weight.to_array() if isinstance(weight, Tensor) else np.asarray(weight)
    return np.concatenate([array, np.zeros_like(array), np.zeros_like(array)], axis=1)
