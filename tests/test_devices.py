"""What is told of accelerators and processors without torch, from a machine made of files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imgclassify.engines import devices

CUDA_BUILD = "__version__ = '2.9.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
ROCM_BUILD = "__version__ = '2.9.0+rocm7'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.0'\n"
CPU_BUILD = "__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"

Write = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A Linux machine with no devices, 8 processors and a CUDA build of torch; returns what adds files to it."""
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(devices, "_ROOT", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")

    write(**{"packages/torch/__init__.py": "raise AssertionError", "packages/torch/version.py": CUDA_BUILD})
    return write


def test_a_machine_without_devices_has_none(machine: Write) -> None:
    machine(**{"dev/null": "", "dev/nvidiactl": "", "dev/nvidia-uvm": ""})
    assert devices.detect_accelerator() is None


@pytest.mark.parametrize(
    "files",
    [
        ["dev/nvidia0"],
        ["dev/nvidia12"],
        ["dev/nvhost-gpu"],
        ["proc/driver/nvidia/gpus/0000:01:00.0", "usr/lib/x86_64-linux-gnu/libcuda.so.1"],
        ["dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"],
    ],
)
def test_nvidia_is_told_by_its_node_or_by_driver_and_library(machine: Write, files: list[str]) -> None:
    machine(**dict.fromkeys(files, ""))
    assert devices.detect_accelerator() == "cuda"


@pytest.mark.parametrize(
    "file", ["proc/driver/nvidia/gpus/0000:01:00.0", "dev/dxg", "usr/lib/x86_64-linux-gnu/libcuda.so.1"]
)
def test_a_driver_or_a_library_alone_is_no_gpu(machine: Write, file: str) -> None:
    machine(**{file: ""})
    assert devices.detect_accelerator() is None


def test_the_driver_s_library_is_looked_for_where_the_environment_says(
    machine: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(**{"dev/dxg": "", "elsewhere/libcuda.so.1": ""})
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere::{tmp_path / 'elsewhere'}")
    assert devices.detect_accelerator() == "cuda"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("", None),
        ("-1", None),
        ("-1,0", None),
        ("NoDevFiles", None),
        ("0", "cuda"),
        ("1,-1", "cuda"),
        ("GPU-3f", "cuda"),
    ],
)
def test_cuda_visible_devices_may_hide_every_gpu(
    machine: Write, monkeypatch: pytest.MonkeyPatch, listed: str, expected: str | None
) -> None:
    machine(**{"dev/nvidia0": ""})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert devices.detect_accelerator() == expected


@pytest.mark.parametrize(
    ("version", "files", "expected"),
    [
        (CPU_BUILD, ["dev/nvidia0", "dev/kfd"], None),
        (CUDA_BUILD, ["dev/kfd"], None),
        (ROCM_BUILD, ["dev/nvidia0"], None),
        (ROCM_BUILD, ["dev/kfd"], "cuda"),
        ("of another form", ["dev/nvidia0"], "cuda"),
    ],
)
def test_what_the_installed_torch_was_not_built_for_does_not_count(
    machine: Write, version: str, files: list[str], expected: str | None
) -> None:
    machine(**{"packages/torch/version.py": version}, **dict.fromkeys(files, ""))
    assert devices.detect_accelerator() == expected


@pytest.mark.parametrize("variable", ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"])
def test_each_of_rocm_s_lists_may_hide_every_gpu(
    machine: Write, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    machine(**{"dev/kfd": "", "packages/torch/version.py": ROCM_BUILD})
    monkeypatch.setenv(variable, "")
    assert devices.detect_accelerator() is None


def test_without_torch_there_is_nothing_to_use_a_gpu_with(machine: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(**{"dev/nvidia0": ""})
    monkeypatch.setattr(sys, "path", [])
    assert devices.detect_accelerator() is None


@pytest.mark.parametrize(("architecture", "expected"), [("arm64", "mps"), ("x86_64", None)])
def test_a_mac_has_mps_on_its_own_processors(
    machine: Write, monkeypatch: pytest.MonkeyPatch, architecture: str, expected: str | None
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Darwin", "mac", "24.0", "", architecture)))
    assert devices.detect_accelerator() == expected


def test_windows_tells_by_the_driver_s_library(
    machine: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path / "Windows"))
    assert devices.detect_accelerator() is None
    machine(**{"Windows/System32/nvcuda.dll": ""})
    assert devices.detect_accelerator() == "cuda"


def test_neither_answer_imports_torch_nor_takes_long() -> None:
    program = (
        "import sys, time; from imgclassify.engines import devices; start = time.perf_counter(); "
        "devices.detect_accelerator(); devices.count_cores(); took = time.perf_counter() - start; "
        "assert not {'torch', 'numpy', 'ctypes', 'subprocess'} & set(sys.modules), sorted(sys.modules); print(took)"
    )
    runs = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(3)]
    assert min(runs) < 0.005


# Processors -------------------------------------------------------------------------------------------------

V2, V1 = "0::/pod/box\n", "3:memory:/box\n2:cpu,cpuacct:/pod/box\n1:name=systemd:/\n"


def test_without_a_quota_every_processor_counts(machine: Write) -> None:
    assert devices.count_cores() == 8


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {"pod/box/cpu.max": "max 100000"}, 8),
        (V2, {"pod/box/cpu.max": "200000 100000\n"}, 2),
        (V2, {"pod/box/cpu.max": "150000 100000"}, 2),
        (V2, {"pod/box/cpu.max": "5000 100000"}, 1),
        (V2, {"pod/box/cpu.max": "9900000 100000"}, 8),
        (V2, {"pod/box/cpu.max": "600000 100000", "pod/cpu.max": "300000 100000"}, 3),
        (V2, {"cpu.max": "400000 100000"}, 4),
        (V2, {"pod/box/cpu.max": "nonsense"}, 8),
        (V1, {"cpu/pod/box/cpu.cfs_quota_us": "-1", "cpu/pod/box/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/pod/box/cpu.cfs_quota_us": "250000", "cpu/pod/box/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "25000"}, 2),
        ("garbage\n::\n", {}, 8),
    ],
)
def test_a_control_group_s_quota_bounds_the_processors(
    machine: Write, groups: str, files: dict[str, str], expected: int
) -> None:
    machine(**{"proc/self/cgroup": groups}, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert devices.count_cores() == expected


def test_affinity_bounds_the_processors_and_one_is_the_least(
    machine: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert devices.count_cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert devices.count_cores() == 1


@pytest.mark.needs_torch
def test_a_gpu_that_torch_can_use_is_detected_without_it() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    assert devices.detect_accelerator() == "cuda"
    assert devices.has_nvidia_gpu() or torch.version.hip
