"""The Hydra application behind `python -m lipcert.measure` and `lipcert-measure`."""

from lipcert.commands.application import application

main = application("measure", "Stopped; nothing was written.")
