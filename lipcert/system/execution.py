"""The switches of torch under which a network is executed, and which of them no rounding bound covers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

PRECISE = ("ieee", "none")
"""Settings of `fp32_precision` under which products of float32 are rounded as float32."""

PRECISIONS = {"cpu": ("mkldnn.conv", "mkldnn.matmul"), "cuda": ("cudnn.conv", "cuda.matmul")}
"""Devices that bounds cover, and which backends' `fp32_precision` counts there: of convolutions, of matrices."""


class Uncovered(NamedTuple):
    """A switch that no bound covers: the field of `Execution`, what was `found`, and its `remedy`."""

    field: str
    found: str
    remedy: str


@dataclass(frozen=True)
class Execution:
    """Switches of torch, as they are when a network is executed.

    Attributes:
        torch: its version.
        device: its type; `threads`: of one operation. Bounds hold for sums in any order.
        autocast: layers run in half precision.
        convolution_precision, matrix_precision: what their products of float32 are computed in, `ieee` or `none` for
            float32.
        cudnn, onednn, nnpack: libraries that convolutions may be left to, the first on a GPU.
        environment: variables by which oneDNN or cuBLAS compute in lower precision; empty for none.
        flush_denormal: numbers below the smallest normal one become zero.
    """

    torch: str
    device: str
    threads: int
    autocast: bool
    convolution_precision: str
    matrix_precision: str
    cudnn: bool
    onednn: bool
    nnpack: bool
    environment: str
    flush_denormal: bool

    def uncovered(self, convolves: bool = True, multiplies: bool = True) -> Iterator[Uncovered]:
        """Yield what no bound covers of a network that has convolutions, or products of matrices."""
        if self.device not in PRECISIONS:
            yield Uncovered("device", f"the device is {self.device!r}", f"choose one of {', '.join(PRECISIONS)}")
            return
        if self.autocast:
            yield Uncovered("autocast", f"torch.autocast is on for {self.device!r}", "leave its block")
        if self.flush_denormal:
            yield Uncovered(
                "flush_denormal", "denormal numbers are flushed to zero", "call torch.set_flush_denormal(False)"
            )
        used = {"convolution_precision": convolves, "matrix_precision": multiplies}
        for (field, counts), switch in zip(used.items(), PRECISIONS[self.device], strict=True):
            precision = getattr(self, field)
            if counts and precision not in PRECISE:
                found = f"torch.backends.{switch}.fp32_precision is {precision!r}"
                yield Uncovered(field, found, 'set it to "ieee"')
        if self.environment and (convolves or multiplies):
            yield Uncovered("environment", f"{self.environment} is in the environment", "start anew without it")
        if convolves and self.device == "cuda" and self.cudnn:
            found = "cuDNN may choose Winograd or FFT convolutions"
            yield Uncovered("cudnn", found, "set torch.backends.cudnn.enabled = False")
        if convolves and self.device == "cpu" and self.nnpack and not self.onednn:
            found = "NNPACK may choose Winograd or FFT convolutions"
            yield Uncovered("nnpack", found, "call torch.backends.nnpack.set_flags(False)")
