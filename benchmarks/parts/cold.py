"""Cold start: one image, from the process's start to its end; and commands that need no network at all."""

from __future__ import annotations

import sys

from benchmarks import layout
from benchmarks.measure import Case
from benchmarks.parts.common import Measurements, Setting
from benchmarks.report import Part
from benchmarks.workspace import Workspace, imgclassify, reference

_OURS = "imgclassify, embedded model"
_OURS_FIRST = "imgclassify, embedded model, first run"
_OURS_RESNET50 = "imgclassify, ResNet-50"
_TUTORIAL = "the tutorial script, ResNet-50"
_TIMM = "timm's quick start, embedded model"
_HUGGING_FACE = "Hugging Face pipeline, embedded model"
_IMPORT_TORCH = "`python -c 'import torch'`"
_QUICK_COMMANDS = ("--help", "--version", "models list")
_QUICK_GOAL = 11.3
"""0.15 s where importing torch takes 1.7 s."""


def measure(workspace: Workspace, setting: Setting) -> Part:
    found = Measurements(workspace, _cases(workspace), setting.repeats)
    ratios = [
        found.speedup(_OURS, _TUTORIAL, 12),
        found.speedup(_OURS_FIRST, _TUTORIAL, 12),
        found.speedup(_OURS, _TIMM),
        found.speedup(_OURS, _HUGGING_FACE),
        found.peak(_OURS, 150),
        found.peak(_OURS_FIRST, 150),
        found.speedup(_OURS_RESNET50, _TUTORIAL, 9),
        found.peak(_OURS_RESNET50, 250),
        *(found.speedup(_shown(command), _IMPORT_TORCH, _QUICK_GOAL) for command in _QUICK_COMMANDS),
    ]
    return Part("Cold start: one image", ratios, found.all)


def _cases(workspace: Workspace) -> list[Case]:
    image = str(layout.EXAMPLES / "coffee.jpg")
    predict = (*imgclassify(), "predict", image)
    checkpoint = ("--checkpoint", str(workspace.folder / layout.EMBEDDED_CHECKPOINT))
    model = ("--model", str(workspace.folder / layout.HUGGING_FACE_MODEL))
    usual = workspace.environment()
    return [
        Case(_OURS, predict, usual),
        Case(
            _OURS_FIRST,
            predict,
            workspace.environment(cache=layout.EMPTY_CACHE_HOME),
            removed_before=(workspace.folder / layout.EMPTY_CACHE_HOME,),
        ),
        Case(_OURS_RESNET50, (*predict, "--model", layout.RESNET50), usual),
        Case(_TUTORIAL, (*reference("tutorial"), image), usual),
        Case(_TIMM, (*reference("timm_quickstart"), image, *checkpoint), usual),
        Case(_HUGGING_FACE, (*reference("hugging_face"), image, *model), usual),
        Case(_IMPORT_TORCH, (sys.executable, "-c", "import torch"), usual),
        *(Case(_shown(command), (*imgclassify(), *command.split()), usual) for command in _QUICK_COMMANDS),
    ]


def _shown(command: str) -> str:
    return f"`imgclassify {command}`"
