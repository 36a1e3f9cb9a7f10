"""Describes the machine and the packages that a benchmark ran with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.layout import ROOT

PACKAGES = ("torch", "torchvision", "timm", "transformers", "onnxruntime", "openvino", "numpy", "Pillow")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
"""The processor features that determine how fast it multiplies."""


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bfloat16() -> bool:
    """Whether OpenVINO is installed, and computes in bfloat16 on this processor.

    It is asked in another process, because the process that measures must stay small.
    """
    code = (
        "from imgclassify.graphs.openvino_session import computes_in_bfloat16, is_installed\n"
        "raise SystemExit(not (is_installed() and computes_in_bfloat16()))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def describe() -> dict[str, str]:
    """Returns the facts about this machine that a report lists."""
    return {
        "Processor": _processor(),
        "Cores": str(cores()),
        "Memory": _memory(),
        "System": _system(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "imgclassify": _own_version(),
        "Load before": f"{os.getloadavg()[0]:.2f} (the mean of a minute; far from 0, the figures are of no use)",
    }


def _processor() -> str:
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    flags = [flag for flag in _FLAGS if flag in facts.get("flags", "").split()]
    name = facts.get("model name", platform.machine())
    return f"{name} ({', '.join(flags)})" if flags else name


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()
    return f"{name}, {platform.system()} {platform.release()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _own_version() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    commit = described.stdout.strip()
    return f"{_version('imgclassify')} ({commit})" if described.returncode == 0 else _version("imgclassify")
