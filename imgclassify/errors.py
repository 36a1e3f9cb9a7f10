"""The errors a user can meet. Each says what was wrong and with which value; its hint says what to do next.

ImgclassifyError
├── UsageError              2    options that do not fit together, or that lack something
├── NoImagesError           4    nothing among the sources is an image
├── UnavailableError        3    model, weights, labels or device unavailable or not as expected
│   ├── ResourceError            the installation lacks its own data
│   ├── ManifestError            a model manifest that does not parse
│   ├── UnknownModelError        no such model, weights or architecture
│   ├── UntrustedCodeError       code of a torch.hub repository or a TorchScript file, without --trust
│   ├── WeightsError             weights that cannot be had
│   │   ├── OfflineError         not in the cache, and the network may not be used
│   │   ├── DownloadError        the server did not hand the file over
│   │   └── HashMismatchError    a file whose SHA-256 is not the published one
│   ├── CheckpointError          a checkpoint that cannot be read, or does not fit its architecture
│   ├── LabelsError              a label set that cannot be read, or does not fit its network
│   └── DeviceError              a device, dtype or engine that this machine does not have
└── ImageError              1    one image that could not be answered; becomes its error record
    ├── ImageNotFoundError       not_found
    ├── ImageUnreadableError     unreadable            permission, input/output or network failure
    ├── ImageEmptyError          empty
    ├── NotAnImageError          not_an_image
    ├── CorruptImageError        corrupt_image
    │   └── TruncatedImageError  truncated_image       it ends too early
    ├── ImageTooLargeError       image_too_large
    ├── UnsupportedImageError    unsupported_image
    ├── NotAFileError            not_a_file            a pipe, socket or device
    ├── DecoderCrashedError      decoder_crashed       under --isolate
    └── DecoderTimeoutError      decoder_timeout       under --isolate
"""

from enum import IntEnum
from typing import ClassVar

__all__ = [
    "CheckpointError",
    "CorruptImageError",
    "DecoderCrashedError",
    "DecoderTimeoutError",
    "DeviceError",
    "DownloadError",
    "ExitStatus",
    "HashMismatchError",
    "ImageEmptyError",
    "ImageError",
    "ImageNotFoundError",
    "ImageTooLargeError",
    "ImageUnreadableError",
    "ImgclassifyError",
    "LabelsError",
    "ManifestError",
    "NoImagesError",
    "NotAFileError",
    "NotAnImageError",
    "OfflineError",
    "ResourceError",
    "TruncatedImageError",
    "UnavailableError",
    "UnknownModelError",
    "UnsupportedImageError",
    "UntrustedCodeError",
    "UsageError",
    "WeightsError",
]


class ExitStatus(IntEnum):
    """What the process returns to its caller."""

    OK = 0
    """Every image was answered."""
    SOME_IMAGES_FAILED = 1
    """Some images failed; each has its record."""
    USAGE = 2
    """Wrong usage."""
    UNAVAILABLE = 3
    """Model, weights, labels or device unavailable or not as expected."""
    NO_IMAGES = 4
    """No image was found among the sources."""
    HUNG_UP = 129
    """Stopped by SIGHUP (128 + 1, as a shell reports it): its terminal was closed."""
    INTERRUPTED = 130
    """Stopped by SIGINT (128 + 2): Ctrl-C."""
    TERMINATED = 143
    """Stopped by SIGTERM (128 + 15)."""


class ImgclassifyError(Exception):
    """The root: `str(error)` says what was wrong, `error.hint` what to do next (or is None)."""

    exit_status: ClassVar[ExitStatus] = ExitStatus.UNAVAILABLE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(ImgclassifyError):
    exit_status = ExitStatus.USAGE


class NoImagesError(ImgclassifyError):
    exit_status = ExitStatus.NO_IMAGES


class UnavailableError(ImgclassifyError):
    exit_status = ExitStatus.UNAVAILABLE


class ResourceError(UnavailableError):
    pass


class ManifestError(UnavailableError):
    pass


class UnknownModelError(UnavailableError):
    pass


class UntrustedCodeError(UnavailableError):
    pass


class WeightsError(UnavailableError):
    pass


class OfflineError(WeightsError):
    pass


class DownloadError(WeightsError):
    pass


class HashMismatchError(WeightsError):
    pass


class CheckpointError(UnavailableError):
    pass


class LabelsError(UnavailableError):
    pass


class DeviceError(UnavailableError):
    pass


class ImageError(ImgclassifyError):
    """One image that could not be answered. `type` is the word its error record carries."""

    exit_status = ExitStatus.SOME_IMAGES_FAILED
    type: ClassVar[str]


class ImageNotFoundError(ImageError):
    type = "not_found"


class ImageUnreadableError(ImageError):
    type = "unreadable"


class ImageEmptyError(ImageError):
    type = "empty"


class NotAnImageError(ImageError):
    type = "not_an_image"


class CorruptImageError(ImageError):
    type = "corrupt_image"


class TruncatedImageError(CorruptImageError):
    type = "truncated_image"


class ImageTooLargeError(ImageError):
    type = "image_too_large"


class UnsupportedImageError(ImageError):
    type = "unsupported_image"


class NotAFileError(ImageError):
    type = "not_a_file"


class DecoderCrashedError(ImageError):
    type = "decoder_crashed"


class DecoderTimeoutError(ImageError):
    type = "decoder_timeout"


def describe_error(error: BaseException) -> str:
    """Another library's exception in a few words: the system's, else the first line of its own, else its type."""
    words = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return str(words).rstrip(":")


def make_printable(text: str) -> str:
    """Text safe for a terminal and for one line: what is not printable becomes its escape, such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
