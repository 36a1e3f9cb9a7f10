"""Twenty thousand files in one run, two thousand of them broken in twenty ways: each has its own record, and memory
does not grow."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

FILES = 20_000
EACH = 10
"""Every tenth file is broken."""
COLOURS = ("red", "green", "blue")

Break = Callable[[Path], None]


def encoded(format_name: str, size: tuple[int, int] = (40, 36)) -> bytes:
    stream = BytesIO()
    generator = np.random.default_rng(7)
    noise = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, format_name)
    return stream.getvalue()


def put(content: bytes) -> Break:
    return lambda path: path.write_bytes(content) and None


def cut(format_name: str) -> Break:
    content = encoded(format_name)
    return put(content[: len(content) * 3 // 5])


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is of that size."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = (
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, data)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + struct.pack(">I", 0) + b"IEND\xaeB`\x82"


def bind(path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    former = Path.cwd()
    os.chdir(path.parent)  # a socket's whole path may have no more than some hundred bytes
    try:
        listening.bind(path.name)
    finally:
        os.chdir(former)
        listening.close()


PNG = encoded("PNG")
JPEG = encoded("JPEG")
BROKEN: list[tuple[str, str, Break, set[str]]] = [
    ("empty", ".jpg", put(b""), {"empty"}),
    ("text", ".jpg", put(b"This is no picture.\n"), {"not_an_image"}),
    ("page", ".png", put(b"<!DOCTYPE html><title>404</title>"), {"not_an_image"}),
    ("archive", ".webp", put(b"PK\x03\x04" + bytes(60)), {"not_an_image"}),
    ("zeros", ".gif", put(bytes(4096)), {"not_an_image"}),
    ("postscript", ".jpg", put(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), {"not_an_image"}),
    ("cut-jpeg", ".jpg", cut("JPEG"), {"truncated_image"}),
    ("cut-png", ".png", cut("PNG"), {"truncated_image"}),
    ("cut-gif", ".gif", cut("GIF"), {"truncated_image"}),
    ("cut-bmp", ".bmp", cut("BMP"), {"truncated_image"}),
    ("cut-webp", ".webp", cut("WEBP"), {"truncated_image", "corrupt_image"}),
    ("cut-tiff", ".tif", cut("TIFF"), {"truncated_image", "corrupt_image"}),
    ("cut-avif", ".avif", cut("AVIF"), {"truncated_image", "corrupt_image"}),
    ("headless", ".jpg", put(JPEG[:2] + b"\xff\xd9" + bytes(200)), {"corrupt_image", "truncated_image"}),
    ("bad-crc", ".png", put(PNG[:20] + b"\xff" + PNG[21:]), {"corrupt_image", "image_too_large"}),
    ("bomb", ".png", put(claiming(60_000, 60_000)), {"image_too_large"}),
    ("dangling", ".jpg", lambda path: path.symlink_to("nowhere.jpg"), {"not_found"}),
    ("loop", ".jpg", lambda path: path.symlink_to(path.name), {"unreadable"}),
    ("pipe", ".jpg", lambda path: os.mkfifo(path), {"not_a_file"}),
    ("socket", ".jpg", bind, {"not_a_file"}),
]


def network(path: Path) -> None:
    """Names the strongest of the three channels."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "scale"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(4 * np.eye(3, dtype=np.float32), "scale")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def fill(folder: Path) -> dict[str, str | set[str]]:
    """Makes the files. Gives for each name its colour, or the types of error that it may have."""
    plain = {}
    for colour, value in zip(COLOURS, [(200, 30, 30), (30, 200, 30), (30, 30, 200)], strict=True):
        for format_name, extension in (("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")):
            stream = BytesIO()
            Image.new("RGB", (20, 18), value).save(stream, format_name)
            plain[colour, extension] = stream.getvalue()
    expected: dict[str, str | set[str]] = {}
    for index in range(FILES):
        below = folder / f"{index // 500:03}"
        if index % 500 == 0:
            below.mkdir()
        if index % EACH == 3:
            kind, extension, make, types = BROKEN[index // EACH % len(BROKEN)]
            path = below / f"{index:05} {kind}{extension}"
            make(path)
            expected[str(path)] = types
        else:
            colour, extension = COLOURS[index % 3], (".jpg", ".png", ".webp")[index // 3 % 3]
            path = below / f"{index:05} {colour}{extension}"
            path.write_bytes(plain[colour, extension])
            expected[str(path)] = colour
    return expected


def resident(process: int) -> int:
    """KiB of memory; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "options",
    [["--workers", "threads"], ["--workers", "processes"], pytest.param(["--isolate"], marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_each_of_twenty_thousand_files_has_its_own_record_and_memory_stays_flat(
    options: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "the photos"
    folder.mkdir()
    expected = fill(folder)
    network(tmp_path / "colour.onnx")
    (tmp_path / "colours.txt").write_text("\n".join(COLOURS))
    output, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    command = ["predict", folder, "-m", tmp_path / "colour.onnx", "--labels", tmp_path / "colours.txt"]
    command += ["--resize-size", "16", "--crop-size", "16", "--interpolation", "bilinear", "--mean", "0.5"]
    command += ["--std", "0.25", "-o", output, "--summary", summary, *options]
    samples: list[tuple[int, int]] = []  # (records, KiB)
    partial = output.with_name("out.jsonl.partial")
    with subprocess.Popen([sys.executable, "-m", "imgclassify", *map(str, command)], stderr=subprocess.PIPE) as run:
        while run.poll() is None:
            size = partial.stat().st_size if partial.exists() else 0
            samples.append((size, resident(run.pid)))
            time.sleep(0.1)
        assert run.stderr
        err = run.stderr.read().decode()
    assert run.returncode == 1, err
    assert "Traceback" not in err

    records = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [record["source"] for record in records] == sorted(expected)
    for record in records:
        wanted = expected[record["source"]]
        if isinstance(wanted, str):
            assert record["predictions"][0]["label"] == wanted, record
        else:
            assert record["error"]["type"] in wanted, record
    counts = Counter(record["error"]["type"] for record in records if record["error"])
    told = json.loads(summary.read_text("utf-8"))
    assert (told["images"], told["answered"], told["failed"]) == (FILES, FILES - FILES // EACH, counts)
    assert counts.total() == FILES // EACH

    working = [memory for size, memory in samples if size > 0]
    first, rest = working[: len(working) // 4], working[len(working) // 4 :]
    print(f"{len(working)} samples, MiB: first quarter {max(first) / 1024:.0f}, later {max(rest) / 1024:.0f}")
    assert len(first) >= 5
    assert max(rest) < max(first) * 1.1
