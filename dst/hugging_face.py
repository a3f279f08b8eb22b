"""Evolve a sparse model in Hugging Face's `Trainer`."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dst.callbacks import EvolverSettings, log_entry
from dst.iterative_warmup import unwrapped

__all__ = ["EvolverCallback"]

# The state travels in the optimizer's, with the moments that belong to it: a callback is not told
# which checkpoint a run is resumed from.
_KEY = "evolver"


class EvolverCallback(EvolverSettings, TrainerCallback):
    """Evolve the topology of the model that a `transformers.Trainer` trains.

    Sparsify the model before the `Trainer` is made. An update comes after the optimizer's step and
    before gradients are cleared; with gradient accumulation, every `every` optimizer steps. Each
    update leaves an entry in ``trainer.state.log_history``. Checkpoints hold topology and weights
    (in the model's state) and the evolver's state (in the optimizer's), so
    ``trainer.train(resume_from_checkpoint=...)`` goes on as if nothing had happened: sparsify a
    model the same way, and pass the same callback; the history goes on from the checkpoint's step.

    Parameters
    ----------
    method, every, total_steps, seed, history, followers, couplings
        As in `dst.Evolver`; `history` is a path, and `total_steps` the trainer's by default.

    Attributes
    ----------
    evolver : Evolver or None
        None before training.

    Raises
    ------
    ValueError
        When training begins, as `dst.Evolver`; and if the checkpoint that is resumed has no
        evolver's state: it is of a run without this callback, or with ``save_only_model=True``.

    Examples
    --------
    >>> import tempfile, torch, dst
    >>> from dst.hugging_face import EvolverCallback
    >>> from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
    >>> config = LlamaConfig(
    ...     vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
    ...     num_attention_heads=2,
    ... )
    >>> model = dst.sparsify(LlamaForCausalLM(config), 0.2, include="model.layers.*")
    >>> ids = torch.arange(64).reshape(8, 8) % 32
    >>> data = [{"input_ids": row, "labels": row} for row in ids]
    >>> trainer = Trainer(
    ...     model=model,
    ...     args=TrainingArguments(
    ...         tempfile.mkdtemp(), max_steps=8, report_to="none", use_cpu=True, disable_tqdm=True
    ...     ),
    ...     train_dataset=data,
    ...     callbacks=[EvolverCallback("chts", every=2)],
    ... )
    >>> result = trainer.train()  # doctest: +ELLIPSIS
    {...}
    >>> [entry["step"] for entry in trainer.state.log_history if "topology/grown" in entry]
    [2, 4, 6]
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the evolver, with the state in the checkpoint that is resumed."""
        self._release()
        optimizer = unwrapped(kwargs["optimizer"])
        saved = optimizer.param_groups[0].pop(_KEY, None)
        if not state.global_step:
            saved = None  # of an earlier run with this optimizer
        elif saved is None:
            raise ValueError(
                "the checkpoint has no state of an evolver: resume from one of a run that had an "
                "EvolverCallback and save_only_model=False"
            )
        evolver = self._begin(
            kwargs["model"], optimizer, state.max_steps, saved, state.is_world_process_zero
        )

        def add(_: Any, state_dict: dict[str, Any]) -> None:
            state_dict["param_groups"][0][_KEY] = evolver.state_dict()

        self._hook = optimizer.register_state_dict_post_hook(add)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Step the evolver, unless gradients overflowed and the optimizer's step was left out."""
        assert self.evolver is not None
        if getattr(kwargs["optimizer"], "step_was_skipped", False):
            self.evolver.skip()
            return
        update = self.evolver.step()
        if update is not None:
            state.log_history.append({**log_entry(update), "step": state.global_step + 1})

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Leave the optimizer as it was."""
        self._release()
