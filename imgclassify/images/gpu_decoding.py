"""Decodes JPEGs on the GPU, turns them upright and resizes them there.

Images that the GPU cannot decode, or fails at, are decoded exactly (decoding.py, preprocessing.py).
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import PIL
from PIL import Image, JpegImagePlugin

from imgclassify import images
from imgclassify.errors import DeviceError, describe_error
from imgclassify.images import decoding, preprocessing
from imgclassify.images.decoder_errors import silence_decoders
from imgclassify.images.info import ImageInfo
from imgclassify.images.opened_image import MAX_SCANS
from imgclassify.images.rgb_conversion import SWAPS_AXES, exif_transposition, has_far_colors

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec, Size
    from imgclassify.sources import Source

BatchDecoder: TypeAlias = "Callable[[list[torch.Tensor]], list[torch.Tensor]]"
"""Decodes JPEGs. Takes the bytes of each as a (bytes,) uint8 tensor on the CPU. Returns RGB images, each (3,
H, W) uint8 on the device, not turned upright. If one JPEG fails, the whole call fails. Only one thread
calls it at a time."""

logger = logging.getLogger("imgclassify")

INTERPOLATIONS = ("bilinear", "bicubic")
"""The interpolations that torch computes with antialiasing."""

MAX_BYTES = 2**26
MAX_PIXELS = 2**26
"""Limits on JPEGs that are sent to the GPU, where a pixel takes 15 bytes. Larger images are rare."""

_PILLOW_MAJOR = int(PIL.__version__.partition(".")[0])
_RGB_IDS = (ord("R"), ord("G"), ord("B"))
_START_OF_SCAN = b"\xff\xda"
_END_OF_IMAGE = b"\xff\xd9"
_WARNING_MODULES = r"torchvision\.io\b"
_WARNING_FILTER = ("ignore", None, DeprecationWarning, re.compile(_WARNING_MODULES), 0)


@dataclass(frozen=True, slots=True)
class _Jpeg:
    """A JPEG that the GPU decodes reliably."""

    content: bytearray
    stored_size: Size
    """(height, width) as stored in the file."""
    transposition: Image.Transpose | None
    """The transposition that turns it upright."""
    upright_size: Size
    resized_size: Size


class GpuDecoder:
    """Makes crops that are close to those of `preprocessing.resize_and_crop`, but not the same bits.

    The resize follows Pillow's steps in float32, while Pillow computes with integers. This alone changes one
    value in a hundred by 1 level of 255 (the tests check this with libjpeg in place of nvJPEG). In addition,
    nvJPEG's arithmetic differs from libjpeg's, mostly where it enlarges the colour channels. `imgclassify
    compare` measures how much all of this changes the predictions.

    Any number of threads may call `load_crop`. JPEGs that they request at the same time are decoded in one
    call.
    """

    def __init__(
        self,
        spec: PreprocessSpec,
        device: str,
        *,
        max_pixels: int = images.MAX_PIXELS,
        decode_damaged: bool = False,
        decode_batch: BatchDecoder | None = None,
    ) -> None:
        """Tests the device's decoder on a small image.

        Args:
            device: "cuda" or "cuda:N". If `decode_batch` is given, any torch device.
            max_pixels: as in `decoding.decode_image`.
            decode_damaged: as in `decoding.decode_image`.
            decode_batch: replaces nvJPEG.

        Raises:
            DeviceError: the device or the installed torchvision cannot decode JPEGs.
        """
        import torch

        self._spec = spec
        self._max_pixels = max_pixels
        self._decode_damaged = decode_damaged
        self._cuda = torch.device(device).type == "cuda"
        if decode_batch is None:
            if not self._cuda:
                raise DeviceError(
                    f"JPEGs can be decoded on CUDA devices only, not on {device!r}",
                    hint="use --device cuda, or leave out --decode gpu",
                )
            decode_batch = _create_nvjpeg_decoder(device)
        self._decode = _BatchingDecoder(decode_batch)
        self._stream = _ThreadStream(device) if self._cuda else None

    def load_crop(self, source: Source) -> tuple[NDArray[np.uint8], ImageInfo]:
        """Decodes an image and returns the part that the network sees.

        Returns:
            (crop, what is known of the image). The crop is (crop height, crop width, 3) uint8, 0..255,
            C-contiguous, with the channels in the order of the spec.

        Raises:
            ImageError: as in `decoding.load_image` and `preprocessing.resize_and_crop`, which have the final
                say on every file.
        """
        if source.frame is not None:  # a JPEG has only one
            image = decoding.load_image(source, max_pixels=self._max_pixels)
            return preprocessing.resize_and_crop(image, self._spec), ImageInfo.of(image)
        with source.open() as stream:
            try:
                jpeg = _read_jpeg(stream, self._spec, min(MAX_PIXELS, self._max_pixels))
                if jpeg is not None:
                    return self._crop_on_gpu(jpeg), ImageInfo(*jpeg.upright_size[::-1], frames=1, frame=1)
            except Exception as error:  # noqa: BLE001 - nvJPEG fails in many ways; the CPU takes over
                logger.debug("%s is not decoded on the GPU: %s", source.name, describe_error(error))
            stream.seek(0)
            image = decoding.decode_image(stream, max_pixels=self._max_pixels, decode_damaged=self._decode_damaged)
        return preprocessing.resize_and_crop(image, self._spec), ImageInfo.of(image)

    def _crop_on_gpu(self, jpeg: _Jpeg) -> NDArray[np.uint8]:
        import torch

        pixels = self._decode(torch.frombuffer(jpeg.content, dtype=torch.uint8))
        if tuple(pixels.shape) != (3, *jpeg.stored_size) or pixels.dtype != torch.uint8:
            raise ValueError(f"decoded to {tuple(pixels.shape)} {pixels.dtype}")
        with nullcontext() if self._stream is None else self._stream.use_stream(), torch.inference_mode():
            crop = resized_crop(transpose_pixels(pixels, jpeg.transposition), jpeg.resized_size, self._spec)
            if self._stream is not None:
                # Wait before any tensor is released. nvJPEG writes to the memory that it gets even if another
                # stream still has to read it (pytorch/vision pull request 9606).
                self._stream.wait_for_stream()
            array: NDArray[np.uint8] = crop.cpu().numpy()
            return array


def transpose_pixels(pixels: torch.Tensor, transposition: Image.Transpose | None) -> torch.Tensor:
    """Transposes (3, H, W) pixels as `Image.transpose` transposes an image."""
    if transposition is None:
        return pixels
    turned, flipped = {
        Image.Transpose.FLIP_LEFT_RIGHT: (False, (-1,)),
        Image.Transpose.FLIP_TOP_BOTTOM: (False, (-2,)),
        Image.Transpose.ROTATE_180: (False, (-2, -1)),
        Image.Transpose.TRANSPOSE: (True, ()),
        Image.Transpose.ROTATE_270: (True, (-1,)),
        Image.Transpose.ROTATE_90: (True, (-2,)),
        Image.Transpose.TRANSVERSE: (True, (-2, -1)),
    }[transposition]
    if turned:
        pixels = pixels.mT
    return pixels.flip(flipped) if flipped else pixels


def resized_crop(pixels: torch.Tensor, resized: Size, spec: PreprocessSpec) -> torch.Tensor:
    """Resizes pixels and cuts the centre crop.

    Args:
        pixels: (3, H, W) uint8, RGB.
        resized: (height, width) before the crop.

    Returns:
        (crop height, crop width, 3) uint8, contiguous, with the channels in `spec.channel_order`.
    """
    import torch

    size = pixels.shape[1], pixels.shape[2]
    if spec.channel_order == "grey":
        pixels = _to_grey(pixels)
    floats = pixels[None].to(torch.float32)
    for step in _resize_steps(size, resized):
        floats = torch.nn.functional.interpolate(floats, step, mode=spec.interpolation, antialias=True)
        # Rounded after each step, as Pillow does.
        floats = floats.add_(0.5).floor_().clamp_(0, 255)
    crop_height, crop_width = spec.crop_size
    top, left = (
        preprocessing.crop_start(side, kept, spec) for side, kept in zip(resized, spec.crop_size, strict=True)
    )
    kept = floats[0, :, top : top + crop_height, left : left + crop_width].permute(1, 2, 0)
    if spec.channel_order == "bgr":
        kept = kept.flip(-1)
    return kept.to(torch.uint8).expand(-1, -1, 3).contiguous()


def _to_grey(pixels: torch.Tensor) -> torch.Tensor:
    """Converts (3, H, W) uint8 to (1, H, W), with the integers of Pillow's conversion from RGB to L."""
    import torch

    total = torch.full(pixels.shape[1:], 2**15, dtype=torch.int32, device=pixels.device)
    for channel, weight in zip(pixels, (19595, 38470, 7471), strict=True):
        total += channel.to(torch.int32).mul_(weight)
    return (total >> 16).to(torch.uint8)[None]


def _resize_steps(size: Size, resized: Size) -> list[Size]:
    """Returns the sizes after each step of the resize, (height, width).

    Pillow resizes one side after the other and rounds in between. It resizes the width first. From release 13
    on, it resizes the height first if it shrinks by more than twice as many pixels as the width.
    """
    falls = size[0] - resized[0], size[1] - resized[1]
    height_first = _PILLOW_MAJOR >= 13 and falls[0] > max(0, 2 * falls[1])
    between = (resized[0], size[1]) if height_first else (size[0], resized[1])
    return [step for before, step in pairwise((size, between, resized)) if step != before]


# JPEG files -------------------------------------------------------------------------------------------------


def _read_jpeg(stream: BinaryIO, spec: PreprocessSpec, max_pixels: int) -> _Jpeg | None:
    """Reads the stream if it holds a JPEG of the usual kind and size.

    Returns:
        The JPEG. None if the image should be decoded exactly; the stream may then be at any position.
    """
    if spec.interpolation not in INTERPOLATIONS:
        return None
    start = stream.read(3)
    if start != b"\xff\xd8\xff":
        return None
    content = bytearray(start + stream.read(MAX_BYTES))
    silence_decoders()
    reader = io.BytesIO(content)
    # Reads up to the start of the first scan.
    header = JpegImagePlugin.JpegImageFile(reader)
    if not _is_ycbcr(header) or not _is_complete(content, reader.tell()):
        return None
    if has_far_colors(header):
        return None
    if header.width * header.height > max_pixels or content.count(_START_OF_SCAN) > MAX_SCANS:
        return None
    stored = (header.height, header.width)
    transposition = exif_transposition(header)
    turned = transposition in SWAPS_AXES
    size = stored[::-1] if turned else stored
    resized = preprocessing.resized_size(size, spec)
    if not _fits_crop(resized, spec):
        return None
    return _Jpeg(content, stored, transposition, size, resized)


def _is_ycbcr(header: JpegImagePlugin.JpegImageFile) -> bool:
    """Whether the three channels are luminance and two colour channels, as nvJPEG assumes.

    libjpeg recognises red, green and blue by Adobe's marker or by the names of the channels.
    """
    ids = tuple(component[0] for component in header.layer)
    return header.mode == "RGB" and len(ids) == 3 and ids != _RGB_IDS and header.info.get("adobe_transform", 1) == 1


def _is_complete(content: bytearray, start: int) -> bool:
    """Whether the image data that begins at `start` has an end marker.

    nvJPEG may fill missing data with grey, while Pillow rejects the file. Within the image data the two bytes
    of the marker mean nothing else. Before it, a thumbnail may have an end marker of its own.
    """
    return len(content) < MAX_BYTES and content.find(_END_OF_IMAGE, start) >= 0


def _fits_crop(resized: Size, spec: PreprocessSpec) -> bool:
    """Whether the crop lies within the resized image and the resize is of a usual size.

    Nothing needs to be padded then.
    """
    height, width = resized
    crop_height, crop_width = spec.crop_size
    return crop_height <= height and crop_width <= width and height * width <= preprocessing.LARGE_RESIZE


# Decoding ---------------------------------------------------------------------------------------------------


def decode_jpegs(jpegs: list[torch.Tensor], device: str) -> list[torch.Tensor]:
    """Decodes JPEGs with torchvision, which uses nvJPEG on CUDA and libjpeg on the CPU."""
    from torchvision.io import ImageReadMode, decode_jpeg

    # Since torchvision 0.29 each call warns that TorchCodec will replace it. Users cannot act on that.
    # catch_warnings is not used, because it is not thread-safe.
    if _WARNING_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=_WARNING_MODULES)
    decoded: list[torch.Tensor] = decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)
    return decoded


def _create_nvjpeg_decoder(device: str) -> BatchDecoder:
    """Creates the decoder and tests it on one image.

    Raises:
        DeviceError: the decoder does not work.
    """
    import torch

    example = io.BytesIO()
    Image.new("RGB", (16, 16)).save(example, "JPEG")
    try:
        # High-priority streams come from a pool of their own. So no other work is ever queued on this stream,
        # and the memory of its images is only ever reused for images.
        stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

        def decode(jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
            with torch.cuda.stream(stream):
                decoded = decode_jpegs(jpegs, device)
            stream.synchronize()
            return decoded

        decode([torch.frombuffer(bytearray(example.getvalue()), dtype=torch.uint8)])
    except Exception as error:
        raise DeviceError(
            f"JPEGs cannot be decoded on {device}: {describe_error(error)}",
            hint="install the CUDA builds of torch and torchvision, or leave out --decode gpu",
        ) from error
    return decode


class _BatchingDecoder:
    """Decodes all JPEGs that threads have requested in one call of a decoder.

    torchvision lets in one thread at a time, and nvJPEG decodes a batch in a fraction of the time that its
    images take one by one.
    """

    def __init__(self, decode: BatchDecoder) -> None:
        self._decode = decode
        self._waiting: list[tuple[torch.Tensor, Future[torch.Tensor]]] = []
        self._listing = threading.Lock()
        self._decoding = threading.Lock()

    def __call__(self, jpeg: torch.Tensor) -> torch.Tensor:
        """Returns the decoded image. Raises whatever the decoder raises for this JPEG."""
        future: Future[torch.Tensor] = Future()
        with self._listing:
            self._waiting.append((jpeg, future))
        with self._decoding:
            # The thread that held the lock before may have decoded this JPEG too.
            if not future.done():
                with self._listing:
                    waiting, self._waiting = self._waiting, []
                self._run(waiting)
        return future.result()

    def _run(self, waiting: list[tuple[torch.Tensor, Future[torch.Tensor]]]) -> None:
        try:
            decoded = self._decode([jpeg for jpeg, _ in waiting])
            for image, (_, future) in zip(decoded, waiting, strict=True):
                future.set_result(image)
        except Exception as error:  # noqa: BLE001 - raised again in the waiting thread
            if len(waiting) == 1:
                waiting[0][1].set_exception(error)
            else:
                # One JPEG that fails makes the whole batch fail, without saying which one it is.
                for one in waiting:
                    self._run([one])
        finally:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(RuntimeError("decoding was interrupted"))


class _ThreadStream(threading.local):
    """A CUDA stream for each thread. threading.local calls `__init__` once in each."""

    def __init__(self, device: str) -> None:
        import torch

        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # With a blocking event, a waiting thread sleeps and leaves its core to others.
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def use_stream(self) -> AbstractContextManager[object]:
        import torch

        return torch.cuda.stream(self._stream)

    def wait_for_stream(self) -> None:
        self._done.record(self._stream)
        self._done.synchronize()
