"""The Hydra application behind `python -m lipcert.audit` and `lipcert-audit`."""

from lipcert.commands.application import application

main = application("audit", "Stopped; nothing was written.")
