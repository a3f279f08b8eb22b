"""Evolve a sparse model in Lightning's `Trainer`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dst.callbacks import EvolverSettings, log_entry
from dst.graph import sparse_layers

__all__ = ["EvolverCallback"]


class EvolverCallback(EvolverSettings, Callback):
    """Evolve the topology of the model that a `lightning.Trainer` trains.

    Sparsify the model before `fit`, in ``LightningModule.__init__`` for instance. An update comes
    at the end of the optimizer's step, before gradients are cleared and before other callbacks
    hear of the batch; with ``accumulate_grad_batches``, every `every` optimizer steps. Loggers get
    an entry for each update. Checkpoints hold topology, weights and the evolver's state, so
    ``trainer.fit(module, ckpt_path=...)`` goes on as if nothing had happened: make the module and
    the callback as at first; the history goes on from the checkpoint's step.

    Parameters
    ----------
    method, every, total_steps, seed, history, followers, couplings
        As in `dst.Evolver`; `history` is a path. The default of `total_steps` is
        ``trainer.estimated_stepping_batches``: give it where a module with manual optimization
        does not step its optimizer once a batch.

    Attributes
    ----------
    evolver : Evolver or None
        None before training.

    Raises
    ------
    ValueError
        When training begins, as `dst.Evolver`; and if the checkpoint that is resumed has no
        evolver's state.

    Examples
    --------
    >>> import torch, dst
    >>> import lightning as L
    >>> from dst.lightning import EvolverCallback
    >>> class Module(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         layers = torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    ...         self.model = dst.sparsify(torch.nn.Sequential(*layers), 0.2, exclude="2")
    ...
    ...     def training_step(self, batch, index):
    ...         return self.model(batch).square().mean()
    ...
    ...     def configure_optimizers(self):
    ...         return torch.optim.Adam(self.parameters())
    >>> callback = EvolverCallback("chts", every=1)
    >>> trainer = L.Trainer(
    ...     max_epochs=1, callbacks=[callback], accelerator="cpu", logger=False,
    ...     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ... )
    >>> trainer.fit(Module(), torch.utils.data.DataLoader(torch.ones(8, 8), batch_size=2))
    >>> callback.evolver.steps, callback.evolver.last
    (4, 3)
    """

    _saved: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what another run loaded; checkpoints are loaded after this."""
        self._saved = None

    def state_dict(self) -> dict[str, Any]:
        """The evolver's."""
        return {} if self.evolver is None else self.evolver.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training begins: the optimizer is loaded later."""
        self._saved = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the evolver, with the state in the checkpoint that is resumed."""
        self._release()
        if trainer.global_step and self._saved is None:
            raise ValueError(
                "training goes on without an evolver's state: resume from a checkpoint of a run "
                "that had an EvolverCallback (trainer.fit(..., ckpt_path=...)), also for another "
                "fit with the same trainer"
            )
        model = trainer.model or pl_module  # in its DDP wrapper, if it has one
        ours = {id(layer.parameter) for layer in sparse_layers(model).values()}
        holders = [
            optimizer
            for optimizer in trainer.optimizers
            if ours <= {id(p) for group in optimizer.param_groups for p in group["params"]}
        ]
        optimizer = (holders or trainer.optimizers)[0]
        total = self._total_steps or trainer.estimated_stepping_batches
        if total == float("inf"):
            raise ValueError("the trainer does not know how long it trains: pass total_steps=")
        evolver = self._begin(model, optimizer, int(total), self._saved, trainer.is_global_zero)
        self._saved = None

        def step(*_: Any) -> None:
            update = evolver.step()
            if update is not None:
                for logger in trainer.loggers:
                    logger.log_metrics(log_entry(update), step=update.step)

        # No event of Lightning is told which optimizer has stepped.
        self._hook = optimizer.register_step_post_hook(step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the optimizer as it was."""
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the optimizer as it was."""
        self._release()
