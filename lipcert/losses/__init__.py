"""Training objectives, by what they look at, and the sparsity loss they share."""

from lipcert.losses.adversarial import TRADES, Adversarial, ReLUStability, relu_stability_loss, trades_loss
from lipcert.losses.margins import (
    CLL,
    CRM,
    EMMA,
    LA,
    annealed_cross_entropy,
    calibrated_width,
    cll_logits,
    crm_penalty,
    emma_logits,
)
from lipcert.losses.objective import (
    BCP,
    Objective,
    Setting,
    Sparsity,
    Standard,
    after_warm_up,
    bcp_loss,
    sparsity_loss,
)
from lipcert.losses.worst_case import CAP, GloRo, cap_logits, gloro_logits, gloro_loss

__all__ = [
    "BCP",
    "CAP",
    "CLL",
    "CRM",
    "EMMA",
    "LA",
    "TRADES",
    "Adversarial",
    "GloRo",
    "Objective",
    "ReLUStability",
    "Setting",
    "Sparsity",
    "Standard",
    "after_warm_up",
    "annealed_cross_entropy",
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
