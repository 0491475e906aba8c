"""The switches of torch under which a network is executed, as records state them: readable without torch."""

from dataclasses import dataclass


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
