"""An independent re-check of certificates: its own bounds, norms, rounding and attack, in float64.

It shares no code with `lipcert.bounds`, `lipcert.crown` or `lipcert.certificates`, so that an error there is not
repeated here.
"""

from lipcert.recheck import steep as _steep  # noqa: F401  its activations are registered
from lipcert.recheck.consistency import contradictions, place
from lipcert.recheck.execution import contradicted_by_execution
from lipcert.recheck.global_norms import contradicted_norms
from lipcert.recheck.verdict import Rechecker, backward_stages

__all__ = [
    "Rechecker",
    "backward_stages",
    "contradicted_by_execution",
    "contradicted_norms",
    "contradictions",
    "place",
]
