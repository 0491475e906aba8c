"""`python -m lipcert.audit`: does a claimed Lipschitz constant hold, of a network and layer by layer."""

from lipcert.commands.audit import main

if __name__ == "__main__":
    main()
