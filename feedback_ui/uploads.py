"""Files that leads send: kept beside the store for a day, each in a folder of its own, until they are used."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from prefloop.errors import RequestError
from prefloop.records import digest
from prefloop.store import Store

from .guard import UPLOADS
from .rating_web import Who

LARGEST = UPLOADS["/api/lead/upload"]
KEPT_SECONDS = 86400
MOST = 50  # uploads at once
NAMED = re.compile(r"[0-9a-f]{16}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def routes(app: FastAPI, store: Store, lead_of: Who) -> None:
    sweep(folder(store))

    @app.post("/api/lead/upload")
    async def upload(request: Request, name: str = "") -> dict[str, Any]:
        """The body is the file, of any kind: what it holds is looked at where it is used."""
        lead_of(request)
        path = await run_in_threadpool(_place, store, name)
        size = 0
        try:
            with path.open("wb") as file:
                async for part in request.stream():
                    size += len(part)
                    if size > LARGEST:
                        raise RequestError(f"upload: more than {LARGEST >> 20} MiB")
                    await run_in_threadpool(file.write, part)
            if not size:
                raise RequestError("upload: the file is empty")
        except BaseException:
            remove(path)
            raise
        return {"upload": f"{path.parent.name}/{path.name}", "size": size}


def folder(store: Store) -> Path:
    """Beside the file of a store; of one on a server, among this machine's temporary files, for this user alone."""
    place = str(store.place)
    beside = Path(f"{place}.uploads")
    if "://" in place or not beside.parent.is_dir():
        beside = Path(tempfile.gettempdir()) / f"prefloop-uploads-{os.getuid()}-{digest(place)}"
    beside.mkdir(mode=0o700, exist_ok=True)
    if beside.is_symlink() or beside.stat().st_uid != os.getuid():
        raise RequestError(f"{beside}: this folder is another user's; remove it, and send the file again")
    return beside


def _place(store: Store, name: str) -> Path:
    """A new folder with a name for the file in it that says what it is called, and nothing of where it goes."""
    whole = folder(store)
    sweep(whole, MOST - 1)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name.replace("\\", "/")).name)[-100:].lstrip("._-") or "file"
    path = whole / secrets.token_hex(8) / plain
    path.parent.mkdir(mode=0o700)
    return path


def sweep(whole: Path, most: int = MOST) -> None:
    """Removes what is older than a day, and the oldest of more than `most`."""
    now = time.time()
    there = sorted(whole.iterdir(), key=lambda own: own.stat().st_mtime)
    for place, own in enumerate(there):
        if now - own.stat().st_mtime > KEPT_SECONDS or place < len(there) - most:
            shutil.rmtree(own, ignore_errors=True)


def remove(path: Path) -> None:
    shutil.rmtree(path.parent, ignore_errors=True)


def path_of(store: Store, upload: str) -> Path:
    path = folder(store) / upload
    if not NAMED.fullmatch(upload) or not path.is_file():
        raise RequestError("upload: there is no such file any more; send it again")
    return path


def plainly(text: str, path: Path) -> str:
    """What went wrong with an upload, with the name that the lead knows it by."""
    return text.replace(str(path), path.name)
