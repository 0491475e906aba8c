"""The Hydra application behind `python -m lipcert.train` and `lipcert-train`."""

from lipcert.commands.application import application

main = application("train")
