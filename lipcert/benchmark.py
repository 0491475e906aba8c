"""`python -m lipcert.benchmark`: what a training step and a certificate cost, as ratios in one run."""

from lipcert.commands.benchmark import main

if __name__ == "__main__":
    main()
