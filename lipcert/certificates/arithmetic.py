"""Which floating point arithmetic a model is executed in: that of its weights."""

from __future__ import annotations

import torch
from torch import nn


def executed_dtype(model: nn.Module) -> torch.dtype:
    """Return the coarsest floating point type among the weights and buffers of `model`, float32 where it has none."""
    tensors = (*model.parameters(), *model.buffers())
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {torch.float32}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps)


def unit_roundoff(model: nn.Module) -> float:
    """Return the largest relative error of one rounding in the arithmetic of `model`."""
    return torch.finfo(executed_dtype(model)).eps / 2
