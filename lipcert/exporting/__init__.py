"""Networks that go home: weights, a file of plain torch, `torch.export` and ONNX in one folder, read back as data."""

from lipcert.exporting.folder import MANIFEST, WEIGHTS, Exported, onnx_is_there, read_export, write_export

__all__ = ["MANIFEST", "WEIGHTS", "Exported", "onnx_is_there", "read_export", "write_export"]
