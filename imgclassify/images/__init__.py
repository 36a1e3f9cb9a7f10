"""Source → uint8 crop: an image is decoded, converted to RGB, resized and cropped.

The numbers below are here, so that a command can name them before Pillow is imported.
"""

MAX_PIXELS = 2**28
"""Limit on width × height: 268 megapixels, 1 GiB once decoded. Cameras of 200 megapixels pass."""

TIME_LIMIT = 30.0
"""Seconds for one image in a process of its own. The largest images that are allowed take half of it."""

DECODE_MODES = ("exact", "fast", "gpu")
"""How an image becomes a crop. "exact": to the bit as the model was trained with. "fast": from a JPEG that is
decoded at a smaller scale. "gpu": decoded and resized on a CUDA device."""
