"""Commands that change a store go through the server that holds its file, over a socket beside it; else straight in.

Whoever may open the socket may do all that these commands do: the file's mode, 0600, is the authority. A request is
one line of JSON, and so is its reply.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefloop.errors import RequestError, RunError
from prefloop.store import Store
from prefloop.store.opening import Place, SqliteFile, place_of

from .administering import MAKING, WORKS

LARGEST = 1024 * 1024
SECONDS = 300  # a large campaign takes a while to queue
PATIENCE = 10  # for a request, which is a line


def perform(url: str, work: str, **said: Any) -> dict[str, Any]:
    """Does one of the WORKS on the store at `url`, which all but `MAKING` need to be there."""
    place = place_of(url)
    new = not place.exists()
    if new and work not in MAKING:
        raise RequestError(f"{place}: there is no store here; `prefloop feedback` or `prefloop feedback campaign` "
                           "makes one")
    line = _line_to(place)
    if line is None:
        with Store(url) as store:
            if new:
                print(f"{place}: made a new store")
            return WORKS[work](store, **said)
    with line:
        reply = _asked(line, work, said)
    if "refused" in reply:
        raise RequestError(reply["refused"])
    if "failed" in reply:
        raise RunError(reply["failed"])
    return reply["done"]


def _line_to(place: Place) -> socket.socket | None:
    """To the server that holds a store, if one does; a database is held by nobody, for its writers take turns."""
    if not isinstance(place, SqliteFile):
        return None
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(str(socket_of(place)))
    except OSError:
        line.close()
        return None
    return line


def _asked(line: socket.socket, work: str, said: dict[str, Any]) -> dict[str, Any]:
    line.settimeout(SECONDS)
    try:
        line.sendall(json.dumps({"work": work, "said": said}).encode() + b"\n")
        return json.loads(line.makefile("rb").readline(LARGEST) or b'{"failed": "the server went away meanwhile"}')
    except TimeoutError:
        return {"failed": f"the server has not answered in {SECONDS} seconds; it may still do it"}
    except OSError as error:
        return {"failed": f"the server went away meanwhile: {error.strerror}"}


def socket_of(place: SqliteFile) -> Path:
    return place.path.with_name(f"{place.name}.socket")


@contextmanager
def answering(store: Store) -> Iterator[None]:
    """Does the works that others ask for, one at a time, while the caller serves."""
    if not isinstance(store.place, SqliteFile):
        yield
        return
    path = socket_of(store.place)
    path.unlink(missing_ok=True)  # of a server that was killed: this process has the store's lock now
    with socket.socket(socket.AF_UNIX) as door:
        before = os.umask(0o177)
        try:
            door.bind(str(path))
        except OSError as error:
            raise RequestError(f"{path}: cannot listen here: {error}; name the store by a shorter path") from None
        finally:
            os.umask(before)
        door.listen()
        threading.Thread(target=_answer, args=(store, door), name="control", daemon=True).start()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)  # wakes the thread


def _answer(store: Store, door: socket.socket) -> None:
    while True:
        try:
            line, _ = door.accept()
        except OSError:
            return
        with line, suppress(OSError):
            line.settimeout(PATIENCE)
            line.sendall(json.dumps(_done(store, line.makefile("rb").readline(LARGEST))).encode() + b"\n")


def _done(store: Store, request: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(request)
        return {"done": WORKS[asked["work"]](store, **asked["said"])}
    except RequestError as error:
        return {"refused": str(error)}
    except RunError as error:
        return {"failed": str(error)}
    except Exception as error:  # whatever it is, the raters go on
        return {"failed": f"{type(error).__name__}: {error}"}
