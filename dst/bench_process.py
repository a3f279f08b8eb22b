"""Time and memory of work in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

__all__ = ["in_a_process"]

_BEFORE = """
import json, sys, time
arguments = json.loads(sys.argv[1])
"""
_AFTER = """
def peak():  # bytes; on Linux getrusage counts the parent's, too
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line[:6] == "VmHWM:")
    except (OSError, StopIteration):
        import resource
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024

try:
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak so far
except OSError:
    pass
before = peak()
times = []
while len(times) < 3 and sum(times) < 5:
    start = time.perf_counter()
    work()
    times.append(time.perf_counter() - start)
print(json.dumps([sorted(times)[len(times) // 2], (peak() - before) / 1e6, peak() / 1e6]))
"""


def in_a_process(setup: str, *arguments: Any) -> dict[str, float]:
    """Median seconds and peak memory of a function ``work``, after what prepares it.

    Parameters
    ----------
    setup : str
        Python code that defines ``work()`` and has loaded and compiled what is not to count.
    *arguments
        JSON values; the code finds them as ``arguments``.

    Returns
    -------
    dict
        "seconds", "extra_mb" (the peak of resident memory over that before) and "peak_mb".
    """
    done = subprocess.run(
        [sys.executable, "-c", _BEFORE + setup + _AFTER, json.dumps(arguments)],
        capture_output=True,
        check=True,
        text=True,
    )
    seconds, extra, peak = json.loads(done.stdout)
    return {"seconds": seconds, "extra_mb": extra, "peak_mb": peak}
