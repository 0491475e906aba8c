"""Networks of other makers as graphs of layers: modules with a `forward` of their own, ONNX files."""

from lipcert.importing.torch_program import from_torch, imported

__all__ = ["from_torch", "imported"]
