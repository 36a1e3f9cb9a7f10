"""The script beside an exported file, which classifies images with that file and without imgclassify.

It makes the crop as images/preprocessing.py does, to the bit, for images of eight bits per channel in sRGB. It has
only the steps that its own model needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgclassify._version import __version__
from imgclassify.graphs.export import INPUT
from imgclassify.graphs.session import PROBABILITIES
from imgclassify.hub import exported_config as keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.engines.activation import Activation

_SCRIPT = """# Written by imgclassify {version}. It needs numpy, Pillow and {package}.
# python {script} IMAGE ... prints the most probable classes of each image.
import json
import sys
from pathlib import Path

import numpy as np
{imports}

FILE = Path(__file__).with_name({file!r})
{open}
labels = [each["label"] for each in json.loads(metadata["{labels}"])]


def read_crop(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:  # it is laid on white
        above, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        image.paste(above, mask=above)
{crop}


for path in sys.argv[1:]:
    crop = read_crop(path)[None]  # (1, height, width, 3) uint8
{run}
    for index in np.argsort(-probabilities, kind="stable")[:5]:
        print(f"{{path}}\\t{{labels[index]}}\\t{{100 * probabilities[index]:.2f}} %")
"""
_OPEN = {
    "onnx": """session = onnxruntime.InferenceSession(FILE)
metadata = session.get_modelmeta().custom_metadata_map""",
    "pt2": f"""metadata = {{"{keys.LABELS}": ""}}
program = torch.export.load(FILE, extra_files=metadata).module()""",
    "torchscript": f"""metadata = {{"{keys.LABELS}": ""}}
program = torch.jit.load(FILE, map_location="cpu", _extra_files=metadata)""",
}


def script_name(file_name: str) -> str:
    return f"{file_name}.run.py"


def format_script(
    file_format: str, file_name: str, spec: PreprocessSpec, activation: Activation, outputs: Sequence[str]
) -> str:
    """Returns the text of the script.

    Args:
        file_format: one of exporting.FORMATS.
        file_name: the name of the exported file, in whose folder the script is.
        activation: what turns the first output into probabilities.
        outputs: the outputs of the file, in order.
    """
    package = "onnxruntime" if file_format == "onnx" else "torch"
    imports = ["from PIL import Image, ImageOps", f"import {package}"]
    return _SCRIPT.format(
        version=__version__,
        package=package,
        script=script_name(file_name),
        file=file_name,
        imports="\n".join(sorted(imports, key=lambda line: line.startswith("from"))),
        open=_OPEN[file_format],
        labels=keys.LABELS,
        crop=_indent(_crop_lines(spec)),
        run=_indent(_run_lines(file_format, activation, outputs)),
    )


def _indent(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _crop_lines(spec: PreprocessSpec) -> list[str]:
    """Returns what follows the conversion to RGB: resize, crop and channel order."""
    mode = "L" if spec.channel_order == "grey" else "RGB"
    mean = [round(255 * channel) if spec.crop_mode == "border" else 0 for channel in spec.mean]
    filler = mean[0] if mode == "L" else tuple(mean[::-1] if spec.channel_order == "bgr" else mean)
    height, width = spec.crop_size
    lines = ['image = image.convert("RGB")' + ('.convert("L")' if mode == "L" else "")]
    lines += _resize_lines(spec)
    if not (spec.crop_mode == "squash" and _squashed_size(spec) == (width, height)):
        lines.append(f"left, top = ({_start(spec)} for side, crop in zip(image.size, ({width}, {height})))")
        if _may_be_padded(spec):
            lines.append(f'canvas = Image.new("{mode}", ({width}, {height}), {filler})')
            lines += ["canvas.paste(image, (-left, -top))", "image = canvas"]
        else:
            lines.append(f"image = image.crop((left, top, left + {width}, top + {height}))")
    if mode == "L":
        return [*lines, "return np.repeat(np.array(image)[:, :, None], 3, axis=2)"]
    return [*lines, f"return np.array(image){'[:, :, ::-1].copy()' if spec.channel_order == 'bgr' else ''}"]


def _resize_lines(spec: PreprocessSpec) -> list[str]:
    target = spec.resize_size
    lines = []
    if spec.crop_mode == "squash":
        size = f"{_squashed_size(spec)}"
    elif isinstance(target, int) and spec.crop_mode == "center":
        size = "size"
        lines.append(f"size = [int({target} * side / min(image.size)) for side in image.size]")
    else:
        size = "size"
        height, width = (target, target) if isinstance(target, int) else target
        choice = "max" if spec.crop_mode == "border" else "min"
        lines.append(f"ratio = {choice}(image.height / {height}, image.width / {width})")
        lines.append("size = [max(1, round(side / ratio)) for side in image.size]")
    return [*lines, f"image = image.resize({size}, Image.Resampling.{spec.interpolation.upper()})"]


def _squashed_size(spec: PreprocessSpec) -> tuple[int, int]:
    """Returns (width, height)."""
    target = spec.resize_size
    return (target, target) if isinstance(target, int) else (target[1], target[0])


def _may_be_padded(spec: PreprocessSpec) -> bool:
    height, width = (spec.resize_size,) * 2 if isinstance(spec.resize_size, int) else spec.resize_size
    return spec.crop_mode == "border" or spec.crop_size[0] > height or spec.crop_size[1] > width


def _start(spec: PreprocessSpec) -> str:
    """Returns preprocessing.crop_start as an expression."""
    if spec.crop_rounding == "down":
        return "(side - crop) // 2"
    centred = "round((side - crop) / 2)"
    return f"{centred} if side > crop else (side - crop + 1) // 2" if _may_be_padded(spec) else centred


def _run_lines(file_format: str, activation: Activation, outputs: Sequence[str]) -> list[str]:
    """Returns what follows the crop: the network, and the activation if it is not part of the file."""
    output = PROBABILITIES if PROBABILITIES in outputs else outputs[0]
    if file_format == "onnx":
        call = f'session.run(["{output}"], {{"{INPUT}": crop}})[0][0]'
    else:
        index = f"[{list(outputs).index(output)}]" if len(outputs) > 1 else ""
        call = f"program(torch.from_numpy(crop)){index}[0].numpy()"
    lines = [f"{output} = {call}"]
    if output == PROBABILITIES:
        return lines
    if activation.name == "softmax":
        return [*lines, "powers = np.exp(logits - logits.max())", "probabilities = powers / powers.sum()"]
    if activation.is_pair:
        return [*lines, "probabilities = 1 / (1 + np.exp([logits[0], -logits[0]]))"]
    return [*lines, "probabilities = 1 / (1 + np.exp(-logits))"]
