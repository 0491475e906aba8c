"""`python -m lipcert.check`: re-check a record by an independent derivation."""

from lipcert.commands.check import main

if __name__ == "__main__":
    main()
