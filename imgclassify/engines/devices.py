"""What this machine has to compute with, told from files and the environment in under a millisecond: no torch, no
driver started. Whether torch can really use it only torch tells (engines/torch_engine.py)."""

from __future__ import annotations

import math
import os
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_ROOT = Path("/")
"""Where the system's own folders begin; tests build others."""

_NVIDIA_NODE = re.compile(r"nvidia\d+|nvhost-gpu|nvhost-ctrl-gpu")
"""A GPU's file in /dev; the last two are Jetson's."""

_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "run/opengl-driver/lib",
)


def detect_accelerator() -> str | None:
    """The kind of accelerator that seems to be here, by torch's name: "cuda" (NVIDIA's, and AMD's through ROCm),
    "mps", or None.

    It may be wrong, since neither the driver nor the device is asked: who is told "cuda" and then finds torch
    without it goes back to the CPU.
    """
    if sys.platform == "darwin":
        return "mps" if os.uname().machine == "arm64" else None
    # What is asked last costs most: on most machines there is no GPU, and torch's folder need not be found.
    nvidia = _nvidia_on_windows() if sys.platform == "win32" else _nvidia_on_linux()
    if nvidia and _any_visible("CUDA_VISIBLE_DEVICES") and "cuda" in _torch_builds():
        return "cuda"
    # ROCm's torch heeds all three.
    lists = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    if (_ROOT / "dev/kfd").exists() and all(map(_any_visible, lists)) and "hip" in _torch_builds():
        return "cuda"
    return None


def count_cores() -> int:
    """Processors that this process may keep busy: those it may run on, and no more than its control group's share
    of time (Docker's --cpus, Kubernetes' limits), rounded up; at least 1."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(processors, _cpu_quota())))


# Accelerators -----------------------------------------------------------------------------------------------


def _nvidia_on_linux() -> bool:
    if _contains_entry(_ROOT / "dev", _NVIDIA_NODE):
        return True
    # The nodes are made when CUDA is first used, and WSL has one of its own. A container without a GPU shows its
    # host's driver too, but not the driver's library.
    driver = _contains_entry(_ROOT / "proc/driver/nvidia/gpus", re.compile(".+")) or (_ROOT / "dev/dxg").exists()
    return driver and any(
        (folder / "libcuda.so.1").exists()
        for folder in (
            *map(_ROOT.joinpath, _LIBRARY_FOLDERS),
            *map(Path, filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))),
        )
    )


def _nvidia_on_windows() -> bool:
    return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()


def _any_visible(variable: str) -> bool:
    """Whether a list of visible devices leaves any: what follows its first invalid number counts for nothing."""
    listed = os.environ.get(variable)
    if listed is None:
        return True
    first = listed.split(",")[0].strip()
    # Slurm writes NoDevFiles where a job has no GPU.
    return first not in ("", "NoDevFiles") and not first.startswith("-")


def _torch_builds() -> set[str]:
    """Of "cuda" and "hip", those that the installed torch was built for; both where its file does not say."""
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        return set()
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return {"cuda", "hip"}
    stated = dict(re.findall(r"^(cuda|hip)\b[^=\n]*= *(.*)$", text, re.MULTILINE))
    return {name for name in ("cuda", "hip") if stated.get(name, "").strip() != "None"}


def _contains_entry(folder: Path, name: re.Pattern[str]) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(name.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False


# Processors -------------------------------------------------------------------------------------------------


def _cpu_quota() -> float:
    """Processors' worth of time that the control groups above this process grant; infinite where none does."""
    try:
        lines = (_ROOT / "proc/self/cgroup").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            mount, read = _ROOT / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            mount, read = _ROOT / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        group = mount / path.strip("/")
        # In a container the path may be the host's, of which only the root is mounted.
        for folder in (group, *group.parents):
            quota = min(quota, read(folder))
            if folder == mount:
                break
    return quota


def _quota_v2(folder: Path) -> float:
    """From cpu.max: "max 100000", or microseconds granted in each so many."""
    granted, _, period = _read_text(folder / "cpu.max").partition(" ")
    return _quota_ratio(granted, period)


def _quota_v1(folder: Path) -> float:
    """-1 grants everything."""
    return _quota_ratio(_read_text(folder / "cpu.cfs_quota_us"), _read_text(folder / "cpu.cfs_period_us"))


def _quota_ratio(granted: str, period: str) -> float:
    if not (granted.isdecimal() and period.isdecimal()) or not int(granted) or not int(period):
        return math.inf
    return int(granted) / int(period)


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
