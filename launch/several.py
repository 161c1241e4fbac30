"""`prefloop COMMAND ...` in N processes of this machine, as torchrun would, but an error stays one line.

usage: python -m prefloop.launch.several N COMMAND [CONFIG] [section.key=value ...]

One process for each GPU; on a machine without one, N processes on its CPU. torchrun itself serves as well, also over
several machines: `torchrun --nproc-per-node N -m prefloop.cli COMMAND ...`; it only adds a report of its own to an
error, and ends with 1 whatever the exit code was.
"""

from __future__ import annotations

import logging
import os
import sys


def main(words: list[str]) -> int:
    if len(words) < 2 or not words[0].isdigit() or int(words[0]) < 1:
        print((__doc__ or "").split("\n\n")[1], file=sys.stderr)
        return 2
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    asked = LaunchConfig(1, 1, int(words[0]), rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", max_restarts=0,
                         local_addr="127.0.0.1", run_id=str(os.getpid()))
    try:
        elastic_launch(asked, sys.executable)("-m", "prefloop.cli", *words[1:])
    except ChildFailedError as error:
        _, failed = error.get_first_failure()
        if failed.exitcode < 0:
            print(f"prefloop {words[1]}: process {failed.local_rank} was killed by signal {-failed.exitcode}",
                  file=sys.stderr)
        return failed.exitcode if failed.exitcode > 0 else 1
    except SignalException:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
