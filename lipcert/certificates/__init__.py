"""Certificates: what is proved of each image."""

from lipcert.certificates.cascade import LINEAR_STAGES, STAGES, Cascade, Stage
from lipcert.certificates.certify import Certificate, Certifier, certified_radius, certify
from lipcert.certificates.lipschitz import global_lipschitz, local_lipschitz

__all__ = [
    "LINEAR_STAGES",
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
