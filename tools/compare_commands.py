"""Runs the same commands with two states of the code, and compares their results byte for byte.

    git worktree add /tmp/before <commit>
    python tools/compare_commands.py /tmp/before .

Both states run in the environment of this Python, in folders with the same content. The exit status, stdout,
stderr and every file that a command writes are compared. Durations, rates, keys of 32 hex digits and the paths
of the two states are masked.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent

COMMANDS = """
--version
--help
predict --help
models --help
labels --help
cache --help
doctor --help
predict pictures/cat.jpg
predict pictures/cat.jpg pictures/broken.jpg pictures/alpha.png
predict pictures
predict pictures --json
predict pictures --jsonl
predict pictures -f csv
predict pictures -f tsv
predict pictures -k 3 --jsonl
predict pictures -o out.jsonl
predict pictures -o out.csv
predict pictures -o out.tsv --summary summary.json
predict pictures -o out.parquet
predict pictures -o out.sqlite
predict pictures -o out.json
predict pictures -o out.txt
predict pictures -o out.xml
predict pictures -o stopped.csv --max-errors 1
predict pictures -o stopped.csv
predict pictures -o stopped.csv --resume
predict pictures -o stopped.csv --resume -k 3
predict pictures -o stopped.csv --retry-errors
predict pictures -o stopped.sqlite --fail-fast
predict pictures -o stopped.sqlite --resume
predict --files-from list.txt --jsonl
predict -0 --files-from list0.txt --jsonl
predict - --json < pictures/cat.jpg
predict pictures/*.png pictures/sub/**.webp --jsonl
predict pictures.zip --jsonl
predict pictures.tar.gz --jsonl
predict pictures.zip!pictures/cat.jpg pictures.zip!none.jpg --jsonl
predict pictures --include *.jpg --exclude b* --jsonl
predict pictures --no-recursive --hidden --jsonl
predict pictures --fast-decode --json
predict pictures --isolate --jsonl
predict pictures --max-pixels 20000 --jsonl
predict pictures --resize-size 300 --crop-size 224 --interpolation bilinear --mean 0.4,0.5,0.6 --std 0.2 --json
predict pictures --engine torch --json
predict pictures --dtype bfloat16 --json
predict pictures -m seeded.pth --arch squeezenet1_1 --json
predict pictures -m seeded.safetensors --arch squeezenet1_1 --labels seven.txt
predict pictures -m seven.pth --arch squeezenet1_1 --labels seven.txt --json
predict pictures -m seven.pth --arch squeezenet1_1
predict pictures -m seeded.pth
predict pictures -m seeded.pth --arch resnet18
predict pictures -m seeded.onnx --arch squeezenet1_1 --json
predict pictures -m seeded.onnx
predict pictures -m script.pt --arch squeezenet1_1
predict pictures -m script.pt --arch squeezenet1_1 --trust --json
predict pictures -m hub:./repository/tiny --arch squeezenet1_1
predict pictures -m hub:./repository/tiny --arch squeezenet1_1 --trust --json
predict pictures -m hub:repository --trust
predict pictures -m own --json
predict pictures -m timm:no_such_model
predict pictures -m timm:resnet18.a1_in1k --offline
predict pictures -m resnet50 --offline
predict pictures -m resnet50x
predict pictures -m resnet50@V3
predict pictures -m ./none.pth --arch resnet18
predict pictures -m other:thing
predict pictures -m ""
predict pictures -m efficientnet_lite0 --arch resnet18
predict pictures --device cuda
predict pictures --device tpu
predict pictures --engine jax
predict pictures --mean 1,2
predict pictures --batch-size 0
predict pictures --resume
predict none.jpg
predict empty
predict
predict --top-k 0 pictures/cat.jpg
predict pictures -f json --jsonl
predict pictures --colour
models list
models list resnet* --sort acc1 --json
models list nothing
models show efficientnet_lite0
models show resnet50 --json
models show own
models path resnet50 efficientnet_lite0
models verify efficientnet_lite0
models verify resnet50
models remove resnet50
models pull resnet50 --offline
models pull ./seeded.pth
models prepare resnet18 --offline
models prepare seeded.pth --arch squeezenet1_1 --crop-size 128
predict pictures -m seeded.pth --arch squeezenet1_1 --crop-size 128 --json
labels list --json
labels show seven.txt
labels search retriever
labels search nothing-at-all --json
cache info --json
cache clear
doctor
"""
MOVED = {
    "compare efficientnet_lite0 pictures --fast-decode --json": (
        "doctor --compare efficientnet_lite0 pictures --fast-decode --json"
    ),
    "compare efficientnet_lite0 pictures --dtype bfloat16": (
        "doctor --compare efficientnet_lite0 pictures --dtype bfloat16"
    ),
    "compare efficientnet_lite0 pictures": "doctor --compare efficientnet_lite0 pictures",
}
"""Commands that have changed their name: the new command → the old one."""

MASKS = (
    (re.compile(rb"\b\d+(\.\d+)? s\b"), b"N s"),
    (re.compile(rb"\(?\b[\d.]+/s\)?"), b"N/s"),
    (re.compile(rb'"(images_per_)?seconds?": [\d.]+'), b'"seconds": N'),
    (re.compile(rb"[0-9a-f]{32}(?=[/\"\s])"), b"KEY"),
)


class Outcome(NamedTuple):
    status: int
    stdout: bytes
    stderr: bytes
    files: dict[str, bytes]


# The files that the commands use ---------------------------------------------------------------------------


def make_inputs(folder: Path) -> None:
    pictures = folder / "pictures"
    (pictures / "sub").mkdir(parents=True)
    for name in ("cat.jpg", "coffee.jpg"):
        shutil.copyfile(ROOT / "examples" / name, pictures / name)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8))
    alpha = noise.convert("RGBA")
    alpha.putalpha(128)
    alpha.save(pictures / "alpha.png")
    noise.convert("CMYK").save(pictures / "cmyk.jpg")
    noise.convert("P").save(pictures / "palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.save(pictures / "turned.jpg", exif=exif)
    noise.save(pictures / "sub" / "small.webp")
    Image.fromarray((np.arange(400 * 300, dtype=np.uint16) * 3).reshape(300, 400)).save(pictures / "grey16.png")
    noise.save(pictures / ".hidden.jpg")
    (pictures / "broken.jpg").write_bytes((pictures / "cat.jpg").read_bytes()[:3000])
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "text.jpg").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture")
    noise.resize((2, 300)).save(pictures / "strip.png")
    (folder / "empty").mkdir()
    (folder / "list.txt").write_text("pictures/cat.jpg\npictures/none.jpg\r\n\npictures\n")
    (folder / "list0.txt").write_text("pictures/cat.jpg\0pictures/*.png\0")
    (folder / "seven.txt").write_text("\n".join(f"class {index}" for index in range(7)))
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for path in sorted(pictures.rglob("*")):
            archive.write(path, path.relative_to(folder))
    with tarfile.open(folder / "pictures.tar.gz", "w:gz") as archive:
        archive.add(pictures, "pictures")


def make_models(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model

    for name, classes in (("seeded", 1000), ("seven", 7)):
        torch.manual_seed(1)
        network = get_model("squeezenet1_1", weights=None, num_classes=classes).eval()
        torch.save(network.state_dict(), folder / f"{name}.pth")
        save_file(network.state_dict(), folder / f"{name}.safetensors")
        if name == "seeded":
            example = torch.zeros(1, 3, 224, 224)
            torch.jit.trace(network, example).save(folder / "script.pt")  # type: ignore[no-untyped-call]
            torch.onnx.export(
                network, (example,), folder / "seeded.onnx", input_names=["input"], dynamo=True, verbose=False
            )
    repository = folder / "repository"
    repository.mkdir()
    (repository / "hubconf.py").write_text(
        "import torch\n"
        "def tiny(pretrained=False):\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 224 * 224, 1000))\n"
    )
    manifests = folder / "config" / "imgclassify" / "models"
    manifests.mkdir(parents=True)
    text = (ROOT / "models" / "squeezenet.toml").read_text("utf-8")
    entry = next(part for part in text.split("[[models]]")[1:] if 'name = "squeezenet1_1"' in part)
    entry = re.sub(r"(?m)^name = .*$", 'name = "own"', entry)
    entry = re.sub(r"(?m)^url = .*$", f'url = "file://{folder}/seeded.pth"', entry)
    entry = re.sub(r"(?m)^sha256 = .*$", 'sha256 = ""', entry)
    (manifests / "own.toml").write_text(f"[[models]]{entry}")


# Running ----------------------------------------------------------------------------------------------------


def run(state: Path, command: str, folder: Path) -> Outcome:
    """Runs a command of a state in a folder of inputs.

    Collects the files that the command wrote or changed, and deletes them. Files named stopped.* are kept,
    because later commands resume them.
    """
    words, _, stdin = command.partition(" < ")
    home = folder.parent / "home"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(state.resolve()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "COLUMNS": "100",
        "LANG": "C.UTF-8",
    }
    earlier = {path.name: path.read_bytes() for path in folder.glob("stopped.*")}
    with Path(folder / stdin if stdin else os.devnull).open("rb") as source:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "imgclassify", *arguments(words)],
            cwd=folder,
            env=environment,
            stdin=source,
            capture_output=True,
            check=False,
        )
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("stopped."):
            if path.read_bytes() != earlier.get(path.name):
                files[path.name] = path.read_bytes()
        elif path.name.startswith(("out.", "summary.")):
            files[path.name] = path.read_bytes()
            path.unlink()
    return Outcome(
        done.returncode,
        masked(done.stdout, state),
        masked(done.stderr, state),
        {
            name: masked(content, state) if name.endswith((".json", ".txt", ".partial")) else content
            for name, content in files.items()
        },
    )


def arguments(words: str) -> list[str]:
    return [word.strip('"') for word in words.split()]


def masked(text: bytes, state: Path) -> bytes:
    text = text.replace(os.fsencode(state.resolve()), b"STATE")
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text


def shown(before: bytes, after: bytes) -> str:
    lines = [part.decode(errors="backslashreplace").splitlines() for part in (before, after)]
    return "\n".join(f"    {line}" for line in list(difflib.unified_diff(*lines, lineterm="", n=0))[2:40])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", default="", help="commands that contain this")
    parser.add_argument("--no-stderr", action="store_true", help="leave messages out of the comparison")
    asked = parser.parse_args()
    commands = [(line, line) for line in COMMANDS.strip().splitlines()]
    commands += [(old, new) for new, old in MOVED.items()]
    commands = [pair for pair in commands if asked.only in pair[1]]
    differing: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        inputs = Path(temporary, "inputs")
        # Both states use the same path, because records and messages contain file names.
        folder = Path(temporary, "run", "folder")
        inputs.mkdir()
        make_inputs(inputs)
        outcomes: list[list[Outcome]] = []
        for side, state in enumerate((asked.before, asked.after)):
            shutil.rmtree(folder.parent, ignore_errors=True)
            shutil.copytree(inputs, folder)
            if side == 0:
                make_models(folder)
                shutil.copytree(folder, inputs, dirs_exist_ok=True)
            outcomes.append([run(state, pair[side], folder) for pair in commands])
            print(f"{len(commands)} commands run with {state}", file=sys.stderr)
    for (_, command), before, after in zip(commands, *outcomes, strict=True):
        parts = []
        if before.status != after.status:
            parts.append(f"  status {before.status} → {after.status}")
        for name in ("stdout", "stderr"):
            if getattr(before, name) != getattr(after, name) and not (name == "stderr" and asked.no_stderr):
                parts.append(f"  {name}\n{shown(getattr(before, name), getattr(after, name))}")
        for name in sorted(before.files.keys() | after.files.keys()):
            one, other = before.files.get(name, b""), after.files.get(name, b"")
            if one != other:
                parts.append(f"  {name}: {len(one)} → {len(other)} bytes\n{shown(one, other)}")
        if parts:
            differing[command] = parts
    for command, parts in differing.items():
        print(f"imgclassify {command}", *parts, "", sep="\n")
    print(f"{len(commands)} commands compared, {len(differing)} differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
