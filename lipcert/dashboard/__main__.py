"""`python -m lipcert.dashboard`: create the dashboard of runs in a project of Weights & Biases."""

from lipcert.commands.dashboard import main

if __name__ == "__main__":
    main()
