"""Whether memory grows with the number of images."""

from __future__ import annotations

from benchmarks.parts.common import Measurements, Setting, our_folder
from benchmarks.report import Part, Ratio
from benchmarks.workspace import Workspace

_REPEATS = 3
"""At most; a long folder takes minutes, and its peak hardly varies."""


def measure(workspace: Workspace, setting: Setting) -> Part:
    photographs = workspace.photographs(setting.photographs, setting.given)
    enlarged = workspace.enlarged(photographs, setting.many_photographs)
    short, long = (f"imgclassify, {count} images" for count in (setting.photographs, setting.many_photographs))
    # The same photographs, linked into sub-folders, so that the disk need not hold them twenty times.
    cases = [our_folder(short, workspace, photographs), our_folder(long, workspace, enlarged)]
    found = Measurements(workspace, cases, min(_REPEATS, setting.repeats))
    few, many = found[short].peak, found[long].peak
    what = f"imgclassify: peak memory for {setting.many_photographs} images over that for {setting.photographs}"
    ratio = Ratio(what, many / few if many and few else None, at_most=1.1)
    return Part("Memory and the number of images", [ratio], found.all)
