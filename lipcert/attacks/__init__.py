"""l2 attacks: adapters over kept libraries (foolbox, AutoAttack), a search without gradients, ascent for training.

Whatever an attack returns lies inside the ball and the box, checked in float64; where an attack leaves nothing of
the kind, the image itself is returned. Networks keep their weights, gradients, flags and modes.
"""

from lipcert.attacks.auto_attack import AUTO_ATTACKS, auto_attack, auto_attack_robust, usable_auto_attacks
from lipcert.attacks.ball import PIXELS, Box, projected_ascent, unbounded, uniform_in_ball
from lipcert.attacks.foolbox_pgd import pgd, pgd_robust
from lipcert.attacks.random_search import random_search
from lipcert.attacks.target import evaluating, margins

__all__ = [
    "AUTO_ATTACKS",
    "PIXELS",
    "Box",
    "auto_attack",
    "auto_attack_robust",
    "evaluating",
    "margins",
    "pgd",
    "pgd_robust",
    "projected_ascent",
    "random_search",
    "unbounded",
    "uniform_in_ball",
    "usable_auto_attacks",
]
