"""Ready-made runs, named task-method."""

from __future__ import annotations

from dst.config import Config, DataConfig, ModelConfig, OptimizerConfig, SparsityConfig
from dst.methods import METHODS

__all__ = ["PRESETS"]

_IMAGES = {"mnist": [1568] * 3, "fashion-mnist": [1568] * 3}  # the papers' MLP (SCIENCE: CHTs)


def _sparsity(method: str | None, density: float) -> SparsityConfig:
    # csr also for what starts at 50 %: there it is as fast as masked, and soon far faster
    return SparsityConfig(method, density, layout="csr") if method else SparsityConfig()


def _presets() -> dict[str, Config]:
    presets = {}
    for method in (None, *METHODS):
        name = method or "dense"
        presets[f"digits-{name}"] = Config(
            data=DataConfig("digits"),
            model=ModelConfig([512, 512, 512]),
            sparsity=_sparsity(method, 0.05),
            optimizer=OptimizerConfig(epochs=40, lr=0.05),
        )
        for data, hidden in _IMAGES.items():
            presets[f"{data}-{name}"] = Config(
                data=DataConfig(data),
                model=ModelConfig(hidden),
                sparsity=_sparsity(method, 0.01),
                optimizer=OptimizerConfig(epochs=100),
            )
    return dict(sorted(presets.items()))


PRESETS: dict[str, Config] = _presets()
"""By name: a `Config` each, which options on the command line override."""
