"""What a kind of reward model is while it learns by gradient: an adapter on a base, or an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from prefloop import runs, scoring

from .groups import Row
from .judgements import Group
from .settings import HeadConfig


class Kind(Protocol):
    """A reader is a module with a `head`, whose forward(rows, starts) gives raw scores_RO; gradients flow."""

    def rows(self, group: Group) -> list[Row | None]:
        """Each of its answers behind the prompt, as tokens; None where it is over the limit."""
        ...

    def begin(self, head: HeadConfig, seed: int, longest: int) -> Any:
        """A new reader, on the device, for rows of up to `longest` tokens."""
        ...

    def outputs(self, reader: Any, rows: list[Row], batch: int = 32) -> Tensor:
        """Raw scores_RO in evaluation mode, in the order given."""
        ...

    def save(self, reader: Any, folder: Path) -> None: ...

    def restore(self, reader: Any, folder: Path) -> None: ...

    def check_reload(self, run: runs.Run, reader: Any, folder: Path) -> None:
        """A self-check of the run: what `folder` holds scores as the reader does."""
        ...

    def scorer(self, reader: Any) -> scoring.Scorer: ...
