"""`python -m lipcert.report`: tables and pictures of runs, one HTML page and PNGs."""

from lipcert.commands.report import main

if __name__ == "__main__":
    main()
