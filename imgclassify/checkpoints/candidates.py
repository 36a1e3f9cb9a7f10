"""Finds the state_dicts in the content of a checkpoint, and the order in which they are preferred."""

from __future__ import annotations

import re
import reprlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from imgclassify.checkpoints.plain_values import is_array, to_plain
from imgclassify.checkpoints.storage import Tensor
from imgclassify.checkpoints.unpickler import Placeholder
from imgclassify.errors import CheckpointError, make_printable, name_type, with_article

StateDict: TypeAlias = "OrderedDict[str, Any]"
"""Name → Tensor (from `open_lazy`) or numpy.ndarray (from `load_arrays`). Values that are not tensors in the
file, such as numbers, are unchanged."""

_AVERAGED = ("state_dict_ema", "model_ema")
"""The keys of averaged weights that timm's own loader takes, in its order: timm.models.load_state_dict."""
_RAW = (
    *("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params", "module"),
    "",
)
"""Other keys under which training scripts put the state_dict, in order. "" is the content itself."""
_AVERAGING = r"(?<![a-z])(ema|swa|avg|averaged|polyak|shadow)(?![a-z])"
"""A word in the key of averaged weights."""
_CAMEL_CASE = r"(?<=[a-z])(?=[A-Z])"
COUNT_OF_AVERAGED = "n_averaged"
"""torch.optim.swa_utils.AveragedModel puts this entry beside the parameters."""
_OMEGACONF = "omegaconf.dictconfig.DictConfig"
"""The class of mappings of OmegaConf, which Hydra's and Lightning's options are. Entries are in `_content`."""
_MODULE_ATTRIBUTES = {"_parameters", "_modules", "_buffers"}
"""Attributes that every torch.nn.Module has."""
_MAX_DEPTH = 6
_MAX_MAPPINGS = 2**16
"""Mappings that are searched. An optimizer has one for each parameter."""
_MAX_ITEMS = 16
"""Longer lists are not searched."""
_SHOWN = 100
"""The number of characters of a key that is shown."""
_SHOWN_KEYS = 12
"""The number of keys that an error lists."""


class Candidate(NamedTuple):
    """A mapping with tensors, which may be the state_dict."""

    key: str
    """Where it is: keys with dots between them. "" for the content of the file itself."""
    state_dict: StateDict

    @property
    def is_averaged(self) -> bool:
        return is_averaged(self.key)


def is_averaged(key: str) -> bool:
    """Whether a key, or a prefix of names, is that of averaged weights, such as "model_ema"."""
    return bool(key) and re.search(_AVERAGING, re.sub(_CAMEL_CASE, "_", key).lower()) is not None


def preference(candidate: Candidate) -> tuple[bool, int]:
    """Returns a sort key. Of two candidates with the same one, neither is preferred."""
    first = candidate.key.partition(".")[0]
    usual = _AVERAGED if candidate.is_averaged else _RAW
    return (not candidate.is_averaged, usual.index(first) if first in usual else len(usual))


def find_candidates(content: Any, path: Path, key: str | None = None) -> list[Candidate]:
    """Finds all mappings with tensors in the content of a file, the preferred ones first.

    Args:
        key: the key of the only mapping that counts, or of one that contains it. Dots lead deeper. It may also be
            what the names of a state_dict begin with.

    Raises:
        CheckpointError: there are none, or there is no such key. The message says what was found instead.
    """
    if key:
        content = _follow_key(content, key, path)
    found = [Candidate(_join(key, each.key), each.state_dict) for each in _iter_candidates(content)]
    if not found:
        raise _no_state_dict(content, path)
    return sorted(found, key=preference)


def flatten(content: Any) -> Candidate:
    """Returns all tensors in nested mappings as one state_dict. The keys of the mappings become prefixes.

    Of "encoder_state_dict", "encoder" does.
    """
    joined: StateDict = OrderedDict()
    for candidate in _iter_candidates(content):
        key = re.sub(r"_(state_dict|state|weights|params)(?=\.|$)", "", candidate.key)
        prefix = f"{key}." if key else ""
        joined.update((prefix + name, value) for name, value in candidate.state_dict.items())
    return Candidate("", joined)


def entries_of(value: Any) -> Mapping[Any, Any] | None:
    """Returns the entries of a mapping or the attributes of an object that was not built. Else returns None."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Placeholder):
        if value.entries is not None:
            return value.entries
        if isinstance(value.state, dict):
            content = value.state.get("_content")
            if value.name == _OMEGACONF and isinstance(content, dict):
                return {name: to_plain(each) for name, each in content.items()}
            return value.state
        if isinstance(value.arguments, tuple) and value.arguments and isinstance(value.arguments[0], dict):
            return value.arguments[0]  # such as a Counter's
    return None


def is_module(value: Any) -> bool:
    """Whether a value stands for a torch.nn.Module."""
    state = value.state if isinstance(value, Placeholder) else None
    return isinstance(state, dict) and state.keys() >= _MODULE_ATTRIBUTES


def copy_metadata(source: object, target: StateDict) -> None:
    """Copies the attribute in which torch stores the version of each module's layout.

    Modules need the version to load older layouts.
    """
    if hasattr(source, "_metadata"):
        target._metadata = source._metadata  # type: ignore[attr-defined]


def _iter_candidates(content: Any) -> Iterator[Candidate]:
    """Yields each mapping with tensors once, in the order in which they are in the file, outer ones first."""
    pending: list[tuple[str, Any, int]] = [("", content, 0)]
    seen: set[int] = set()
    while pending:
        key, value, depth = pending.pop()
        # A pickle may have the same mapping in many places, and in itself.
        if id(value) in seen or is_module(value):
            continue
        seen.add(id(value))
        if isinstance(value, list | tuple) and len(value) <= _MAX_ITEMS:
            children = [(str(number), each) for number, each in enumerate(value)]
        else:
            entries = entries_of(value)
            if entries is None:
                continue
            children = [(name, each) for name, each in entries.items() if isinstance(name, str)]
            if any(hasattr(each, "shape") for _, each in children):
                yield Candidate(key, _as_state_dict(entries, children))
        if depth < _MAX_DEPTH and len(seen) < _MAX_MAPPINGS:
            pending += [
                (_join(key, name), each, depth + 1)
                for name, each in reversed(children)
                if type(each) is not Tensor and isinstance(each, (dict, Placeholder, list, tuple))
            ]


def _as_state_dict(entries: Mapping[Any, Any], children: list[tuple[str, Any]]) -> StateDict:
    # Without the mappings beside the tensors: they are candidates of their own.
    state_dict: StateDict = OrderedDict(
        (name, value) for name, value in children if not isinstance(value, dict) and name != COUNT_OF_AVERAGED
    )
    copy_metadata(entries, state_dict)
    return state_dict


def _join(key: str | None, name: str) -> str:
    return ".".join(filter(None, (key, name)))


# A key that the user gives ---------------------------------------------------------------------------------------


def _follow_key(content: Any, key: str, path: Path) -> Any:
    found = _find_key(content, key)
    if found is not None:
        return found
    names = [str(name) for name in entries_of(content) or {} if isinstance(name, str)]
    keys = list(dict.fromkeys([each.key for each in _iter_candidates(content) if each.key]))
    prefixes = list(dict.fromkeys(name.partition(".")[0] for name in names if "." in name))
    raise CheckpointError(
        f"{str(path)!r} has no key {key!r}",
        hint=f"it has tensors under the keys {_list_keys(keys)}"
        if keys
        else f"its tensors are under no key; their names begin with {_list_keys(prefixes or names)}",
    )


def _find_key(content: Any, key: str) -> Any:
    """Returns the value at a key, or the entries whose names begin with the key and a dot, or None."""
    entries: Any = entries_of(content)
    if entries is None and isinstance(content, list | tuple):
        entries = {str(number): each for number, each in enumerate(content[:_MAX_ITEMS])}
    if entries is None:
        return None
    if key in entries:
        return entries[key]
    for end in (match.start() for match in re.finditer(r"\.", key)):
        if key[:end] in entries and (found := _find_key(entries[key[:end]], key[end + 1 :])) is not None:
            return found
    under = {
        name[len(key) + 1 :]: value
        for name, value in entries.items()
        if isinstance(name, str) and name.startswith(f"{key}.")
    }
    return under or None


def _list_keys(keys: list[str]) -> str:
    shown = ", ".join(repr(make_printable(key, _SHOWN)) for key in keys[:_SHOWN_KEYS])
    return shown + (f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else "")


# What is no state_dict -------------------------------------------------------------------------------------------


def _no_state_dict(content: Any, path: Path) -> CheckpointError:
    values = list(_iter_values(content))
    if (module := next(filter(is_module, values), None)) is not None:
        return _whole_module(module, path)
    if any(is_array(each) for value in values for each in (entries_of(value) or {}).values()):
        return CheckpointError(
            f"{str(path)!r} holds arrays of NumPy, not tensors of torch",
            hint="save it with tensors: torch.save({name: torch.from_numpy(array) for name, array in "
            "arrays.items()}, 'weights.pth')",
        )
    if isinstance(content, Placeholder):
        found = f"a Python object: {make_printable(content.name, _SHOWN)}"
    elif isinstance(content, Mapping):
        found = f"a dictionary with {', '.join(map(reprlib.repr, list(content)[:_SHOWN_KEYS])) or 'nothing'}"
    else:
        found = name_type(content)
    return CheckpointError(
        f"{str(path)!r} does not contain a state_dict, but {found}",
        hint="save its state_dict: torch.save(model.state_dict(), 'weights.pth')",
    )


def _iter_values(content: Any) -> Iterator[Any]:
    """Yields the content and the first values in it and in those, as far as a whole module may be."""
    yield content
    pending = [content]
    for value in pending:
        children = value if isinstance(value, list | tuple) else (entries_of(value) or {}).values()
        for each in islice(children, _MAX_ITEMS):
            yield each
            if not is_module(each) and len(pending) < _MAX_ITEMS:
                pending.append(each)


def _whole_module(module: Placeholder, path: Path) -> CheckpointError:
    name = make_printable(module.name, _SHOWN)
    return CheckpointError(
        f"{str(path)!r} is a whole pickled module, {with_article(name)}: building it would run code that the file "
        "names, which no option allows",
        hint="its owner can save the weights alone, with torch.save(model.state_dict(), 'weights.pth'), or export "
        "the network with torch.onnx.export",
    )
