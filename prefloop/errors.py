"""The two errors that reach a user as one line; prefloop.cli catches them and nothing else does."""


class RequestError(Exception):
    """What was asked cannot be done as asked: a key, a file, a row, a checkpoint. Exit code 2."""


class RunError(Exception):
    """The work began and failed: a self-check, a value that is not finite, a full disk. Exit code 1."""
