"""The two errors that reach a user as one line; prefloop.cli catches them and nothing else does."""

import errno


class RequestError(Exception):
    """What was asked cannot be done as asked: a key, a file, a row, a checkpoint. Exit code 2."""


class RunError(Exception):
    """The work began and failed: a self-check, a value that is not finite, a full disk. Exit code 1."""


def disk_is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind `error`: Python, safetensors and torch.save say it each in their own way."""
    while error is not None:
        said = str(error)
        if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or any(
                words in said for words in ("No space left on device", "Disk quota exceeded", "disk is full",
                                            "PytorchStreamWriter failed writing", "inline_container.cc",
                                            "iostream error")):
            return True
        error = error.__cause__ or error.__context__
    return False
