"""Certificates: what is proved of each image."""

from lipcert.certificates.cascade import OTHER_STAGES, STAGES, Cascade, Stage
from lipcert.certificates.certificate import Certificate
from lipcert.certificates.certifier import Certifier
from lipcert.certificates.certify import certified_radius, certify, certify_batches
from lipcert.certificates.float64 import Float64Model
from lipcert.certificates.lipschitz import global_lipschitz, local_lipschitz
from lipcert.certificates.predictor import CertifiedPredictor, Prediction
from lipcert.certificates.radius import bisect

__all__ = [
    "OTHER_STAGES",
    "STAGES",
    "Cascade",
    "Certificate",
    "CertifiedPredictor",
    "Certifier",
    "Float64Model",
    "Prediction",
    "Stage",
    "bisect",
    "certified_radius",
    "certify",
    "certify_batches",
    "global_lipschitz",
    "local_lipschitz",
]
