"""Detects the accelerator and the number of processors, from files and the environment.

This takes under a millisecond: torch is not imported, and no driver is started. Only torch can tell whether it
can really use the accelerator (torch_engine.py).
"""

from __future__ import annotations

import math
import os
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_ROOT = Path("/")
"""The folder that contains the system's own folders. Tests use another one."""

_NVIDIA_NODE = re.compile(r"nvidia\d+|nvhost-gpu|nvhost-ctrl-gpu")
"""The file of a GPU in /dev. The last two are those of Jetson boards."""

_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "run/opengl-driver/lib",
)
"""Where the driver's library may be, besides the folders of LD_LIBRARY_PATH."""


def detect_accelerator() -> str | None:
    """Returns the kind of accelerator that this machine seems to have, by torch's name.

    The result may be wrong, since neither the driver nor the device is queried. If torch then finds no CUDA
    device, the caller must go back to the CPU.

    Returns:
        "cuda" (NVIDIA, or AMD through ROCm), "mps" or None.
    """
    if sys.platform == "darwin":
        return "mps" if os.uname().machine == "arm64" else None
    # The costliest check comes last. Most machines have no GPU, and then torch's folder need not be found.
    if has_nvidia_gpu() and "cuda" in _torch_builds():
        return "cuda"
    # torch for ROCm honours all three variables.
    lists = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    if (_ROOT / "dev/kfd").exists() and all(map(_any_visible, lists)) and "hip" in _torch_builds():
        return "cuda"
    return None


def has_nvidia_gpu() -> bool:
    """Whether this machine seems to have an NVIDIA GPU that this process may use. The driver is not queried."""
    nvidia = _nvidia_on_windows() if sys.platform == "win32" else _nvidia_on_linux()
    return nvidia and _any_visible("CUDA_VISIBLE_DEVICES")


def count_cores() -> int:
    """Returns how many processors this process may keep busy, at least 1.

    These are the processors that it may run on, limited by its control group's share of time (Docker's --cpus,
    Kubernetes' limits), rounded up.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(processors, _cpu_quota())))


# Accelerators -----------------------------------------------------------------------------------------------


def _nvidia_on_linux() -> bool:
    if _contains_entry(_ROOT / "dev", _NVIDIA_NODE):
        return True
    # The files in /dev are created when CUDA is first used, and WSL has a different one. A container without a
    # GPU also shows its host's driver, but not the driver's library.
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
    """Whether an environment variable with a list of visible devices leaves any of them.

    Everything after the first invalid number is ignored, so the first entry decides.
    """
    listed = os.environ.get(variable)
    if listed is None:
        return True
    first = listed.split(",")[0].strip()
    # Slurm writes NoDevFiles for a job without a GPU.
    return first not in ("", "NoDevFiles") and not first.startswith("-")


def _torch_builds() -> set[str]:
    """Returns for which of "cuda" and "hip" the installed torch was built.

    Returns both if torch's version file does not say, and none if torch is not installed.
    """
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
    """Returns the processor time that this process's control groups grant, in processors.

    Returns infinity if no group has a limit.
    """
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
        # A limit of any parent group applies too. In a container the path may be that of the host, of which
        # only the root is mounted.
        for folder in (group, *group.parents):
            quota = min(quota, read(folder))
            if folder == mount:
                break
    return quota


def _quota_v2(folder: Path) -> float:
    """Reads cpu.max: "max 100000", or the microseconds granted in each period, such as "200000 100000"."""
    granted, _, period = _read_text(folder / "cpu.max").partition(" ")
    return _quota_ratio(granted, period)


def _quota_v1(folder: Path) -> float:
    """Reads the quota of cgroup v1, where -1 means no limit."""
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
