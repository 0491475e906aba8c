"""`python -m lipcert.measure`: measure what the pictures of a report need and training does not leave."""

from lipcert.commands.measure import main

if __name__ == "__main__":
    main()
