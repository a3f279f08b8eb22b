"""Several processes that train one model: who does what, and what DDP holds on to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Ranks", "refuse_sharded", "released", "wrappers"]

Numbers = npt.NDArray[np.int64]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model together, as one of them sees them.

    Every method but `owners` is a collective: all ranks call it, in the same order. Alone none of
    them does anything.

    Attributes
    ----------
    rank : int
        Of this process in the group.
    size : int
        How many processes there are.
    group : torch.distributed.ProcessGroup, optional
        None alone.
    device : torch.device
        Where numbers must be for the group to send them.

    Examples
    --------
    >>> from dst.distributed import Ranks
    >>> Ranks.of()
    Ranks(rank=0, size=1, group=None, device=device(type='cpu'))
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    device: torch.device = _CPU

    @classmethod
    def of(cls, group: Any = None, *, model: nn.Module | None = None) -> Ranks:
        """The ranks of a process group.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup, optional
            By default that of the model's DDP wrapper, else torch's default group, else this
            process is alone.
        model : torch.nn.Module, optional
            NCCL sends from the model's device, without a model from the current one.

        Raises
        ------
        ValueError
            If this process is not in the group.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        if group is None:
            wrapped = [] if model is None else wrappers(model)
            group = wrapped[0].process_group if wrapped else distributed.group.WORLD
        rank = distributed.get_rank(group)
        if rank < 0:
            raise ValueError(
                f"process {distributed.get_rank()} is not in the process group: leave it out of "
                "the training, or pass a group that it is in"
            )
        kinds = _device_types(group)  # the CPU if it is there: what we send comes from numpy
        device = torch.device("cpu" if "cpu" in kinds else kinds[0])
        own = set() if model is None else {p.device for p in model.parameters()}
        device = next((d for d in own if d.type == device.type), device)
        return cls(rank, distributed.get_world_size(group), group, device)

    def owners(self, costs: Mapping[str, float]) -> dict[str, int]:
        """Share work out: the largest first, always to the rank that has the least.

        Parameters
        ----------
        costs : mapping of str to float
            What each layer costs; the same on all ranks, in any order.

        Returns
        -------
        dict of str to int
            The rank of each layer; the same on all ranks, without a word between them.

        Examples
        --------
        >>> from dst.distributed import Ranks
        >>> Ranks(rank=0, size=2).owners({"query": 4, "key": 4, "up": 9, "down": 9})
        {'query': 1, 'key': 0, 'up': 1, 'down': 0}
        """
        loads = [0.0] * self.size
        owners = {}
        for name in sorted(costs, key=lambda name: (-costs[name], name)):
            owners[name] = loads.index(min(loads))
            loads[owners[name]] += costs[name]
        return {name: owners[name] for name in costs}

    def exchange(
        self, own: Mapping[str, Numbers], names: Sequence[str], owners: Mapping[str, int]
    ) -> dict[str, Numbers]:
        """Give the arrays of the layers that this rank owns, and get those of all layers.

        Parameters
        ----------
        own : mapping of str to array of int64
            Of one dimension; more than this rank's layers may be there.
        names : sequence of str
            All layers, in the same order on all ranks.
        owners : mapping of str to int
            The rank of each layer.

        Returns
        -------
        dict of str to array of int64
            One array for each name, the same on all ranks.
        """
        if self.size == 1:
            return {name: own[name] for name in names}
        mine = [at for at, name in enumerate(names) if owners[name] == self.rank]
        lengths = np.zeros(len(names), np.int64)
        for at in mine:
            lengths[at] = len(own[names[at]])
        bounds = np.cumsum(self.sum(lengths))
        numbers = np.zeros(bounds[-1] if len(names) else 0, np.int64)
        for at in mine:
            numbers[bounds[at] - lengths[at] : bounds[at]] = own[names[at]]
        # a sum over zeros: one collective however the layers are spread, and nothing is padded
        parts = np.split(self.sum(numbers), bounds[:-1])
        return dict(zip(names, parts, strict=False))  # of no names, split makes one part

    def mean_on_owner(self, tensor: torch.Tensor, owner: int) -> None:
        """Average a float tensor over the ranks, in place on the owner; elsewhere it is spoilt."""
        if self.size == 1:
            return
        sent = tensor
        if tensor.device.type not in _device_types(self.group):
            sent = tensor.to(self.device)
        distributed.reduce(sent, group=self.group, group_dst=owner)
        if self.rank == owner:
            tensor.copy_(sent.div_(self.size))

    def agree(self, digest: int | bytes, what: str) -> None:
        """Refuse to go on if not all ranks have the same.

        Parameters
        ----------
        digest : int or bytes
            A hash, or any number, of what is to be the same.
        what : str
            Its name, for the error.

        Raises
        ------
        RuntimeError
            On all ranks, where they differ.
        """
        if self.size == 1:
            return
        data = digest if isinstance(digest, bytes) else str(digest).encode()
        digests = np.zeros(self.size, np.int64)
        digests[self.rank] = int.from_bytes(
            hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True
        )
        found = self.sum(digests).tolist()
        usual = Counter(found).most_common(1)[0][0]  # of equally many, that of the lower rank
        if found.count(usual) < self.size:
            strange = ", ".join(str(rank) for rank in range(self.size) if found[rank] != usual)
            raise RuntimeError(
                f"{what} must be the same on all {self.size} ranks, but on rank {strange} is not "
                f"what rank {found.index(usual)} has: give all ranks the same model, seed, "
                "settings and checkpoint, and call step() equally often"
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Go on only if no rank failed within; nothing within may be a collective.

        Raises
        ------
        Exception
            What was raised within, on the ranks where it was.
        RuntimeError
            On the others; it tells which rank failed and how.

        Examples
        --------
        >>> from dst.distributed import Ranks
        >>> ranks = Ranks.of()
        >>> with ranks.together():
        ...     found = 1 + 1  # this rank's own work
        """
        try:
            yield
        except Exception as error:
            self._failures(f"{type(error).__name__}: {error}")
            raise
        failures = self._failures("")
        if failures:
            raise RuntimeError("; ".join(f"rank {r} raised {text}" for r, text in failures.items()))

    def _failures(self, message: str) -> dict[int, str]:
        """What ranks have to say that is not empty."""
        if self.size == 1:
            return {}
        text = np.frombuffer(message.encode(errors="replace"), np.uint8)
        lengths = np.zeros(self.size, np.int64)
        lengths[self.rank] = len(text)
        lengths = self.sum(lengths)
        if not lengths.any():
            return {}
        texts = np.zeros((self.size, lengths.max()), np.int64)
        texts[self.rank, : len(text)] = text
        rows = self.sum(texts).astype(np.uint8)
        return {
            rank: bytes(rows[rank, :length]).decode()
            for rank, length in enumerate(lengths)
            if length
        }

    def sum(self, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum an array over the ranks, entry by entry; the array may be overwritten."""
        if numbers.size and self.size > 1:
            sent = torch.from_numpy(numbers).to(self.device)
            distributed.all_reduce(sent, group=self.group)
            numbers = sent.cpu().numpy()
        return numbers


def _device_types(group: Any) -> list[str]:
    """Those whose tensors a group can send; the config is such as "cpu:gloo,cuda:nccl"."""
    return [pair.split(":")[0] for pair in distributed.get_backend_config(group).split(",")]


def refuse_sharded(parameters: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights of which each rank holds a part (FSDP).

    Raises
    ------
    ValueError
        If one is a DTensor; it says what is missing.
    """
    for name, parameter in parameters.items():
        if hasattr(parameter, "device_mesh"):  # to import DTensor takes more than a second
            raise ValueError(
                f"the weights of {name!r} are sharded (fully_shard): an update needs a layer's "
                "weights and optimizer state in one piece, and to gather them, or to move links "
                "between shards, is not implemented; use DistributedDataParallel"
            )


def wrappers(*models: nn.Module) -> list[DistributedDataParallel]:
    """The DDP wrappers around models and inside of them, also below `torch.compile`."""
    found = (m for model in models for m in model.modules())
    return list(dict.fromkeys(m for m in found if isinstance(m, DistributedDataParallel)))


@contextmanager
def released(*models: nn.Module) -> Iterator[None]:
    """Let parameters of models in DDP wrappers change their length within.

    The wrappers let go of the parameters and take hold of them again afterwards, also after an
    error. They stay the same objects with all that users set or registered on them, whatever
    holds them (`torch.compile`, accelerate); communication hooks are registered again. A loop
    may still hold its losses. All ranks must do it at the same step.

    Parameters
    ----------
    *models : torch.nn.Module
        As the training loop calls them, that is with their wrappers.

    Raises
    ------
    ValueError
        For a wrapper with an option that does not allow it. Nothing is changed then.

    Notes
    -----
    A wrapper is rebuilt as it is when it is unpickled: by its own ``__setstate__``, which makes a
    new reducer for what its attributes say. Hence it also has to find the best buckets again, in
    the next step.

    Examples
    --------
    >>> import torch
    >>> from dst.distributed import released
    >>> with released(torch.nn.Linear(2, 2)):  # in no wrapper: nothing to do
    ...     pass
    """
    held = wrappers(*models)
    for wrapper in held:
        _check(wrapper)
    if held:
        _check_compiled(*models)
    builtin = [_builtin_hook(wrapper) for wrapper in held]
    for wrapper in held:
        del wrapper.reducer
        wrapper.logger = None  # it holds the reducer, too
    for model in models:
        _drop_copies(model)
    try:
        yield
    finally:
        for wrapper, hook in zip(held, builtin, strict=True):
            _rebuild(wrapper, hook)


def _rebuild(wrapper: Any, builtin: Any) -> None:
    state = {k: v for k, v in vars(wrapper).items() if k != "logger"}
    # what follows its old reducer's progress; `process_group` stays: pickles are without it
    state |= {"_has_rebuilt_buckets": False, "_static_graph_delay_allreduce_enqueued": False}
    hooks = state.pop("_comm_hooks")
    wrapper.__setstate__(state | {"_comm_hooks": []})
    for hook, hook_state in hooks:
        wrapper.register_comm_hook(hook_state, hook)
    if builtin is not None:
        wrapper._register_builtin_comm_hook(builtin)


def _builtin_hook(wrapper: Any) -> Any:
    """The communication hook in C++, of which a wrapper keeps nothing but the name."""
    kinds = distributed.BuiltinCommHookType.__members__.values()  # type: ignore[attr-defined]
    name = wrapper._get_ddp_logging_data().get("comm_hook")
    return next((kind for kind in kinds if str(kind) == name), None)


def _drop_copies(model: nn.Module) -> None:
    """`torch.compile` copies the attributes of the wrapper that it compiles; none is read."""
    for module in model.modules():
        copy = module.forward if hasattr(module, "_orig_mod") else None
        while copy is not None and not isinstance(copy, nn.Module):
            for name in ("reducer", "logger"):
                vars(copy).pop(name, None)
            copy = getattr(copy, "__wrapped__", None)


def _check(wrapper: Any) -> None:
    """Refuse what cannot be rebuilt, or would not be what it was."""
    in_backward = (hasattr(p, "_in_backward_optimizers") for p in wrapper.module.parameters())
    hook_states = (type(state).__name__ for _, state in getattr(wrapper, "_comm_hooks", ()))
    mends = {
        "mixed_precision": wrapper.mixed_precision is not None and "use torch.autocast",
        "delay_all_reduce_named_params": (
            wrapper._delay_all_reduce_params and "let it reduce all parameters alike"
        ),
        "an optimizer in the backward pass": any(in_backward) and "step it in the loop",
        "the PowerSGD hook, whose state is about the old lengths": (
            "PowerSGDState" in hook_states and "register another, such as fp16_compress_hook"
        ),
        'torch._dynamo.config.optimize_ddp = "python_reducer"': (
            wrapper._use_python_reducer and "set it to False before wrapping"
        ),
    }
    for option, mend in mends.items():
        if mend:
            raise ValueError(
                f"a DDP wrapper with {option} cannot follow parameters that change their length: "
                f"{mend}, or use layout='masked'"
            )
    # the rebuilt wrapper will reduce what needs a gradient now, and never learn of others
    now = len(wrapper._build_params_for_reducer()[0])
    then = wrapper._get_ddp_logging_data()["num_parameter_tensors"]
    if now != then:
        raise ValueError(
            f"{now} parameters in a DDP wrapper need a gradient, {then} did when it was made: "
            "freeze parameters before wrapping, and have all unfrozen when links are to change"
        )


def _check_compiled(*models: nn.Module) -> None:
    compiled = any(
        hasattr(m, "_orig_mod") or m._compiled_call_impl is not None
        for model in models
        for m in model.modules()
    )
    if compiled and torch._dynamo.config.optimize_ddp not in (False, "no_optimization"):
        raise ValueError(
            "torch.compile holds the parameters of a model in a DDP wrapper, so that none can "
            "change its length: set torch._dynamo.config.optimize_ddp = False before the first "
            "step, or use layout='masked'"
        )
