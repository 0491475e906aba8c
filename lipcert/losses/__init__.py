"""Training objectives: one file a method, and the sparsity loss they share."""

from lipcert.losses.adversarial import Adversarial
from lipcert.losses.bcp import BCP, bcp_loss
from lipcert.losses.cap import CAP, cap_logits
from lipcert.losses.cll import CLL, calibrated_width, cll_logits
from lipcert.losses.crm import CRM, crm_penalty
from lipcert.losses.emma import EMMA, emma_logits
from lipcert.losses.gloro import GloRo, gloro_logits, gloro_loss
from lipcert.losses.objective import Objective, Setting
from lipcert.losses.relu_stability import ReLUStability, relu_stability_loss
from lipcert.losses.sparsity import Sparsity, sparsity_loss
from lipcert.losses.standard import Standard, after_warm_up
from lipcert.losses.trades import TRADES, trades_loss

__all__ = [
    "BCP",
    "CAP",
    "CLL",
    "CRM",
    "EMMA",
    "TRADES",
    "Adversarial",
    "GloRo",
    "Objective",
    "ReLUStability",
    "Setting",
    "Sparsity",
    "Standard",
    "after_warm_up",
    "bcp_loss",
    "calibrated_width",
    "cap_logits",
    "cll_logits",
    "crm_penalty",
    "emma_logits",
    "gloro_logits",
    "gloro_loss",
    "relu_stability_loss",
    "sparsity_loss",
    "trades_loss",
]
