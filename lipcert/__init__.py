"""lipcert: train image classifiers whose predictions are proved stable in an l2 ball, and issue the proofs."""

from typing import TYPE_CHECKING, Any

from lipcert.version import __version__

if TYPE_CHECKING:
    from lipcert.certificates import (
        Certificate,
        CertifiedPredictor,
        certified_radius,
        certify,
        global_lipschitz,
        local_lipschitz,
    )
    from lipcert.checkpoints import load
    from lipcert.graph import UnsupportedLayerError
    from lipcert.importing import from_onnx, from_torch

__all__ = [
    "Certificate",
    "CertifiedPredictor",
    "UnsupportedLayerError",
    "__version__",
    "certified_radius",
    "certify",
    "from_onnx",
    "from_torch",
    "global_lipschitz",
    "load",
    "local_lipschitz",
]


def __getattr__(name: str) -> Any:
    """Import the public functions at first use, so that command lines start quickly."""
    if name not in __all__:
        raise AttributeError(f"module 'lipcert' has no attribute {name!r}")
    from lipcert import certificates, checkpoints, graph, importing

    found = next(each for each in (importing, graph, certificates, checkpoints) if hasattr(each, name))
    value = getattr(found, name)
    globals()[name] = value  # not asked for again
    return value
