"""Leads take rankings out and in on their page, in the forms that the commands know."""

from __future__ import annotations

import tempfile
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.background import BackgroundTask

from prefloop.errors import RequestError
from prefloop.formats import arriving, leaving
from prefloop.formats.importing import one_of
from prefloop.formats.layouts import LAYOUTS
from prefloop.formats.losses import FACTS
from prefloop.store import Store
from prefloop.store.exports import head

from . import bodies, data_in, data_out, uploads
from .rating_web import Who

FOLDER = "datasets"  # which a browser cannot save


class Losses(bodies.Body):
    format: str = Field(max_length=bodies.TOKEN)
    campaign: str | None = Field(None, max_length=bodies.NAME)
    surplus: bool = False
    decisions: bool = True


class Import(bodies.Body):
    upload: str = Field(max_length=bodies.NAME)
    campaign: str = Field(max_length=bodies.NAME)
    format: str = Field(arriving.AUTO, max_length=bodies.TOKEN)
    kind: str = Field("auto", max_length=bodies.TOKEN)
    take: Literal["rankings", "items"] = "rankings"
    raters_per_item: int | None = None


def routes(app: FastAPI, store: Store, lead_of: Who) -> None:
    uploads.routes(app, store, lead_of)
    _incoming(app, store, lead_of)
    measured: dict[tuple[str, data_out.Which], tuple[str, leaving.Left]] = {}

    @app.get("/api/lead/formats")
    def formats(request: Request) -> dict[str, Any]:
        lead_of(request)
        return {"formats": [{"name": name, "words": own.words, "kinds": [kind for kind in own.kinds if kind != FOLDER],
                             "holds_not": [fact.lost for key, fact in FACTS.items() if key not in own.holds]}
                            for name, own in LAYOUTS.items()],
                "readable": list(arriving.NAMES)}

    @app.post("/api/lead/losses")
    def losses(request: Request, body: Losses) -> dict[str, Any]:
        """What an export would leave out; counted anew once something has changed."""
        lead_of(request)
        one_of("format", body.format, tuple(LAYOUTS), "export")
        which = data_out.Which(body.campaign, surplus=body.surplus, decisions=body.decisions)
        now, before = head(store), measured.get((body.format, which))
        made = before[1] if before and before[0] == now else leaving.measure(body.format, which.rankings(store))
        measured[body.format, which] = now, made
        return {"rankings": made.rankings, "raters": len(made.raters),
                "lost": [{"what": FACTS[name].lost, "count": made.lost[name]} for name in FACTS if made.lost[name]]}

    @app.get("/api/lead/export")
    def export(request: Request, format: str = "rankings", kind: str | None = None, campaign: str | None = None,
               raters: str = "pseudonyms", surplus: bool = False, decisions: bool = True) -> FileResponse:
        who = lead_of(request)
        one_of("format", format, tuple(LAYOUTS), "export")
        one_of("raters", raters, data_out.RATERS, "export")
        kind = leaving.kind_for(format, Path(), kind)
        if kind == FOLDER:
            raise RequestError("export.kind: a folder for `datasets` cannot be downloaded; parquet holds the same, "
                               "and `prefloop feedback export` writes the folder")
        name = f"{campaign or 'all'}-{format}.{kind}"
        scratch = tempfile.TemporaryDirectory(prefix="prefloop-export-")
        try:
            path = Path(scratch.name) / f"rankings.{kind}"
            which = data_out.Which(campaign, raters, surplus, decisions)
            data_out.sent(store, path, format, kind, which, who, "downloaded")
        except BaseException:
            scratch.cleanup()
            raise
        return FileResponse(path, filename=name, media_type="application/octet-stream",
                            background=BackgroundTask(scratch.cleanup))


def _incoming(app: FastAPI, store: Store, lead_of: Who) -> None:
    at_it = Lock()

    @app.post("/api/lead/import")
    def take(request: Request, body: Import) -> dict[str, Any]:
        """All of an upload, which is then no longer kept, or nothing; one at a time, for raters wait on each."""
        who = lead_of(request)
        path = uploads.path_of(store, body.upload)
        wanted = data_in.ImportConfig(path=str(path), format=body.format, kind=body.kind, take=body.take,
                                      raters_per_item=body.raters_per_item)
        if not at_it.acquire(blocking=False):
            raise RequestError("another import is under way; wait for that")
        try:
            said = data_in.received(store, body.campaign, wanted, who)
        except RequestError as error:
            raise RequestError(uploads.plainly(str(error), path)) from None
        finally:
            at_it.release()
        uploads.remove(path)
        return {"said": said}
