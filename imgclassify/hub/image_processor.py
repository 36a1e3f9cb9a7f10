"""Converts the configuration of an image processor of transformers to a PreprocessSpec.

The arithmetic is that of transformers' processors for PIL images, `transformers.models.*.image_processing_pil_*`
of release 5.24. Their classes also have the defaults, for files that leave out a field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from imgclassify.catalog import MAX_SIDE, PreprocessSpec, Size
from imgclassify.errors import CheckpointError
from imgclassify.hub.network import PreprocessOverrides

_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By the number that Pillow gives them, which is the one in the file."""

_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_NEAREST, _LANCZOS, _BILINEAR, _BICUBIC = ({"resample": number} for number in range(4))
_SQUARE = {"size": {"height": 224, "width": 224}}
_SHORT = {"default_to_square": False, "size": {"shortest_edge": 224}}
_CROP = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
_ALL_STEPS = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "default_to_square": True,
}


class _Frame(NamedTuple):
    """What a processor does to the size of an image. None where nothing says it."""

    resize_size: int | Size | None
    """As in PreprocessSpec."""
    crop_mode: str
    """As in PreprocessSpec."""
    crop_size: Size | None
    """The size of the result. None if it depends on the image."""


class _Fields:
    """The fields of a configuration, with the defaults of its processor."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], source: str) -> None:
        self._values = {
            **_ALL_STEPS,
            **defaults,
            **{key: value for key, value in given.items() if value is not None},
        }
        self._source = source

    def refuse(self, reason: str) -> CheckpointError:
        return _refusal(self._source, reason)

    def flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise self._malformed(name, "true or false")
        return value

    def number(self, name: str) -> float:
        value: Any = self._values.get(name)
        if not _is_number(value) or value <= 0:
            raise self._malformed(name, "a number above zero")
        return float(value)

    def channels(self, name: str) -> tuple[float, float, float]:
        """Returns the values for the three channels. A single value is for all of them."""
        value = self._values.get(name)
        values = value if isinstance(value, list) else [value]
        if len(values) not in (1, 3) or not all(map(_is_number, values)):
            raise self._malformed(name, "three numbers")
        red, green, blue = map(float, values * (3 // len(values)))
        return red, green, blue

    def interpolation(self) -> str:
        value = self._values.get("resample")
        if not (type(value) is int and value in range(len(_INTERPOLATIONS))):
            raise self._malformed("resample", f"a number from 0 to {len(_INTERPOLATIONS) - 1}")
        return _INTERPOLATIONS[value]

    def size(self, name: str) -> dict[str, int]:
        """Returns a size by its parts, as transformers.image_processing_utils.get_size_dict does."""
        value: Any = self._values.get(name)
        square = name != "size" or self.flag("default_to_square")
        if type(value) is int:
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        elif isinstance(value, list) and len(value) == 2:
            value = dict(zip(("height", "width"), value, strict=True))
        if not (
            isinstance(value, dict) and all(type(side) is int and 0 < side <= MAX_SIDE for side in value.values())
        ):
            raise self._malformed(name, f"a number of pixels up to {MAX_SIDE}, or several with their names")
        return value

    def square_or_short(self) -> int | Size:
        """Returns `size` as the short side, or as (height, width)."""
        size = self.size("size")
        if size.keys() == {"shortest_edge"}:
            return size["shortest_edge"]
        if size.keys() == {"height", "width"}:
            return size["height"], size["width"]
        raise self.refuse(f"its size is given as {' and '.join(size) or 'nothing'}, which is not supported")

    def crop(self) -> Size:
        size = self.size("crop_size")
        if size.keys() != {"height", "width"}:
            raise self._malformed("crop_size", "a height and a width")
        return size["height"], size["width"]

    def _malformed(self, name: str, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{self._source}: {name} is {self._values.get(name)!r}, but should be {wanted}",
            hint="correct the file, or fetch it again",
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refusal(source: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{source}: {reason}",
        hint="describe the preprocessing yourself with all of --resize-size, --crop-size, --interpolation, --mean "
        "and --std",
    )


# What the processors do to the size of an image --------------------------------------------------------------


def _resize(fields: _Fields) -> _Frame:
    """transformers.image_processing_backends.PilBackend.resize"""
    return _to_frame(fields.square_or_short())


def _to_frame(size: int | Size) -> _Frame:
    return _Frame(size, "center", None) if isinstance(size, int) else _Frame(size, "squash", size)


def _resize_convnext(fields: _Fields) -> _Frame:
    side = fields.square_or_short()
    if not isinstance(side, int):
        raise fields.refuse("its size has no shortest_edge, which this processor needs")
    if side >= 384:
        return _Frame((side, side), "squash", (side, side))
    return _Frame(int(side / fields.number("crop_pct")), "center", (side, side))


def _resize_levit(fields: _Fields) -> _Frame:
    size = fields.square_or_short()
    return _to_frame(int((256 / 224) * size) if isinstance(size, int) else size)


def _resize_poolformer(fields: _Fields) -> _Frame:
    size, crop_pct = fields.square_or_short(), fields.number("crop_pct")
    if isinstance(size, tuple) and size[0] != size[1]:
        return _to_frame((int(size[0] / crop_pct), int(size[1] / crop_pct)))
    return _to_frame(int((size if isinstance(size, int) else size[0]) / crop_pct))


def _resize_pplcnet(fields: _Fields) -> _Frame:
    if fields.number("size_divisor") != 1:
        raise fields.refuse("it rounds sizes to multiples of size_divisor, which is not supported")
    side = int(fields.number("resize_short"))
    # Given as (height, width), the long side is rounded to the nearest pixel.
    return _Frame((side, side), "center", None)


class _Processor(NamedTuple):
    """What a processor does."""

    defaults: Mapping[str, Any]
    """The fields that its class sets."""
    resize: Callable[[_Fields], _Frame] = _resize
    ignores: tuple[str, ...] = ()
    """The steps that it does not do, whatever the file says."""


_PROCESSORS = {
    "BeitImageProcessor": _Processor({**_BICUBIC, **_HALF, **_SQUARE, **_CROP, "do_center_crop": False}),
    "BitImageProcessor": _Processor({**_BICUBIC, **_CLIP, **_SHORT, **_CROP}),
    "CLIPImageProcessor": _Processor({**_BICUBIC, **_CLIP, **_SHORT, **_CROP}),
    "ConvNextImageProcessor": _Processor(
        {**_BICUBIC, **_HALF, **_SHORT, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256}, _resize_convnext
    ),
    "DeiTImageProcessor": _Processor({**_BICUBIC, **_HALF, **_CROP, "size": {"height": 256, "width": 256}}),
    "EfficientNetImageProcessor": _Processor(
        {
            **_BICUBIC,
            **_HALF,
            "size": {"height": 346, "width": 346},
            "crop_size": {"height": 289, "width": 289},
            "rescale_offset": False,
            "include_top": True,
        }
    ),
    "LevitImageProcessor": _Processor({**_BICUBIC, **_IMAGENET, **_SHORT, **_CROP}, _resize_levit),
    "MobileNetV1ImageProcessor": _Processor(
        {**_BILINEAR, **_HALF, **_SHORT, **_CROP, "size": {"shortest_edge": 256}}
    ),
    "MobileNetV2ImageProcessor": _Processor(
        {**_BILINEAR, **_HALF, **_SHORT, **_CROP, "size": {"shortest_edge": 256}}
    ),
    "MobileViTImageProcessor": _Processor(
        {
            **_BICUBIC,
            **_SHORT,
            **_CROP,
            "crop_size": {"height": 256, "width": 256},
            "do_flip_channel_order": True,
        },
        ignores=("do_normalize",),
    ),
    "PPLCNetImageProcessor": _Processor(
        {
            **_BILINEAR,
            **_CROP,
            "image_mean": [0.406, 0.456, 0.485],
            "image_std": [0.225, 0.224, 0.229],
            "resize_short": 256,
            "size_divisor": 1,
            "do_flip_channel_order": True,
        },
        _resize_pplcnet,
    ),
    "PoolFormerImageProcessor": _Processor(
        {**_BICUBIC, **_IMAGENET, **_SHORT, **_CROP, "crop_pct": 0.9}, _resize_poolformer
    ),
    "PvtImageProcessor": _Processor({**_BICUBIC, **_IMAGENET, **_SQUARE}),
    "SegformerImageProcessor": _Processor(
        {**_BILINEAR, **_IMAGENET, "size": {"height": 512, "width": 512}}, ignores=("do_center_crop",)
    ),
    "SiglipImageProcessor": _Processor({**_BICUBIC, **_HALF, **_SQUARE, "default_to_square": False}),
    "ViTImageProcessor": _Processor({**_BILINEAR, **_HALF, **_SQUARE}),
}
"""The processors whose arithmetic a PreprocessSpec can say."""

_REFUSED = {
    "DonutImageProcessor": "fits images into a page",
    "ImageGPTImageProcessor": "replaces colours by the numbers of a palette",
    "PerceiverImageProcessor": "crops images before it resizes them",
    "Siglip2ImageProcessor": "cuts images into patches, as many as their size needs",
    "TextNetImageProcessor": "rounds the sides of images to multiples of a number",
}
"""Processors of image classifiers that a PreprocessSpec cannot describe → why."""

_BY_MODEL_TYPE = {
    "BeitImageProcessor": ("beit", "data2vec-vision"),
    "BitImageProcessor": ("bit", "dinov2", "focalnet", "hiera"),
    "CLIPImageProcessor": ("clip", "metaclip_2"),
    "ConvNextImageProcessor": ("convnext", "convnextv2", "cvt", "regnet", "resnet"),
    "DeiTImageProcessor": ("deit",),
    "DonutImageProcessor": ("donut-swin",),
    "EfficientNetImageProcessor": ("efficientnet",),
    "ImageGPTImageProcessor": ("imagegpt",),
    "LevitImageProcessor": ("levit",),
    "MobileNetV1ImageProcessor": ("mobilenet_v1",),
    "MobileNetV2ImageProcessor": ("mobilenet_v2",),
    "MobileViTImageProcessor": ("mobilevit", "mobilevitv2"),
    "PPLCNetImageProcessor": ("pp_lcnet",),
    "PerceiverImageProcessor": ("perceiver",),
    "PoolFormerImageProcessor": ("poolformer",),
    "PvtImageProcessor": ("pvt", "pvt_v2"),
    "SegformerImageProcessor": ("segformer",),
    "Siglip2ImageProcessor": ("siglip2",),
    "SiglipImageProcessor": ("siglip",),
    "TextNetImageProcessor": ("textnet",),
    "ViTImageProcessor": ("dinat", "ijepa", "swiftformer", "swin", "swinv2", "vit", "vit_msn"),
}
"""The processor that transformers takes for a model whose files name none → the types of such models."""


# ---------------------------------------------------------------------------------------------------------------


def to_spec(
    config: Mapping[str, Any],
    given: PreprocessOverrides,
    *,
    model_type: str,
    num_channels: int,
    source: str,
) -> PreprocessSpec:
    """Converts the configuration of an image processor to a PreprocessSpec.

    Its crops are those of transformers' processor for PIL images, bit for bit.

    Args:
        config: the content of preprocessor_config.json.
        given: the user's values, which count first.
        model_type: `model_type` of the model, which tells the processor if `config` does not.
        num_channels: the number of channels that the network takes, 1 or 3.
        source: names the file in errors.

    Raises:
        CheckpointError: a value is malformed, or a PreprocessSpec cannot describe the processor.
    """
    if given.is_complete:
        return given.to_spec(source)
    name = _processor_name(config, model_type)
    if name not in _PROCESSORS:
        reason = _REFUSED.get(name, "is not one of those that imgclassify knows")
        raise _refusal(source, f"its image processor, {name or 'which has no name'}, {reason}")
    processor = _PROCESSORS[name]
    fields = _Fields({**config, **dict.fromkeys(processor.ignores, False)}, processor.defaults, source)
    frame = _find_frame(fields, processor, given)
    assert frame.resize_size is not None
    assert frame.crop_size is not None
    mean, std = _find_normalization(fields)
    flipped = fields.flag("do_flip_channel_order")
    spec = PreprocessSpec(
        resize_size=frame.resize_size,
        crop_size=frame.crop_size,
        interpolation=fields.interpolation(),
        antialias=True,
        mean=mean[::-1] if flipped else mean,
        std=std[::-1] if flipped else std,
        crop_mode=frame.crop_mode,
        channel_order="grey" if num_channels == 1 else "bgr" if flipped else "rgb",
        crop_rounding="down",
    )
    return given.apply_to(spec)


def _processor_name(config: Mapping[str, Any], model_type: str) -> str:
    """Returns the name of the processor's class. It may be unknown, or empty."""
    found = config.get("image_processor_type") or config.get("feature_extractor_type")
    if isinstance(found, str):
        return found.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    return next((name for name, types in _BY_MODEL_TYPE.items() if model_type in types), "")


def _find_frame(fields: _Fields, processor: _Processor, given: PreprocessOverrides) -> _Frame:
    """Returns what the processor and the user say about the size. Nothing of it is None."""
    frame = processor.resize(fields) if fields.flag("do_resize") else _Frame(None, "center", None)
    if fields.flag("do_center_crop"):
        crop = fields.crop()
        if processor.resize is _resize_convnext and frame.crop_size not in (None, crop):
            raise fields.refuse("it crops images twice, which is not supported")
        frame = frame._replace(crop_size=crop)
    frame = frame._replace(
        resize_size=given.resize_size or frame.resize_size, crop_size=given.crop_size or frame.crop_size
    )
    if frame.resize_size is None:
        raise fields.refuse("its do_resize is false, so that each image has its own size: give --resize-size too")
    if frame.crop_size is None:
        raise fields.refuse("it resizes the short side and does not crop, so that images differ in size")
    if fields.flag("do_pad"):
        raise fields.refuse("it pads images (do_pad), which is not supported")
    return frame


def _find_normalization(fields: _Fields) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns mean and std of `(x / 255 - mean) / std`, for pixels x of 0..255.

    The processor computes `(x * rescale_factor - mean) / std`. EfficientNet's has two more fields: `rescale_offset`
    subtracts 1 after the first step, and `include_top` divides by std once more.
    """
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if fields.flag("do_normalize"):
        mean, std = fields.channels("image_mean"), fields.channels("image_std")
    scale = 255 * fields.number("rescale_factor") if fields.flag("do_rescale") else 255.0
    scale = 1.0 if math.isclose(scale, 1, rel_tol=1e-9) else scale
    offset = 1.0 if fields.flag("do_rescale") and fields.flag("rescale_offset") else 0.0
    again = fields.channels("image_std") if fields.flag("include_top") else (1.0, 1.0, 1.0)
    if min(*std, *again) <= 0:
        raise fields.refuse("its image_std has a number that is not above zero")
    red, green, blue = (
        ((middle + offset) / scale, spread * other / scale)
        for middle, spread, other in zip(mean, std, again, strict=True)
    )
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])
