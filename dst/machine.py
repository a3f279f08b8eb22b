"""What may differ between two identical runs: the machine, its versions, its memory."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np
import torch

import topo

__all__ = ["machine"]


def machine(device: torch.device) -> dict[str, Any]:
    """Device, threads, peak memory in bytes, and versions, for ``summary.json``."""
    name = str(device)
    if device.type == "cuda":
        name = f"{name} ({torch.cuda.get_device_name(device)})"
    return {
        "peak_memory_bytes": _peak_memory(device),
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": {
            "epitopo": topo.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _peak_memory(device: torch.device) -> int | None:
    """Of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
