"""Finds duplicates among images, and the images that are nearest to an image.

neighbours.py searches vectors, alignment.py compares two images in detail, and duplicates.py groups images.
"""
