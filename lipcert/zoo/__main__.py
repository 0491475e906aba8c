"""`python -m lipcert.zoo`: list the networks that come with lipcert, check them, make an entry of another network."""

from lipcert.commands.zoo import main

if __name__ == "__main__":
    main()
