"""Every test has folders of its own, and reaches no network but this machine's."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from servers import HubHandler

from imgclassify.images import decoders

# A busy machine is slow, which is no fault. CI tries the same examples each time, so that only a change fails it;
# everywhere else new ones are looked for.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("tests")

# Started in the background (`pytest &`, nohup), this process ignores these signals, and its children would too.
# With a handler that does nothing it still ignores them, and children get the default instead.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

SLIM = find_spec("torch") is None
"""Whether this is an installation without PyTorch. Modules that import it are then left out."""
_IMPORTS_TORCH = re.compile(r"^(import|from) (torch|torchvision|timm|networks)\b", re.MULTILINE)
_TESTS = Path(__file__).parent
collect_ignore = [
    str(path) for path in _TESTS.rglob("test_*.py") if SLIM and _IMPORTS_TORCH.search(path.read_text("utf-8"))
]

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SLIM:
        for item in items:
            if item.get_closest_marker("needs_torch"):
                item.add_marker(pytest.mark.skip(reason="needs torch, torchvision or timm"))


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    for variable in ("MODEL", "OFFLINE", "MIRROR", "DEBUG"):
        monkeypatch.delenv(f"IMGCLASSIFY_{variable}", raising=False)
    for variable in PROXIES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command of the command line takes the package's logger for itself, and the next test may listen to it."""
    logger = logging.getLogger("imgclassify")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image of smooth random colours: every pixel differs, and JPEG keeps it recognisable."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


_OPTIONAL_FORMATS = {"HEIF": "pillow_heif", "JPEGXL": "pillow_jxl", "DICOM": "pydicom"}
AVAILABLE_FORMATS = [name for name in decoders.IMAGE_FORMATS if find_spec(_OPTIONAL_FORMATS.get(name, "PIL"))]
"""The formats whose package is installed."""


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    """The bytes of an image file; `options` are the encoder's."""
    buffer = io.BytesIO()
    if format_name == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(image).save(buffer, **options)
    elif format_name == "JPEGXL":
        pytest.importorskip("pillow_jxl")
        image.save(buffer, "JXL", **options)
    elif format_name == "DICOM":
        dicom_dataset(np.asarray(image.convert("RGB")), **options).save_as(buffer, enforce_file_format=True)
    else:
        image.save(buffer, format_name, **options)
    return buffer.getvalue()


def dicom_dataset(pixels: np.ndarray, **elements: object) -> Any:
    """A pydicom.Dataset with uint8, int16 or uint16 pixels (H, W) or (H, W, 3), and these elements."""
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = pixels.tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small JPEG."""
    path = tmp_path / "photo.jpg"
    noise(320, 240).save(path, quality=90)
    return path


@pytest.fixture
def huggingface(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[HubHandler]]:
    """A stand-in for the Hugging Face hub, for the processes that a test starts."""
    handler = type("Handler", (HubHandler,), {"files": {}, "refusals": {}, "asked": [], "agents": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()
