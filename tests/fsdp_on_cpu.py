"""prefloop with accelerate told that CPU processes are devices: on CPUs it would quietly do DDP in place of FSDP.

usage: ACCELERATE_USE_FSDP=true torchrun ... tests/fsdp_on_cpu.py COMMAND [CONFIG] [section.key=value ...]
"""

from __future__ import annotations

import sys
from typing import Any

from accelerate import state
from accelerate.utils import DistributedType

from prefloop.cli import main

joined = state.PartialState.__init__


def join(self: Any, *given: Any, **named: Any) -> None:
    joined(self, *given, **named)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    state.PartialState.__init__ = join
    sys.exit(main())
