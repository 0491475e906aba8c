"""The Hydra application behind `python -m lipcert.soundness` and `lipcert-soundness`."""

from lipcert.commands.application import application

main = application("soundness", "Stopped; nothing was written.", lists=True)
