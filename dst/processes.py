"""The process group of a run that torchrun started."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

__all__ = ["local_rank", "process_group"]

# the first rank fetches data and decodes test sets while the others wait
_PATIENCE = timedelta(hours=12)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group that torchrun speaks of in the environment; alone, do nothing.

    Examples
    --------
    >>> from dst.processes import process_group
    >>> with process_group():  # in no torchrun
    ...     pass
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        if local_rank() < torch.cuda.device_count():
            torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    except BaseException as error:
        # its frames hold DDP wrappers, which hang if they outlive the group
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        distributed.destroy_process_group()


def local_rank() -> int:
    """Which of the processes on this machine this one is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))
