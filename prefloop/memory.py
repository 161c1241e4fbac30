"""Out of memory: knowing it, freeing what can be freed, and going on with less at a time."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from prefloop.errors import RunError

T = TypeVar("T")

# CUDA's allocator raises an error of its own kind; the CPU's, and CUDA's libraries, raise RuntimeErrors that say this.
SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's names for mallopt


def keep_freed() -> None:
    """On a CPU with glibc: what one pass frees is kept for the next, and not given back to the kernel each time.

    Memory that comes anew from the kernel comes page by page, each one cleared: up to a tenth of a training's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and not torch.cuda.is_available():
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_MAX, 0)


def ran_out(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS))


def suffices(work: Callable[[], object]) -> bool:
    """Do `work`; False when memory ran out, and then what it held is free again."""
    try:
        work()
        return True
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
    # Only here: the error held the frames that failed, and these their tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def at_once(rows: list[T], size: int, work: Callable[[list[T]], object], what: str = "rows") -> int:
    """`work` on `size` rows at a time, halved where memory runs out; returns the size at the end.

    A part that failed is done again, so `work` keeps nothing before it has everything.
    """
    first = 0
    while first < len(rows):
        part = rows[first : first + size]
        if suffices(lambda part=part: work(part)):
            first += len(part)
            continue
        if len(part) == 1:
            raise RunError(f"out of memory with one of the {what} at a time: lower the lengths, or hold the base in "
                           "4 bits (model.four_bit=true)")
        size = (len(part) + 1) // 2
        print(f"out of memory with {len(part)} {what} at a time; going on with {size}", flush=True)
    return size


def smaller(micro: int, accumulation: int) -> tuple[int, int] | None:
    """The next smaller micro-batch and the accumulation that keep their product, the global batch, as it is."""
    total = micro * accumulation
    fitting = (size for size in range(micro // 2, 0, -1) if total % size == 0)
    size = next(fitting, None)
    return (size, total // size) if size else None
