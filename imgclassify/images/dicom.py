"""Reads DICOM, with pydicom, as a viewer shows it: with the window, slope and intercept that the file gives.

Importing this module raises ImportError without pydicom.
"""

from __future__ import annotations

import logging
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile
from pydicom import dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from imgclassify.errors import ImageError, TruncatedImageError, UnsupportedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

logging.getLogger("pydicom").addHandler(logging.NullHandler())  # its messages would not name the file

_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""The transfer syntax whose whole content is compressed, without a limit on what it unpacks to."""
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TRUNCATED = "damaged DICOM file: it ends too early"
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


class DicomImageFile(ImageFile.ImageFile):
    """A DICOM file, of which `seek` chooses the frame, in mode RGB or L."""

    format = "DICOM"

    def _open(self) -> None:
        assert self.fp is not None
        content = self.fp.read()
        if _DEFLATED in content:
            raise UnsupportedImageError(
                "a deflated DICOM file is not decoded; save it with another transfer syntax"
            )
        self._dataset = dcmread(BytesIO(content))
        if not any(name in self._dataset for name in _PIXELS):
            kind = self._dataset.file_meta.get("MediaStorageSOPClassUID")
            if kind is None or "Image Storage" in kind.name or "Rows" in self._dataset:
                raise TruncatedImageError(_TRUNCATED)
            raise UnsupportedImageError("a DICOM file without an image, such as a report or a directory")
        self.n_frames = int(self._dataset.get("NumberOfFrames") or 1)
        self.missing: ImageError | None = None
        self._leave_out_missing()
        self._stored_size = int(self._dataset.Columns), int(self._dataset.Rows)
        self._stored_mode = "RGB" if self._dataset.get("SamplesPerPixel", 1) == 3 else "L"
        self.seek(0)

    def _leave_out_missing(self) -> None:
        """Leaves out the last frames of a file that is cut, if its frames are not compressed."""
        dataset = self._dataset
        if "PixelData" not in dataset or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            return
        bits = dataset.Rows * dataset.Columns * dataset.get("SamplesPerPixel", 1) * dataset.BitsAllocated
        whole = 8 * len(dataset.PixelData) // bits
        if 0 < whole < self.n_frames and "422" not in dataset.PhotometricInterpretation:
            self.missing = TruncatedImageError("damaged DICOM file: it ends too early, and frames are missing")
            dataset.NumberOfFrames = self.n_frames = whole
            content = dataset.PixelData[: -(-whole * bits // 8)]
            dataset.PixelData = content + bytes(len(content) % 2)

    def seek(self, frame: int) -> None:
        self._frame = frame
        self._is_decoded = False
        self._size, self._mode = self._stored_size, self._stored_mode

    def tell(self) -> int:
        return self._frame

    def load(self) -> Any:
        if not self._is_decoded:
            decoded = Image.fromarray(_to_bytes(self._dataset, self._frame))
            self._is_decoded = True
            if decoded.size != self.size:
                raise ValueError("its size is not the one in its header")
            self.im, self._mode = decoded.im, decoded.mode
        return super().load()


def _to_bytes(dataset: Dataset, frame: int) -> NDArray[np.uint8]:
    """Returns a frame as uint8: (height, width) in grey, or (height, width, 3) in RGB.

    Args:
        frame: from 0.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        values = pixel_array(dataset, index=frame)
    except (NotImplementedError, RuntimeError) as error:
        # A decoder that is missing, or one that failed on damaged data.
        if "missing dependencies" not in str(error) and "not supported" not in str(error):
            raise
        raise UnsupportedImageError(
            f"DICOM compressed as {syntax.name} needs another package: pip install pylibjpeg[all]"
        ) from error
    except ValueError as error:
        if "less than expected" in str(error):
            raise TruncatedImageError(_TRUNCATED) from error
        raise
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation == "PALETTE COLOR":
        colours = apply_color_lut(values, dataset)
        return _scale(colours, 8 * colours.dtype.itemsize)
    if values.ndim == 3:
        return _scale(values, int(dataset.BitsStored))
    grey = np.rint(255 * _brightness(dataset, values, frame)).astype(np.uint8)
    return 255 - grey if interpretation == "MONOCHROME1" else grey


def _scale(colours: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    scaled: NDArray[np.float64] = np.rint(colours.astype(np.float64) * (255 / (2**bits - 1)))
    return scaled.clip(0, 255).astype(np.uint8)


def _brightness(dataset: Dataset, values: NDArray[Any], frame: int) -> NDArray[np.float64]:
    """Returns 0..1 for the values of a grey image: through its window, its lookup table, or else its range."""
    padding = dataset.get("PixelPaddingValue")
    is_padding = np.zeros(values.shape, bool) if padding is None else values == padding
    slope = _find(dataset, "PixelValueTransformationSequence", "RescaleSlope", frame)
    if slope is not None and "RescaleSlope" not in dataset:
        intercept = _find(dataset, "PixelValueTransformationSequence", "RescaleIntercept", frame) or 0
        shown = values * float(slope) + float(intercept)
    else:
        shown = apply_modality_lut(values, dataset).astype(np.float64)
    center = _find(dataset, "FrameVOILUTSequence", "WindowCenter", frame)
    width = _find(dataset, "FrameVOILUTSequence", "WindowWidth", frame)
    if center is not None and width is not None:
        function = str(_find(dataset, "FrameVOILUTSequence", "VOILUTFunction", frame) or "LINEAR")
        return apply_window(shown, _first(center), _first(width), function)
    if "VOILUTSequence" in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        table: NDArray[np.float64] = apply_voi_lut(shown.astype(values.dtype), dataset) / (2**bits - 1)
        return table.clip(0, 1)
    seen = shown[~is_padding & np.isfinite(shown)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    return np.nan_to_num((shown - low) / ((high - low) or 1)).clip(0, 1)


def apply_window(values: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.float64]:
    """Returns 0..1 for values in a window, as in DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3.

    Args:
        function: LINEAR, LINEAR_EXACT or SIGMOID.
    """
    if function == "SIGMOID":
        curve: NDArray[np.float64] = 1 / (1 + np.exp((-4 * (values - center) / max(width, 1e-9)).clip(-700, 700)))
        return curve
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width <= 0:
        return (values > center).astype(np.float64)
    shown: NDArray[np.float64] = (values - center) / width + 0.5
    return np.nan_to_num(shown).clip(0, 1)


def _find(dataset: Dataset, sequence: str, keyword: str, frame: int) -> Any:
    """Returns an element of the dataset, or else of a frame of an enhanced multi-frame image, or None."""
    shared, own = (dataset[name].value if name in dataset else [] for name in _GROUPS)
    groups = [*shared[:1], *own[frame : frame + 1]]
    holders = [dataset, *(group[sequence][0] for group in groups if sequence in group)]
    return next((holder[keyword].value for holder in holders if keyword in holder), None)


def _first(value: Any) -> float:
    """Returns the value of an element, or the first of its values."""
    return float(value[0] if hasattr(value, "__len__") else value)
