"""Who holds a run: a lock on a file in its folder, which the system lets go when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prefloop import checkpoints
from prefloop.errors import RequestError

LOCK = "lock"
PATIENCE = 20  # twentieths of a second: whoever only looks has the lock for an instant


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Inside, this process alone works on `run`. The file stays behind: it is the lock on it that counts."""
    with (run / LOCK).open("a", encoding="utf-8") as file:
        for attempt in range(PATIENCE):
            if _locked(file, fcntl.LOCK_EX):
                break
            if attempt == PATIENCE - 1:
                raise RequestError(f"{run}: it is running now{holder(run)}; wait for it, or stop it with Ctrl-C there")
            time.sleep(0.05)
        with checkpoints.naming(run / LOCK):
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())
        yield


def is_held(run: Path) -> bool:
    """Whether a living process works on `run`. A folder that was copied is held by nobody."""
    try:
        with (run / LOCK).open(encoding="utf-8") as file:
            return not _locked(file, fcntl.LOCK_SH)
    except (FileNotFoundError, PermissionError):
        return False


def holder(run: Path) -> str:
    """`, as process 123 on HOST`, as far as the lock's file says it."""
    try:
        told = (run / LOCK).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        told = ""
    return f", as {told}" if told.startswith("process ") and told.isprintable() else ""


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise RequestError(f"{file.name}: this file system locks no files ({error.strerror}), so two processes could "
                           f"write one run; choose another with run.root=FOLDER") from None
    return True
