"""Defines the exceptions that users can meet, with their exit statuses and error types.

Each message says what was wrong, with the value. The hint says what to do next.

ImgclassifyError
├── UsageError              2    options that conflict, or that need something missing
│   └── UnknownClassError        no class of a label set has a name
├── NoImagesError           4    no image among the sources
├── UnavailableError        3    model, weights, labels or device unavailable or not as expected
│   ├── ResourceError            data that ships with imgclassify is missing
│   ├── ManifestError            a model manifest that cannot be read or parsed
│   ├── UnknownModelError        no such model, weights or architecture
│   ├── UntrustedCodeError       code of a torch.hub repository or a TorchScript file, without --trust
│   ├── WeightsError             weights that cannot be used or obtained
│   │   ├── OfflineError         not in the cache, and the network may not be used
│   │   ├── DownloadError        the server did not deliver the file
│   │   └── HashMismatchError    a file whose SHA-256 is not the expected one
│   ├── CheckpointError          a checkpoint that cannot be read, or does not fit its architecture
│   ├── OutputError              an output, such as features, that a network does not have
│   ├── LabelsError              a label set that cannot be read, or does not fit its network
│   ├── TrainingError            a training that cannot go on, such as one whose loss is not finite
│   └── DeviceError              a device, dtype or engine that this machine does not have
└── ImageError              1    one image that could not be classified; becomes its error record
    ├── ImageNotFoundError       not_found
    ├── ImageUnreadableError     unreadable            permission, input/output or network failure
    ├── ImageEmptyError          empty
    ├── NotAnImageError          not_an_image
    ├── CorruptImageError        corrupt_image
    │   └── TruncatedImageError  truncated_image       the file ends too early
    ├── ImageTooLargeError       image_too_large
    ├── UnsupportedImageError    unsupported_image
    ├── NotAFileError            not_a_file            a pipe, socket or device
    ├── DecoderCrashedError      decoder_crashed       under --isolate
    └── DecoderTimeoutError      decoder_timeout       under --isolate
"""

import reprlib
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
    "OutputError",
    "ResourceError",
    "TrainingError",
    "TruncatedImageError",
    "UnavailableError",
    "UnknownClassError",
    "UnknownModelError",
    "UnsupportedImageError",
    "UntrustedCodeError",
    "UsageError",
    "WeightsError",
]


class ExitStatus(IntEnum):
    """The exit status of the process."""

    OK = 0
    """Success: every image was classified."""
    SOME_IMAGES_FAILED = 1
    """Some images failed. Each has a record with its error."""
    USAGE = 2
    """The command line is wrong."""
    UNAVAILABLE = 3
    """The model, weights, labels or device are unavailable or not as expected."""
    NO_IMAGES = 4
    """No image was found among the sources."""
    HUNG_UP = 129
    """Stopped by SIGHUP (128 + 1, as a shell reports it), because the terminal was closed."""
    INTERRUPTED = 130
    """Stopped by SIGINT (128 + 2): Ctrl-C."""
    TERMINATED = 143
    """Stopped by SIGTERM (128 + 15)."""


class ImgclassifyError(Exception):
    """The base class. `str(error)` says what was wrong. `error.hint` says what to do next, or is None."""

    exit_status: ClassVar[ExitStatus] = ExitStatus.UNAVAILABLE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(ImgclassifyError):
    """A wrong argument of a function, or a wrong command line."""

    exit_status = ExitStatus.USAGE

    def __init__(self, message: str, *, hint: str | None = None, argument: str | None = None) -> None:
        """
        Args:
            argument: the name of the argument that is wrong, if the message begins with it.
        """
        super().__init__(message, hint=hint)
        self.argument = argument

    def rename_argument(self, name: str) -> None:
        """Changes the argument's name in the message, such as to that of a command-line option."""
        if self.argument is not None:
            self.args = (name + str(self).removeprefix(self.argument),)
            self.argument = name


class UnknownClassError(UsageError):
    pass


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


class OutputError(UnavailableError):
    pass


class TrainingError(UnavailableError):
    pass


class LabelsError(UnavailableError):
    pass


class DeviceError(UnavailableError):
    pass


class ImageError(ImgclassifyError):
    """One image that could not be classified. `type` is the error type in its record."""

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

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory
        """Whether the image would fit a machine with more free memory."""


class UnsupportedImageError(ImageError):
    type = "unsupported_image"


class NotAFileError(ImageError):
    type = "not_a_file"


class DecoderCrashedError(ImageError):
    type = "decoder_crashed"


class DecoderTimeoutError(ImageError):
    type = "decoder_timeout"


def describe_error(error: BaseException) -> str:
    """Describes an exception of another library in a few words.

    Returns:
        The operating system's text if there is one, else the first line of the exception's text, else its type.
    """
    words = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return str(words).rstrip(":")


def with_article(noun: str) -> str:
    """Puts "a" or "an" before a noun, such as the name of a type or of a file format."""
    # A name that begins with u is mostly spoken with a consonant: a UUID, a uint8.
    return f"{'an' if noun.lower().startswith((*'aeio', 'ndarray')) else 'a'} {noun}"


def name_type(value: object) -> str:
    """Returns the type of a value with its article, such as "an int", or "None"."""
    return "None" if value is None else with_article(type(value).__name__)


def short_repr(value: object) -> str:
    """Returns a repr of limited length."""
    try:
        return reprlib.repr(value)
    except ValueError:
        # Python does not convert an integer of more than 4300 digits to text.
        return "a huge number"


def make_printable(text: str, limit: int | None = None) -> str:
    """Replaces unprintable characters by escapes such as \\x1b. The text is then one line, safe to print.

    Args:
        limit: the number of characters of `text` to keep; None for all.
    """
    text = text[:limit]
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
