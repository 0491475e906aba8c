"""Training: Lightning module, schedules, callbacks and metrics."""

import contextlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

SIGNAL = ("scipy", "scipy.signal")


def _import_torchmetrics() -> None:
    """Import torchmetrics without SciPy's signal processing, which it loads, in a second, to add one name there."""
    if SIGNAL[0] in sys.modules:
        return
    whole, signal = (ModuleType(name) for name in SIGNAL)
    whole.__spec__ = ModuleSpec(SIGNAL[0], None)
    vars(whole)["signal"], vars(signal)["hamming"] = signal, None
    sys.modules.update(zip(SIGNAL, (whole, signal), strict=True))
    try:
        with contextlib.suppress(ImportError):  # Lightning imports it then, as it is
            import torchmetrics  # noqa: F401
    finally:
        for name in SIGNAL:
            del sys.modules[name]


_import_torchmetrics()
