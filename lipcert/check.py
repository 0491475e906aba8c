"""`python -m lipcert.check`: re-check a record by an independent derivation."""

from __future__ import annotations

from lipcert.commands.check import main

if __name__ == "__main__":
    main()
