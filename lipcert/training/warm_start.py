"""What a run says of the vectors it will keep, before it starts."""

from __future__ import annotations

import logging

from lipcert.bounds import WarmStart
from lipcert.system.memory import free_memory
from lipcert.training.processes import is_first_process

logger = logging.getLogger(__name__)


def announce(warm_start: WarmStart, copies: int) -> None:
    """Log what is kept an image and in all, in the first process; refuse what the host has no memory for.

    `copies`: processes on this machine, each of which holds all vectors.

    Raises:
        ValueError: if there is not enough memory.
    """
    say = logger.info if is_first_process() else logger.debug
    if not warm_start.kept:
        say("warm_start=%s: nothing is kept for an image.", warm_start.name)
        return
    total = warm_start.bytes_per_image * warm_start.count * copies
    say(
        "warm_start=%s: %s bytes an image, %.3g GB for %s images and %s process(es), in every checkpoint %.3g GB.%s",
        warm_start.name,
        f"{warm_start.bytes_per_image:,}",
        total / 1e9,
        f"{warm_start.count:,}",
        copies,
        total / copies / 1e9,
        f" All images share the vectors of layers {', '.join(warm_start.sharing)}." if warm_start.sharing else "",
    )
    free = free_memory()
    if warm_start.kind.on_host and free is not None and total > free:
        raise ValueError(
            f"warm_start={warm_start.name} needs {total / 1e9:.3g} GB of host memory "
            f"({warm_start.bytes_per_image:,} bytes an image, {warm_start.count:,} images, {copies} process(es)), "
            f"{free / 1e9:.3g} GB are free; set warm_start=output_side or warm_start=shared, which need at most 2 KB "
            "an image, or data.limit_train=NUMBER."
        )
