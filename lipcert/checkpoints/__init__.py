"""Networks from files: lipcert's checkpoints, state dicts of the published code, any `nn.Module` a user builds."""

from lipcert.checkpoints.network import LoadedNetwork, load, load_network
from lipcert.checkpoints.reading import Checkpoint, Origin, read_checkpoint

__all__ = ["Checkpoint", "LoadedNetwork", "Origin", "load", "load_network", "read_checkpoint"]
