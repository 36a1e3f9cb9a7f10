"""Decodes an image file and makes the crop that a network reads: RGB, resized and cropped, uint8.

The constants below are defined here so that commands can use them without importing Pillow.
"""

MAX_PIXELS = 2**28
"""Limit on width × height: 268 megapixels, which take 1 GiB when decoded. Images from 200-megapixel cameras
pass."""

TIME_LIMIT = 30.0
"""Seconds for one image under `isolate`. The largest images that are allowed take half of that."""

DECODE_MODES = ("exact", "fast", "gpu")
"""How an image becomes a crop. "exact": the same bits as in the preprocessing that the model was trained with.
"fast": a JPEG may be decoded at a smaller scale. "gpu": JPEGs are decoded and resized on a CUDA device."""
