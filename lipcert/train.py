"""`python -m lipcert.train`: train a certifiably robust classifier, then certify its test set."""

from lipcert.commands.train import main

if __name__ == "__main__":
    main()
