"""The fuzz job: `python -m tests.fuzz`, settings in the environment, or `python -m tests.fuzz CASE` for one case again.

FUZZ_SECONDS: how long new cases are drawn, 600 when unset. FUZZ_SEED: where the rounds of cases begin, random when
unset. FUZZ_FOLDER: where the simplest case that fails is written to.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import warnings
from pathlib import Path

import torch

from tests.fuzz.checks import check
from tests.fuzz.networks import Case
from tests.fuzz.rounds import run_round
from tests.fuzz.subject import Tally

PAUSE = 60
"""Seconds between reports."""


def _path(number: int) -> Path:
    return Path(os.environ.get("FUZZ_FOLDER", "."), f"fuzz-{number}.pt")


def main(arguments: list[str]) -> int:
    """Run the job, or check the cases in files again; return 1 for a fault."""
    warnings.filterwarnings("ignore", "Using padding='same'")
    torch.set_num_threads(1)  # networks are small, and some executions ask for more
    if arguments:
        for path in arguments:
            print(check(torch.load(path, weights_only=False)))
        return 0
    seconds = float(os.environ.get("FUZZ_SECONDS", "600"))
    seed = int(os.environ.get("FUZZ_SEED") or secrets.randbelow(10**6))
    print(f"FUZZ_SEED={seed} FUZZ_SECONDS={seconds:g}", flush=True)
    started, told, total = time.monotonic(), time.monotonic(), Tally()

    def examine(case: Case) -> None:
        try:
            total.add(check(case))
        except Exception:
            torch.save(case, _path(number))  # simpler ones that fail too come later
            raise

    number = seed * 10**4
    while time.monotonic() - started < seconds:
        try:
            run_round(number, examine)
        except Exception as error:
            print(f"{total}\nFAULT in round {number}: {error}\nagain: python -m tests.fuzz {_path(number)}")
            return 1
        number += 1
        if time.monotonic() - told > PAUSE:
            told = time.monotonic()
            print(total, flush=True)
    print(f"{total}; no fault in {time.monotonic() - started:.0f} s ({time.process_time():.0f} s of processors)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
