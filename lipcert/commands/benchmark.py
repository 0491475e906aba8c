"""The Hydra application behind `python -m lipcert.benchmark` and `lipcert-benchmark`."""

from lipcert.commands.application import application

main = application("benchmark")
