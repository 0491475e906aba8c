"""Training objectives: one file a method, and the sparsity loss they share."""

from lipcert.losses.bcp import BCP, bcp_loss
from lipcert.losses.cap import CAP, cap_logits
from lipcert.losses.gloro import GloRo, gloro_logits
from lipcert.losses.objective import Objective, Setting
from lipcert.losses.sparsity import Sparsity, sparsity_loss
from lipcert.losses.standard import Standard

__all__ = [
    "BCP",
    "CAP",
    "GloRo",
    "Objective",
    "Setting",
    "Sparsity",
    "Standard",
    "bcp_loss",
    "cap_logits",
    "gloro_logits",
    "sparsity_loss",
]
