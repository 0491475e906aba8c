"""lipcert: train image classifiers whose predictions are proved stable in an l2 ball, and issue the proofs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lipcert.version import __version__

if TYPE_CHECKING:
    from lipcert.certificates import Certificate, certified_radius, certify, global_lipschitz, local_lipschitz
    from lipcert.graph import UnsupportedLayerError

_CERTIFICATES = ("Certificate", "certified_radius", "certify", "global_lipschitz", "local_lipschitz")

__all__ = [
    "Certificate",
    "UnsupportedLayerError",
    "__version__",
    "certified_radius",
    "certify",
    "global_lipschitz",
    "local_lipschitz",
]


def __getattr__(name: str) -> Any:
    """Import the public functions at first use, so that command lines start quickly."""
    if name in _CERTIFICATES:
        from lipcert import certificates

        return getattr(certificates, name)
    if name == "UnsupportedLayerError":
        from lipcert.graph import UnsupportedLayerError

        return UnsupportedLayerError
    raise AttributeError(f"module 'lipcert' has no attribute {name!r}")
