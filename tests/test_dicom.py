"""DICOM: grey through the file's own window, slope and intercept, as the standard's formulas give it."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import dicom_dataset, noise

from imgclassify.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    TruncatedImageError,
    UnsupportedImageError,
)
from imgclassify.images import decoding

pydicom = pytest.importorskip("pydicom")

VALUES = np.linspace(-1000, 3000, 48 * 72).reshape(48, 72).astype(np.int16)


def written(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def decoded(dataset: Any, **options: int) -> np.ndarray:
    return np.asarray(decoding.decode_image(io.BytesIO(written(dataset)), **options))


def grey(dataset: Any) -> np.ndarray:
    pixels = decoded(dataset)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, written out pixel by pixel."""
    shown = [
        0
        if x <= center - 0.5 - (width - 1) / 2
        else 255
        if x > center - 0.5 + (width - 1) / 2
        else ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
        for x in values.ravel().tolist()
    ]
    return np.reshape(shown, values.shape)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (0.5, 100)])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (1000, 4000), (-600, 1500), (7, 1)])
def test_a_window_is_applied_after_slope_and_intercept(
    slope: float, intercept: float, center: int, width: int
) -> None:
    given = {"WindowCenter": center, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": intercept}
    found = grey(dicom_dataset(VALUES, **given))
    wanted = (
        linear(VALUES * slope + intercept, center, width)
        if width > 1
        else 255.0 * (VALUES * slope + intercept > center - 0.5)
    )
    assert np.abs(found - wanted).max() <= 0.5 + 1e-6


def test_the_first_of_several_windows_counts() -> None:
    several = dicom_dataset(VALUES, WindowCenter=[40, 900], WindowWidth=[400, 100])
    assert (grey(several) == grey(dicom_dataset(VALUES, WindowCenter=40, WindowWidth=400))).all()


def test_the_other_functions_of_a_window() -> None:
    exact = grey(dicom_dataset(VALUES, WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT"))
    assert np.abs(exact - 255 * ((VALUES.astype(float) - 40) / 400 + 0.5).clip(0, 1)).max() <= 0.5 + 1e-6
    sigmoid = grey(dicom_dataset(VALUES, WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID"))
    assert np.abs(sigmoid - 255 / (1 + np.exp(-4 * (VALUES.astype(float) - 40) / 400))).max() <= 0.5 + 1e-6


def test_monochrome1_is_inverted() -> None:
    window = {"WindowCenter": 40, "WindowWidth": 400}
    inverted = grey(dicom_dataset(VALUES, PhotometricInterpretation="MONOCHROME1", **window))
    assert (inverted == 255 - grey(dicom_dataset(VALUES, **window))).all()


def test_without_a_window_the_range_of_the_values_is_shown_without_padding() -> None:
    wanted = np.rint((VALUES.astype(float) + 1000) / 4000 * 255)
    assert np.abs(grey(dicom_dataset(VALUES)) - wanted).max() <= 1
    padded = VALUES.copy()
    padded[:4] = -32768
    assert np.abs(grey(dicom_dataset(padded, PixelPaddingValue=-32768))[4:].max() - 255) <= 1
    assert grey(dicom_dataset(padded, PixelPaddingValue=-32768))[4:].min() <= 20
    assert (grey(dicom_dataset(np.full((4, 4), 7, np.uint16))) == 0).all()


def test_an_enhanced_images_window_is_in_its_groups() -> None:
    voi, transformation, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    voi.WindowCenter, voi.WindowWidth = 40, 400
    transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = 2, -100, "HU"
    group.FrameVOILUTSequence = [voi]
    group.PixelValueTransformationSequence = [transformation]
    frames = dicom_dataset(VALUES, SharedFunctionalGroupsSequence=[group], NumberOfFrames=2)
    frames.PixelData = VALUES.tobytes() + VALUES[::-1].tobytes()
    assert np.abs(grey(frames) - linear(VALUES * 2.0 - 100, 40, 400)).max() <= 0.5 + 1e-6


def test_a_lookup_table_is_applied() -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = (65535 - np.arange(256) * 257).astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (grey(dicom_dataset(values, VOILUTSequence=[table])) == 255 - values).all()


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_are_kept(planar: int) -> None:
    pixels = np.asarray(noise(40, 30))
    dataset = dicom_dataset(pixels, PlanarConfiguration=planar)
    if planar:
        dataset.PixelData = pixels.transpose(2, 0, 1).tobytes()
    assert (decoded(dataset) == pixels).all()


def test_a_palette_is_applied() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = {}
    for index, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = (
            np.roll(np.arange(256) * 257, index * 50).astype("<u2").tobytes()
        )
    found = decoded(dicom_dataset(values, PhotometricInterpretation="PALETTE COLOR", **palette))
    wanted = np.stack([np.roll(np.arange(256), index * 50).reshape(16, 16) for index in range(3)], axis=-1)
    assert (found == wanted).all()


def test_the_limit_on_pixels_holds_before_any_is_decoded() -> None:
    dataset = dicom_dataset(np.zeros((4, 4), np.uint8))
    dataset.Rows = dataset.Columns = 60_000
    with pytest.raises(ImageTooLargeError, match="60000 × 60000"):
        decoded(dataset)


def test_what_is_not_decoded_is_named() -> None:
    report = dicom_dataset(VALUES)
    del report.PixelData, report.Rows
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage
    with pytest.raises(UnsupportedImageError, match="without an image"):
        decoded(report)
    deflated = dicom_dataset(VALUES)
    deflated.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    with pytest.raises(UnsupportedImageError, match="deflated"):
        decoded(deflated)
    packed = dicom_dataset(VALUES)
    packed.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    packed.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7" + bytes(40)])
    packed["PixelData"].VR = "OB"
    with pytest.raises(ImageError, match=r"JPEG-LS.*pip install pylibjpeg|damaged"):
        decoded(packed)


def test_a_file_that_ends_before_its_pixels_is_truncated() -> None:
    content = written(dicom_dataset(VALUES))
    start = len(content) - VALUES.nbytes
    for length in (140, 300, start - 100, start - 20, start, start + 9, len(content) - 1):
        with pytest.raises(TruncatedImageError):
            decoding.decode_image(io.BytesIO(content[:length]))


def test_a_cut_file_is_an_error_without_a_word_on_stderr(tmp_path) -> None:
    content = written(dicom_dataset(VALUES, WindowCenter="1234", WindowWidth=4)).replace(b"1234", b"a\\bc")
    program = f"""
import io
from imgclassify.images import decoding
from imgclassify.errors import ImageError
content = {content!r}
for length in [132, 140, 200, 300, 400, 500, 700, len(content) // 2, len(content) - 1, len(content)]:
    try:
        decoding.decode_image(io.BytesIO(content[:length]))
        raise AssertionError(length)
    except ImageError as error:
        print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    allowed = {CorruptImageError.__name__, TruncatedImageError.__name__, UnsupportedImageError.__name__}
    assert set(done.stdout.split()) <= allowed
