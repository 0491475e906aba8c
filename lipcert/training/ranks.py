"""Which of several processes this one is, before and after Lightning has set them up."""

from __future__ import annotations

import pytorch_lightning  # noqa: F401 (it sets the rank from the environment)
from lightning_utilities.core.rank_zero import rank_zero_only


def is_first_rank() -> bool:
    """Return whether this process is the one that writes files."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0
