"""Networks of other makers as graphs of layers: modules with a `forward` of their own, ONNX files."""

from lipcert.importing.onnx_program import from_onnx
from lipcert.importing.torch_program import from_torch, imported
from lipcert.importing.training import trainable

__all__ = ["from_onnx", "from_torch", "imported", "trainable"]
