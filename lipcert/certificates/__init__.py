"""Certificates: what is proved of each image."""

from lipcert.certificates.cascade import STAGES, Cascade, Stage
from lipcert.certificates.certify import Certificate, Certifier, certified_radius, certify
from lipcert.certificates.lipschitz import global_lipschitz, local_lipschitz

__all__ = [
    "STAGES",
    "Cascade",
    "Certificate",
    "Certifier",
    "Stage",
    "certified_radius",
    "certify",
    "global_lipschitz",
    "local_lipschitz",
]
