"""Image data: sources, and the Lightning data module that serves them."""

from typing import TYPE_CHECKING, Any

from lipcert.data.arrays import Images, MissingDataError, Split
from lipcert.data.sources import SOURCES, load_again, load_images

if TYPE_CHECKING:
    from lipcert.data.module import ImageDataModule

__all__ = ["SOURCES", "ImageDataModule", "Images", "MissingDataError", "Split", "load_again", "load_images"]


def __getattr__(name: str) -> Any:
    """Import the data module at first use: Lightning takes seconds, and only training needs it."""
    if name != "ImageDataModule":
        raise AttributeError(f"module 'lipcert.data' has no attribute {name!r}")
    from lipcert.data.module import ImageDataModule

    return ImageDataModule
