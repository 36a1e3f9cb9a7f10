"""Source → uint8 crop: decoding, colour, resizing and cropping of images."""
