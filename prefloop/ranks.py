"""Several processes of one run, as torchrun starts them: who writes, who waits, and who says what went wrong.

The first process (rank 0) makes the run's folder and writes to it. The others do the same work and write nothing. They
meet in the store that torch.distributed keeps for the group, by polling, so that a signal is never held up.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefloop.errors import RequestError

T = TypeVar("T")

SEVERAL = ("sft", "reward", "dpo", "ppo")  # the stages that several processes can share
SHARING = ("sft", "dpo")  # those that can share the weights out too


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The process's number on its own machine, and so its GPU's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def first() -> bool:
    return rank() == 0


def sharded() -> bool:
    """Whether FSDP shares the weights out: a pass over them then takes every process, and so does gathering them."""
    return world() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def gathered(weight: Any) -> Any:
    """The whole of a weight that may be shared out."""
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def require_able(stage: str) -> None:
    if world() > 1 and stage not in SEVERAL:
        raise RequestError(f"{stage} runs in one process for now, and {world()} were started: start it without "
                           f"torchrun ({', '.join(SEVERAL)} can share several)")
    if sharded() and stage not in SHARING:
        raise RequestError(f"{stage} cannot share its weights out (FSDP) for now, as {' and '.join(SHARING)} can; "
                           f"configs/accelerate/ddp.yaml gives each GPU the whole base")


def tell(what: str, value: Any) -> None:
    """From the first process to all others."""
    if world() > 1:
        _store().set(f"prefloop/{what}", json.dumps(value))


def told(what: str) -> Any:
    store = _store()
    while not store.check([f"prefloop/{what}"]):
        time.sleep(0.05)
    return json.loads(store.get(f"prefloop/{what}"))


def meet(what: str) -> None:
    """Go on once every process is here. Each meeting has a name of its own."""
    if world() == 1:
        return
    store = _store()
    store.add(f"prefloop/{what}", 1)
    while store.add(f"prefloop/{what}", 0) < world():
        time.sleep(0.05)


def by_first(what: str, work: Callable[[], None]) -> None:
    """`work`, done when all have come to it and before any goes on: by the first process, or by all if it takes all
    of them to read the weights. What it writes is then the first one's still."""
    meet(f"{what} begins")
    if first() or sharded():
        work()
    meet(f"{what} is done")


def share(things: Sequence[T]) -> list[T]:
    """This process's part of what all of them know: every world-th thing."""
    return list(things[rank() :: world()])


def summed(values: Any) -> Any:
    """A tensor of each process, added up, for all of them."""
    if world() > 1:
        from torch import distributed

        distributed.all_reduce(values)
    return values


def total(mine: float) -> float:
    """A number of each process, added up, for all of them."""
    return sum(from_all(mine))


def sum_gradients(weights: Sequence[Any]) -> None:
    """Add up what each process has as gradients, in one message; a process that had no rows has none."""
    if world() == 1:
        return
    import torch

    told = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights])
    for weight, whole in zip(weights, summed(told).split([w.numel() for w in weights]), strict=True):
        weight.grad = whole.view_as(weight).clone()


def from_all(mine: T) -> list[T]:
    """What each process has, in the order of the processes, for all of them."""
    if world() == 1:
        return [mine]
    from torch import distributed

    found: list[Any] = [None] * world()
    distributed.all_gather_object(found, mine)
    return found


def any_of(mine: bool) -> bool:
    """Whether one of the processes says yes: all of them learn it at the same place."""
    if world() == 1:
        return mine
    import torch
    from torch import distributed

    where = f"cuda:{local_rank()}" if distributed.get_backend() == "nccl" else "cpu"
    yes = torch.tensor(float(mine), device=where)
    distributed.all_reduce(yes, distributed.ReduceOp.MAX)
    return bool(yes)


def speaks() -> bool:
    """Whether this process is the first to fail, so that an error of all of them is told once."""
    if world() == 1:
        return True
    from torch import distributed

    if not distributed.is_initialized():
        return local_rank() == 0
    try:
        return _store().add("prefloop/failed", 1) == 1
    except RuntimeError:  # the store went with the process that held it, which has spoken
        return False


def parted(error: BaseException) -> bool:
    """Whether `error` is what a process sees when another one of its group is gone."""
    return world() > 1 and isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("onnection closed", "onnection reset", "roken pipe", "recvValue failed"))


def _store() -> Any:
    """The group's key-value store; TRL's settings have joined the group when they were built, on a GPU or not."""
    import torch
    from accelerate import PartialState
    from torch.distributed import distributed_c10d

    if not distributed_c10d.is_initialized():
        PartialState(cpu=not torch.cuda.is_available())
    return distributed_c10d._get_default_store()
