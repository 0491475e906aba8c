"""Networks from files: lipcert's checkpoints, state dicts of the published code, any `nn.Module` a user builds."""

from lipcert.checkpoints.network import LoadedNetwork, load_network
from lipcert.checkpoints.reading import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "LoadedNetwork", "load_network", "read_checkpoint"]
