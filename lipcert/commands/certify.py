"""The Hydra application behind `python -m lipcert.certify` and `lipcert-certify`."""

from lipcert.commands.application import application

main = application("certify", "Stopped. The same command goes on behind the last finished batch.", lists=True)
