"""A folder of photographs classified by each program, and the bound that the machine itself sets."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import layout, machine, predictions
from benchmarks.machine import cores
from benchmarks.measure import Case, Measured
from benchmarks.parts.common import Measurements, Setting, our_folder, percent
from benchmarks.predictions import Probabilities
from benchmarks.report import Part, Ratio
from benchmarks.workspace import Workspace, imgclassify, reference

_OURS = "imgclassify"
_TIMM = "timm's inference.py"
_LOOP = "DataLoader and channels_last, float32"
_LOOP_BFLOAT16 = "DataLoader and channels_last, bfloat16"
_HUGGING_FACE = "Hugging Face pipeline"
_ONE_IMAGE = "imgclassify, one of the photographs"
_BOUND = "(network and decoding alone, for the upper bound)"
_BFLOAT16 = ("--dtype", "bfloat16")
_OURS_BFLOAT16 = "imgclassify, bfloat16"
_BOUND_BFLOAT16 = "(the same in bfloat16)"
_RESNET50 = "imgclassify, ResNet-50"
_RESNET50_BFLOAT16 = "imgclassify, ResNet-50, bfloat16"


def measure(workspace: Workspace, setting: Setting) -> Part:
    photographs = workspace.photographs(setting.photographs, setting.given)
    found = Measurements(workspace, _cases(workspace, photographs, setting), setting.repeats)
    known = {
        each.case.name: predictions.read(each.case.predictions)
        for each in found.all
        if each.case.predictions and not each.failure
    }
    same = {name: predictions.agreement(known[name], known[_TIMM]) for name in known if _TIMM in known}
    count = setting.photographs
    bounds = [Bound.of(found[name]) for name in (_BOUND, _BOUND_BFLOAT16) if name in found]
    ratios = [
        found.speedup(_OURS, _TIMM, 9),
        found.speedup(_OURS, _LOOP, 3.5),
        found.speedup(_OURS, _LOOP_BFLOAT16, 2),
        found.speedup(_OURS, _HUGGING_FACE, 5.5),
        found.peak(_OURS, 300),
        Ratio(f"{_OURS}: same top-1 as timm", _in_percent(same.get(_OURS)), unit="%", at_least=100),
        *_shares(_OURS, found, bounds[0], count),
    ]
    if _OURS_BFLOAT16 in found:
        ratios += [
            found.speedup(_OURS_BFLOAT16, _OURS, 1.8),
            found.speedup(_OURS_BFLOAT16, _TIMM, 13),
            found.peak(_OURS_BFLOAT16, 300),
            Ratio(f"{_OURS_BFLOAT16}: same top-1 as timm", _in_percent(same.get(_OURS_BFLOAT16)), unit="%"),
            *_shares(_OURS_BFLOAT16, found, bounds[1], count),
            found.speedup(_RESNET50_BFLOAT16, _RESNET50, 4),
        ]
    columns = {
        "images/s": {name: f"{count / (found[name].seconds or 1):.1f}" for name in known},
        "same top-1 as timm": {name: percent(share) for name, share in same.items()},
        "probabilities differ by": _changes(known),
    }
    title = f"A folder of {count} photographs, embedded model"
    known_bounds = [bound for bound in bounds if bound]
    facts = {"bounds": [bound.facts for bound in known_bounds]} if known_bounds else {}
    return Part(title, ratios, found.all, columns, [str(bound) for bound in known_bounds], facts)


def _cases(workspace: Workspace, photographs: Path, setting: Setting) -> list[Case]:
    usual = workspace.environment()
    checkpoint = ("--checkpoint", str(workspace.folder / layout.EMBEDDED_CHECKPOINT))
    model = ("--model", str(workspace.folder / layout.HUGGING_FACE_MODEL))
    weights = ("--weights", str(workspace.folder / layout.EMBEDDED_SAFETENSORS))
    seconds = ("--seconds", str(setting.bound_seconds))
    one = str(min(photographs.iterdir()))

    def theirs(name: str, program: str, *arguments: str) -> Case:
        written = workspace.predictions(f"{name.replace(' ', '_')}.csv")
        command = (*reference(program), str(photographs), str(written), *arguments)
        return Case(name, command, usual, predictions=written)

    resnet50 = ("--model", layout.RESNET50)
    bound = (sys.executable, "-m", "benchmarks.bound", str(photographs), *weights, *seconds)
    with_benchmarks = usual | {"PYTHONPATH": str(layout.ROOT)}
    in_bfloat16 = [
        our_folder(_OURS_BFLOAT16, workspace, photographs, *_BFLOAT16),
        our_folder(_RESNET50_BFLOAT16, workspace, photographs, *resnet50, *_BFLOAT16),
        Case(_BOUND_BFLOAT16, (*bound, *_BFLOAT16), with_benchmarks),
    ]
    return [
        our_folder(_OURS, workspace, photographs),
        our_folder(_RESNET50, workspace, photographs, *resnet50),
        *(in_bfloat16 if machine.has_bfloat16() else []),
        theirs(_TIMM, "timm_inference", *checkpoint),
        theirs(_LOOP, "dataloader", *checkpoint),
        theirs(_LOOP_BFLOAT16, "dataloader", *checkpoint, "--dtype", "bfloat16"),
        theirs(_HUGGING_FACE, "hugging_face", *model),
        Case(_ONE_IMAGE, (*imgclassify(), "predict", one, "--jsonl"), usual),
        Case(_BOUND, bound, with_benchmarks),
    ]


@dataclass(frozen=True)
class Bound:
    """What the machine can do at most, from the network alone and decoding alone, each on all cores."""

    facts: Mapping[str, Any]

    @classmethod
    def of(cls, measured: Measured) -> Bound | None:
        if measured.failure:
            return None
        rounds = [json.loads(run.stdout) for run in measured.runs]
        medians = {
            f"{kind}, {extent}": statistics.median(each[kind][extent] for each in rounds)
            for kind in ("network", "decode")
            for extent in ("one_thread", "all_cores")
        }
        return cls({"rounds": rounds, "images per second": medians})

    def rate(self, kind: str, extent: str = "all_cores") -> float:
        rate: float = self.facts["images per second"][f"{kind}, {extent}"]
        return rate

    @property
    def images_per_second(self) -> float:
        """The cores over the core-seconds that an image takes in both."""
        seconds = sum(cores() / self.rate(kind) for kind in ("network", "decode"))
        return cores() / seconds

    def __str__(self) -> str:
        kinds = {"network": "Network alone", "decode": "Decoding, resizing and cropping alone"}
        texts = [
            f"{what}: {self.rate(kind):.0f} images/s on all cores ({self.rate(kind, 'one_thread'):.0f} on one "
            f"thread), {1000 * cores() / self.rate(kind):.2f} core-milliseconds per image"
            for kind, what in kinds.items()
        ]
        way = self.facts["rounds"][-1]["network"]["best_way"]
        return (
            f"Upper bound on this machine. {'. '.join(texts)}. Both: at most "
            f"{self.images_per_second:.1f} images/s. The network was fastest with {way}."
        )


def _shares(name: str, found: Measurements, bound: Bound | None, count: int) -> list[Ratio]:
    """How much of the upper bound imgclassify reaches, with and without start-up."""
    seconds, start = found[name].seconds, found[_ONE_IMAGE].seconds
    whole = without = None
    if bound and seconds and start:
        whole = 100 * count / seconds / bound.images_per_second
        without = 100 * (count - 1) / max(seconds - start, 1e-9) / bound.images_per_second
    return [
        Ratio(f"{name}: share of the machine's upper bound", whole, unit="%", at_least=90),
        Ratio(f"{name}: share of the upper bound, without start-up", without, unit="%"),
    ]


def _changes(known: Mapping[str, Mapping[str, Probabilities]]) -> dict[str, str]:
    if _TIMM not in known:
        return {}
    return {name: f"{predictions.largest_change(given, known[_TIMM]):.1e}" for name, given in known.items()}


def _in_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
