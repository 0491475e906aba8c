"""`python -m lipcert.soundness`: try to refute what is certified of a trained network."""

from lipcert.commands.soundness import main

if __name__ == "__main__":
    main()
