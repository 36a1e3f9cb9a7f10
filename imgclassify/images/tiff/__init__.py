"""Opens TIFFs: any page, and the layouts that Pillow does not know or gets wrong."""

from imgclassify.images.tiff.opening import open_tiff as open_tiff
