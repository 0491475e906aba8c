"""Certificates: predictions proved stable, at a stated failure probability."""

from lipcert.certificates.certify import Certificate, Certifier, certified_radius, certify
from lipcert.certificates.lipschitz import global_lipschitz, local_lipschitz

__all__ = [
    "Certificate",
    "Certifier",
    "certified_radius",
    "certify",
    "global_lipschitz",
    "local_lipschitz",
]
