"""The version number of imgclassify."""

__version__ = "0.1.0"
