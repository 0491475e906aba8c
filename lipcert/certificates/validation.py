"""Checks on what a user hands in, and the float64 copy of a model that bounds are computed with."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lipcert.graph import UnsupportedLayerError, refuse_altered
from lipcert.nn.integrity import parametrized
from lipcert.norms.bracket import SMALLEST_NORM


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError for a list or an array in place of a tensor."""
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        raise TypeError(f"Expected `{name}` as a torch.Tensor, got a {kind}; torch.as_tensor makes one.")


def check_images(images: Tensor) -> None:
    """Raise TypeError or ValueError unless images are a non-empty float batch with pixels in [0, 1]."""
    check_tensor("images", images)
    if images.dim() < 2 or images.shape[0] == 0:
        raise ValueError(f"Expected a non-empty batch of images (B, ...), got shape {tuple(images.shape)}.")
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"Expected images in float32 or float64, got {images.dtype}.")
    inside = ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)  # NaN compares false
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(f"Expected pixels in [0, 1]; image {row} has others. Divide 8-bit pixels by 255.")


def check_pairs(images: Tensor, labels: Tensor) -> None:
    """Raise TypeError or ValueError unless there are images, as `check_images` has them, and a label for each."""
    check_images(images)
    check_tensor("labels", labels)
    if len(labels) != len(images):
        raise ValueError(f"Expected a label an image, got {len(images)} images and {len(labels)} labels.")


def check_logits(logits: Tensor) -> None:
    """Raise ValueError unless a model's outputs are (B, K)."""
    if logits.dim() != 2:
        shape = tuple(logits.shape[1:])
        raise ValueError(f"Expected a model with a flat vector of logits, got outputs of shape {shape}; flatten them.")


def check_labels(labels: Tensor, num_images: int, num_classes: int) -> None:
    """Raise TypeError or ValueError unless labels are integers in [0, num_classes), one an image."""
    check_tensor("labels", labels)
    if labels.shape != (num_images,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"Expected {num_images} integer labels, got shape {tuple(labels.shape)} of {labels.dtype}.")
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        row = int(((labels < 0) | (labels >= num_classes)).nonzero()[0])
        raise ValueError(f"Expected labels in [0, {num_classes}), got {int(labels[row])} in row {row}.")


def ordinary(tensor: Tensor) -> Tensor:
    """Return a tensor that gradients may be computed with, a copy of one that was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def executed_dtype(model: nn.Module) -> torch.dtype:
    """Return the coarsest floating point type among the weights and buffers of `model`, float32 where it has none."""
    tensors = (*model.parameters(), *model.buffers())
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {torch.float32}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps)


def double_copy(model: nn.Module) -> nn.Module:
    """Return a float64 copy of `model`, in the same mode; the original is untouched.

    Raises:
        UnsupportedLayerError: for a layer that may compute something else than its type says, or whose weights a
            parametrization computes at each use.
        ValueError: for half precision, non-finite or vanishing weights, naming the parameter.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"`{name}` is in half precision ({tensor.dtype}), which certificates do not cover.")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"`{name}` has NaN or infinite entries; nothing can be certified with it.")
        if tensor.is_floating_point() and bool(((tensor != 0) & (tensor.abs() < SMALLEST_NORM)).any()):
            raise ValueError(f"`{name}` has entries below {SMALLEST_NORM}, whose squares vanish; set them to 0.")
    refuse_altered(model.named_modules())
    for name, layer in model.named_modules():
        if computed := parametrized(layer):
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} ({type(layer).__name__}) computes its `{computed[0]}` at each use, with "
                "roundings that no bound covers; certify and use lipcert.nn.folded(model), which stores it."
            )
    return copy.deepcopy(model).double().requires_grad_(False)
