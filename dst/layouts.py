"""The rule behind ``layout="auto"``."""

from __future__ import annotations

import torch

from topo.names import find

__all__ = ["CSR_DTYPES", "CSR_PEAK_DENSITY", "LAYOUTS", "choose_layout"]

LAYOUTS = ("auto", "csr", "masked")
CSR_DTYPES = (torch.float32, torch.float64)
CSR_PEAK_DENSITY = 0.4


def choose_layout(
    layout: str, device: torch.device | str, dtype: torch.dtype, peak_density: float
) -> tuple[str, str]:
    """The layout that an argument ``layout`` means, and why.

    "auto" is a fixed rule, so that a run is the same everywhere: csr on the CPU, in float32 or
    float64, up to a peak density of 40 %; masked for everything else. ``epitopo bench layers``
    shows where it is right on a machine.

    Parameters
    ----------
    layout : {"auto", "csr", "masked"}
    device : torch.device or str
        Where the layer is when it is made: move a model there before `dst.sparsify`.
    dtype : torch.dtype
    peak_density : float
        The largest density that the layer is to have.

    Returns
    -------
    (str, str)
        "csr" or "masked", and the reason.

    Raises
    ------
    ValueError
        For an unknown layout, or csr in a precision that it has not.

    Examples
    --------
    >>> import torch, dst
    >>> dst.choose_layout("auto", "cpu", torch.float32, 0.05)
    ('csr', 'auto: float32 on the CPU, peak density 0.05 <= 0.4')
    >>> dst.choose_layout("auto", "cuda", torch.float32, 0.05)
    ('masked', 'auto: dense kernels are faster on cuda')
    """
    find(dict.fromkeys(LAYOUTS), layout, "layout")
    precision = str(dtype).removeprefix("torch.")
    if layout == "csr" and dtype not in CSR_DTYPES:
        raise ValueError(f"the csr layout computes in float32 or float64, not {precision}")
    if layout != "auto":
        return layout, "as asked"
    kind = torch.device(device).type
    if kind != "cpu":
        return "masked", f"auto: dense kernels are faster on {kind}"
    if dtype not in CSR_DTYPES:
        return "masked", f"auto: csr has no {precision}"
    if peak_density > CSR_PEAK_DENSITY:
        return "masked", f"auto: peak density {peak_density:.4g} > {CSR_PEAK_DENSITY}"
    return "csr", (
        f"auto: {precision} on the CPU, peak density {peak_density:.4g} <= {CSR_PEAK_DENSITY}"
    )
