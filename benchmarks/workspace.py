"""Prepares the working folder of a benchmark: weights, photographs, and the environment of the programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from benchmarks import layout
from benchmarks.measure import Say

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_OWN_SETTINGS = "IMGCLASSIFY_"
_SETTINGS = (
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "PYTHONWARNINGS",
    "PYTHONPROFILEIMPORTTIME",
    "OMP_NUM_THREADS",
)
"""Variables in a user's environment that would change a measurement."""


@dataclass(frozen=True)
class Workspace:
    """A folder with everything that the programs need."""

    folder: Path
    say: Say

    def prepare_weights(self) -> None:
        """Writes the weights, unless an earlier run has written them."""
        if not (self.folder / layout.MANIFEST).exists():
            self.say("writing the weights that all programs read")
            self._run_module("benchmarks.weights", str(self.folder))

    def photographs(self, count: int, given: Path | None = None) -> Path:
        """Returns a flat folder of `count` photographs, either made or repeated from the folder `given`."""
        folder = self.folder / f"photographs_{'given_' if given else ''}{count}"
        if given:
            _remove(folder)
            _link(_images(given), folder, count)
        else:
            self._make(folder, count, "web")
        return folder

    def phone_photographs(self, count: int) -> Path:
        """Returns a flat folder of `count` 12-megapixel photographs, a quarter of which are different."""
        different = max(1, count // 4)
        originals = self.folder / f"phone_originals_{different}"
        self._make(originals, different, "phone")
        folder = self.folder / f"phone_{count}"
        _remove(folder)
        _link(_images(originals), folder, count)
        return folder

    def small_images(self, count: int) -> Path:
        """Returns a folder with `count` small images, and a network of a few bytes (`benchmarks.small_network`)."""
        folder = self.folder / f"small_{count}"
        if not folder.exists():
            self.say(f"making {count} small images")
            self._run_module("benchmarks.small_network", str(folder), "--count", str(count))
        return folder

    def enlarged(self, photographs: Path, count: int) -> Path:
        """Returns a folder of `count` photographs in sub-folders that each link to all of `photographs`."""
        folder = self.folder / f"enlarged_{count}"
        _remove(folder)
        images = _images(photographs)
        for number, start in enumerate(range(0, count, len(images))):
            _link(images, folder / f"part_{number:04}", min(len(images), count - start))
        return folder

    def environment(self, *, cache: str = layout.CACHE_HOME) -> dict[str, str]:
        """Returns the caller's environment, with folders of the workspace instead of the user's.

        Settings of imgclassify are left out, and Hugging Face libraries are offline.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in _SETTINGS and not name.startswith(_OWN_SETTINGS)
        }
        return kept | {
            "XDG_CONFIG_HOME": str(self.folder / layout.CONFIG_HOME),
            "XDG_CACHE_HOME": str(self.folder / cache),
            "TORCH_HOME": str(self.folder / layout.TORCH_HOME),
            "HF_HOME": str(self.folder / "hf_home"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUTF8": "1",
        }

    def predictions(self, name: str) -> Path:
        """Returns the path of the file to which a program must write its predictions."""
        folder = self.folder / layout.PREDICTIONS
        folder.mkdir(exist_ok=True)
        return folder / name

    def _make(self, folder: Path, count: int, kind: str) -> None:
        if folder.exists():
            return
        self.say(f"making {count} {kind} photographs")
        draft = folder.with_suffix(".draft")
        _remove(draft)
        self._run_module("benchmarks.photos", str(draft), "--count", str(count), "--kind", kind)
        draft.rename(folder)

    def _run_module(self, module: str, *arguments: str) -> None:
        # Errors must appear on the terminal, because nothing can be measured without these files.
        subprocess.run([sys.executable, "-m", module, *arguments], cwd=layout.ROOT, check=True, stdout=sys.stderr)


def imgclassify() -> tuple[str, ...]:
    """Returns the command of imgclassify: the installed script beside this Python, or the module."""
    script = Path(sys.executable).with_name("imgclassify")
    return (str(script),) if script.exists() else (sys.executable, "-m", "imgclassify")


def reference(name: str) -> tuple[str, ...]:
    """Returns the command of a reference program."""
    return (sys.executable, str(layout.REFERENCES / f"{name}.py"))


def _images(folder: Path) -> list[Path]:
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ValueError(f"no image in {folder}")
    return images


def _link(images: Sequence[Path], folder: Path, count: int) -> None:
    """Makes `count` hard links in `folder`, or copies if the file system has no hard links."""
    folder.mkdir(parents=True)
    for number, image in zip(range(count), cycle(images), strict=False):
        link = folder / f"photo_{number:05}{image.suffix.lower()}"
        try:
            link.hardlink_to(image)
        except OSError:
            shutil.copyfile(image, link)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
