"""Image data: sources, and the Lightning data module that serves them."""

from lipcert.data.arrays import Images, MissingDataError, Split
from lipcert.data.module import ImageDataModule
from lipcert.data.sources import SOURCES, load_again, load_images

__all__ = ["SOURCES", "ImageDataModule", "Images", "MissingDataError", "Split", "load_again", "load_images"]
