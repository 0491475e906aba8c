"""An independent re-check of certificates: its own bounds, norms, rounding and attack, in float64.

It shares no code with `lipcert.bounds` or `lipcert.certificates`, so that an error there is not repeated here.
"""

from lipcert.recheck.consistency import contradictions
from lipcert.recheck.layers import contradicted_norms
from lipcert.recheck.verdict import Rechecker, stages_not_derived

__all__ = ["Rechecker", "contradicted_norms", "contradictions", "stages_not_derived"]
