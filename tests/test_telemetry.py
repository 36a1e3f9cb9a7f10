"""Neither imgclassify nor a dependency opens a socket or writes where it should not, as the kernel sees it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

SECONDS = 15
"""onnxruntime 1.32 looks up its host about ten seconds after it is loaded."""

LISTED = ["predict", "--files-from", "-", "--jsonl", "--device", "cpu"]
STRACE = ["strace", "-f", "-qq", "-e", "trace=%network,%file"]
WRITES = re.compile(
    r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|\b(?:mkdir|mknod|creat|rename|link|symlink|unlink|rmdir|truncate|chmod)\w*\("
)
NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _strace_works() -> str:
    """Why it does not; empty where it does."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run([*STRACE, "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()[:200]}"


def _calls(log: Path) -> list[str]:
    return [line for line in log.read_text(errors="replace").splitlines() if "(" in line]


def _sockets(log: Path) -> list[str]:
    """The calls that make one, but for those within this machine: libc asks its name service who the user is."""
    return [call for call in _calls(log) if re.search(r"\bsocket\((?!AF_UNIX)", call)]


def _writes_outside(log: Path, folders: list[Path]) -> list[str]:
    """The calls that write to a name outside the folders, /dev and the process's own /proc."""
    found = []
    for call in _calls(log):
        if WRITES.search(call) and "ENOENT" not in call and (name := NAME.search(call)):
            path = name.group(1)
            if path.startswith("/") and not path.startswith(("/dev/", "/proc/self/", *map(str, folders))):
                found.append(call)
    return found


@pytest.mark.needs_torch
@pytest.mark.skipif(bool(_strace_works()), reason=_strace_works() or "it works")
def test_a_run_of_fifteen_seconds_opens_no_socket_and_writes_only_to_the_caches(
    photo: Path, tmp_path: Path
) -> None:
    """Names arrive on stdin, the last one after SECONDS, so that whatever waits in a thread has its time."""
    home = tmp_path / "home"
    home.mkdir()
    # torch sets it for itself, in this process too where another test has imported it.
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    caches = [Path(os.environ["XDG_CACHE_HOME"], name) for name in ("imgclassify", "torch")]
    caches.append(Path(os.environ["HF_HOME"]))
    caches[0].parent.mkdir(parents=True)
    settings = {
        "onnxruntime": [*LISTED, "--offline", "--isolate"],
        "openvino": [*LISTED, "--engine", "openvino"],
        "torch": [*LISTED, "--engine", "torch"],
    }
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(
                subprocess.Popen(
                    [*STRACE, "-o", tmp_path / f"{name}.log", sys.executable, "-B", "-m", "imgclassify", *options],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment | {"HOME": str(home)},
                )
            )
            for name, options in settings.items()
        }
        for process in running.values():
            stack.callback(process.kill)
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{photo}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline()
        time.sleep(SECONDS)
        outputs = {
            name: process.communicate(f"{photo}\n".encode(), timeout=60)[0] for name, process in running.items()
        }
    for name, process in running.items():
        log = tmp_path / f"{name}.log"
        assert process.returncode == 0
        assert outputs[name]
        assert any(f"lib{name}" in call or "onnxruntime" in call for call in _calls(log))
        assert _sockets(log) == []
        assert _writes_outside(log, caches) == []
    assert list(home.iterdir()) == []


@pytest.mark.skipif(bool(_strace_works()), reason=_strace_works() or "it works")
def test_the_check_would_notice(tmp_path: Path) -> None:
    """A program without the switch: what the first of the two forbids stands in its log."""
    code = f"""
        import pathlib, socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
        pathlib.Path({str(tmp_path / "written")!r}).write_text("")
    """
    log = tmp_path / "log"
    code = "\n".join(line.strip() for line in code.splitlines())
    subprocess.run([*STRACE, "-o", log, sys.executable, "-B", "-c", code], check=True)
    assert len(_sockets(log)) == 1
    assert len(_writes_outside(log, [tmp_path / "elsewhere"])) == 1
    assert _writes_outside(log, [tmp_path]) == []


def test_python_has_the_switches_set_before_onnxruntime_is_loaded(photo: Path) -> None:
    code = f"""
        import os
        from imgclassify import Classifier
        Classifier().predict({str(photo)!r})
        print(os.environ["ORT_DISABLE_TELEMETRY"], os.environ["HF_HUB_DISABLE_TELEMETRY"])
        import huggingface_hub.constants
        print(huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "True"]


def test_a_hugging_face_client_that_was_imported_before_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from imgclassify.telemetry import disable_telemetry

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    disable_telemetry()
    assert constants.HF_HUB_DISABLE_TELEMETRY
    assert (os.environ["ORT_DISABLE_TELEMETRY"], os.environ["HF_HUB_DISABLE_TELEMETRY"]) == ("1", "1")
