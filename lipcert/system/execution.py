"""How a network is executed: switches of torch, what intercepts it, and which of that no bound covers."""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lipcert.system.switches import Execution

PRECISE = ("ieee", "none")
"""Settings of `fp32_precision` under which products of float32 are rounded as float32."""

PRECISIONS = {"cpu": ("mkldnn.conv", "mkldnn.matmul"), "cuda": ("cudnn.conv", "cuda.matmul")}
"""Devices that bounds cover, and which backends' `fp32_precision` counts there: of convolutions, of matrices."""

FAST_MATH = {
    "cpu": {"ONEDNN_DEFAULT_FPMATH_MODE": "STRICT", "DNNL_DEFAULT_FPMATH_MODE": "STRICT"},
    "cuda": dict.fromkeys(
        ("NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION", "CUBLAS_EMULATE_DOUBLE_PRECISION"), "0"
    ),
}
"""Variables of the environment by which libraries compute in lower precision, and what turns them off."""


MATMUL = ("highest", "high")
"""How GPUs may multiply float32 numbers while a network is trained: as such, or in TF32."""


class Uncovered(NamedTuple):
    """A switch that no bound covers: the field of `Execution`, what was `found`, and its `remedy`."""

    field: str
    found: str
    remedy: str


def uncovered(execution: Execution, convolves: bool = True, multiplies: bool = True) -> Iterator[Uncovered]:
    """Yield what no bound covers of a network that has convolutions, or products of matrices."""
    if execution.device not in PRECISIONS:
        yield Uncovered("device", f"the device is {execution.device!r}", f"choose one of {', '.join(PRECISIONS)}")
        return
    if execution.autocast:
        yield Uncovered("autocast", f"torch.autocast is on for {execution.device!r}", "leave its block")
    if execution.flush_denormal:
        yield Uncovered(
            "flush_denormal", "denormal numbers are flushed to zero", "call torch.set_flush_denormal(False)"
        )
    used = {"convolution_precision": convolves, "matrix_precision": multiplies}
    for (field, counts), switch in zip(used.items(), PRECISIONS[execution.device], strict=True):
        precision = getattr(execution, field)
        if counts and precision not in PRECISE:
            found = f"torch.backends.{switch}.fp32_precision is {precision!r}"
            yield Uncovered(field, found, 'set it to "ieee"')
    if execution.environment and (convolves or multiplies):
        yield Uncovered("environment", f"{execution.environment} is in the environment", "start anew without it")
    if convolves and execution.device == "cuda" and execution.cudnn:
        found = "cuDNN may choose Winograd or FFT convolutions"
        yield Uncovered("cudnn", found, "set torch.backends.cudnn.enabled = False")
    if convolves and execution.device == "cpu" and execution.nnpack and not execution.onednn:
        found = "NNPACK may choose Winograd or FFT convolutions"
        yield Uncovered("nnpack", found, "call torch.backends.nnpack.set_flags(False)")


def covered_device(device: torch.device) -> torch.device:
    """Return a device, or the CPU in place of one where no bound covers what is executed, or float64 is missing."""
    return device if device.type in PRECISIONS else torch.device("cpu")


def present_execution(device: torch.device) -> Execution:
    """Return the switches of torch as they are now, for what is executed on a device."""
    backends, kind = torch.backends, device.type
    convolution, matrix = (_float32_precision(*name.split(".")) for name in PRECISIONS.get(kind, PRECISIONS["cpu"]))
    return Execution(
        torch=torch.__version__,
        device=kind,
        threads=torch.get_num_threads(),
        autocast=torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind),
        convolution_precision=convolution,
        matrix_precision=matrix,
        cudnn=bool(backends.cudnn.enabled),
        onednn=bool(backends.mkldnn.is_available() and backends.mkldnn.enabled),
        nnpack=bool(backends.nnpack.is_available() and torch._C._get_nnpack_enabled()),
        environment=" ".join(
            f"{name}={os.environ[name]}"
            for name, off in FAST_MATH.get(kind, {}).items()
            if os.environ.get(name, off).upper() not in ("", off)
        ),
        flush_denormal=_flushes(),
    )


def _float32_precision(backend: str, operation: str) -> str:
    """Return how a backend computes products of float32, `ieee` and `none` for float32 itself."""
    switch = getattr(getattr(torch.backends, backend), operation, None)
    precision = getattr(switch, "fp32_precision", None)
    if precision is not None:
        return str(precision)
    if operation == "conv":  # torch before 2.9
        return "tf32" if backend == "cudnn" and torch.backends.cudnn.allow_tf32 else "ieee"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _flushes() -> bool:
    """Return whether the processor flushes denormal numbers in this thread, which torch does not tell."""
    return sys.float_info.min / 2 == 0


def refuse_execution(kinds: Collection[type[nn.Module]], device: torch.device) -> None:
    """Refuse switches of torch under which layers round more than any bound covers, and what intercepts them.

    Args:
        kinds: types of the network's layers; those of unknown origin may convolve and multiply.
        device: that the network is executed on.

    Raises:
        ValueError: saying what was found, and what to do.
    """
    refuse_interception()
    own = any(not kind.__module__.startswith(("torch.nn.", "lipcert.nn.")) for kind in kinds)
    convolves = own or any(issubclass(kind, nn.Conv2d | nn.ConvTranspose2d) for kind in kinds)
    multiplies = own or any(issubclass(kind, nn.Linear) for kind in kinds)
    for _, found, remedy in uncovered(present_execution(device), convolves, multiplies):
        raise ValueError(
            f"Nothing is certified of a network as executed while {found}: the rounding is in no bound; {remedy}, "
            'or ask for arithmetic="exact".'
        )


def refuse_interception() -> None:
    """Refuse what may change every operation of torch, those of an analysis, too.

    Raises:
        ValueError: naming a mode or a transform, or for denormal numbers that are flushed to zero.
    """
    for found, remedy in _interceptions():
        raise ValueError(f"Nothing is certified while {found}, which may change what torch computes; {remedy}.")


def _interceptions() -> Iterator[tuple[str, str]]:
    for mode in (*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()):
        if type(mode) is not DeviceContext:  # which says on what device tensors are made, no more
            yield f"{type(mode).__name__} is active", "leave its block"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        yield "a transform of torch.func is active (vmap, grad, ...)", "call it outside"
    if _flushes():
        yield "denormal numbers are flushed to zero", "call torch.set_flush_denormal(False)"


def multiply_in(precision: str) -> None:
    """Let GPUs compute products of float32 numbers in one of `MATMUL`, in matrices and convolutions alike.

    That is for training; what is executed for a proof or an attack is so under `cover_execution`.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "high"


def cover_execution(device: torch.device) -> ExitStack:
    """Set torch's switches so that bounds cover what is executed; return what sets them back when it is closed."""
    backends, undo, before = torch.backends, ExitStack(), present_execution(device)
    if device.type == "cuda":
        undo.callback(setattr, backends.cudnn, "enabled", before.cudnn)
        undo.callback(setattr, backends.cudnn, "allow_tf32", before.convolution_precision == "tf32")
        undo.callback(setattr, backends.cuda.matmul, "allow_tf32", before.matrix_precision == "tf32")
        backends.cudnn.enabled = backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = False
    else:
        _cover_precision("conv", before.convolution_precision, undo)
        _cover_precision("matmul", before.matrix_precision, undo)
    if not backends.mkldnn.is_available():
        undo.callback(backends.nnpack.set_flags, *backends.nnpack.set_flags(False))
    undo.callback(torch.set_flush_denormal, before.flush_denormal)
    torch.set_flush_denormal(False)
    return undo


def _cover_precision(operation: str, before: str, undo: ExitStack) -> None:
    """Let oneDNN compute in float32 where it does not, until `undo` is closed."""
    switch = getattr(torch.backends.mkldnn, operation, None)
    if before in PRECISE or switch is None:
        return

    def set_back() -> None:
        switch.fp32_precision = "none"  # as all backends have it
        if switch.fp32_precision != before:
            switch.fp32_precision = before

    undo.callback(set_back)
    switch.fp32_precision = "ieee"
