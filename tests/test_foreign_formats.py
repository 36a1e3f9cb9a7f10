"""What is said about a file that is not opened: each kind by its name, and no text or noise by a wrong one."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from imgclassify.errors import ImageError, NotAnImageError, UnsupportedImageError
from imgclassify.file_kinds import find_kind
from imgclassify.images import decoding


def said(content: bytes) -> ImageError:
    with pytest.raises(ImageError) as raised:
        decoding.decode_image(io.BytesIO(content))
    return raised.value


def written_by_pillow(form: str, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (32, 32), 1).save(stream, form)
    return stream.getvalue()


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    return stream.getvalue()


def zip_file(comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        if not comment:
            archive.writestr("a.jpg", b"")
        archive.comment = comment
    return stream.getvalue()


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (written_by_pillow("ICO"), "ICO"),
        (b"\0\0\2\0" + written_by_pillow("ICO")[4:], "ICO"),
        (written_by_pillow("ICNS"), "ICNS"),
        (written_by_pillow("DDS"), "DDS"),
        (written_by_pillow("PCX"), "PCX"),
        (written_by_pillow("SGI"), "SGI"),
        (b"8BPS\0\1" + bytes(6), "PSD"),
        (b"8BPS\0\2" + bytes(6), "PSD"),
        (b"v/1\x01\2\0\0\0channels", "EXR"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "HDR"),
        (b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0), "QOI"),
        (b"P7\nWIDTH 1\n", "PAM"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- <html> --><!DOCTYPE svg PUBLIC 'a' 'b'>\n<svg:svg/>", "SVG"),
        ("<?xml version='1.0' encoding='UTF-16'?><svg/>".encode("utf-16"), "SVG"),
    ],
)
def test_another_image_format_is_named(content: bytes, name: str) -> None:
    error = said(content)
    assert isinstance(error, UnsupportedImageError)
    assert name in str(error)
    assert "convert the file" in str(error)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41"), "MP4"),
        (box(b"ftyp", b"qt  \0\0\0\0qt  "), "QuickTime"),
        (box(b"ftyp", b"M4V \0\0\0\0mp42"), "MP4"),
        (box(b"wide") + box(b"mdat", b"x" * 90), "QuickTime"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1", "WebM"),
        (b"RIFF" + bytes(4) + b"AVI LIST", "AVI"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV"),
        (b"\0\0\1\xba\x44", "MPEG"),
        ((b"G" + b"\x40" * 187) * 8, "MPEG"),
        ((b"\0\0\0\0G" + b"\x40" * 187) * 8, "MPEG"),
    ],
)
def test_a_video_is_named_with_its_extra(content: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imgclassify.images.video", None)  # as if PyAV were not installed
    error = said(content)
    assert isinstance(error, UnsupportedImageError)
    assert "a video (" in str(error)
    assert name in str(error)
    assert "imgclassify[video]" in str(error)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (gzip.compress(b"x", mtime=0), "gzip"),
        (lzma.compress(b"x"), "xz"),
        (zip_file(), "zip archive"),
        (zip_file(b"empty"), "zip archive"),
        (tar(), "tar archive"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive"),
        (b"Rar!\x1a\x07\1\0", "RAR archive"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        (b"%!PS-Adobe-3.0\n", "PostScript"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X", "AppleDouble"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Thumbs.db"),
        (b"\x93NUMPY\1\0", "NumPy"),
        (b"SQLite format 3\0", "SQLite"),
        (b"ID3\4\0", "audio"),
        (bytes(5000), "zeros"),
        (b"<!DOCTYPE html>\n<html><head><title>404</title>", "HTML"),
        (b"\n\n  <HTML><body>Sign in", "HTML"),
        (b"<!-- saved -->\n<!doctype HTML>", "HTML"),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><svg/></html>', "HTML"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b'[\n  {"id": 1}]', "JSON"),
        ('\ufeff{"detail": "fehlt – ä"}'.encode(), "JSON"),
        ('{"error": 1}'.encode("utf-16"), "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "git lfs pull"),
        (b"../../.git/annex/objects/aa/bb/SHA256E-s9--0.jpg\n", "git annex get"),
        (b"outs:\n- md5: 0\n  path: a.jpg\n", "dvc pull"),
        (b"The quick brown fox\njumps", "text file, which begins with 'The quick brown fox'"),
        ("ä" * 3000, "text file, which begins with 'ää"),
    ],
)
def test_what_is_no_image_is_named_with_what_to_do(content: bytes | str, name: str) -> None:
    error = said(content.encode() if isinstance(content, str) else content)
    assert isinstance(error, NotAnImageError)
    assert name in str(error)
    assert "; " in str(error)
    assert len(str(error)) < 200


def test_noise_is_no_kind() -> None:
    random = np.random.default_rng(0)
    named = [content for content in (random.bytes(4096) for _ in range(5000)) if find_kind(content)]
    assert len(named) <= 2
    assert "the file begins with b'\\x80\\x81" in str(said(b"\x80\x81" * 40))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 63, 64, 65, 4095, 4096, 4097])
def test_any_length_has_an_answer(length: int) -> None:
    for unit in (b"\0", b"<", b"{", b"a", b"G", b"\xff", b"\xc3\xa4"):
        assert isinstance(said((unit * length)[:length]), ImageError)
