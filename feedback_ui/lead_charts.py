"""The charts' routes: what the lead's page draws, and the same as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.exceptions import HTTPException

from . import bodies, charts
from .charts import Chart
from .lead_quality import Facts
from .rating_web import Who

Model = Callable[[str | None], Mapping[str, Any]]  # of a campaign, or of all
KINDS = {"svg": "image/svg+xml", "csv": "text/csv; charset=utf-8"}


class Wanted(bodies.Body):
    campaign: str | None = Field(None, max_length=bodies.NAME)
    rater: str | None = Field(None, max_length=bodies.NAME)
    names: list[str] = Field(max_length=20)
    width: int = Field(ge=1, le=4000)


def routes(app: FastAPI, lead_of: Who, known: Facts, model: Model) -> None:
    def found(names: list[str], campaign: str | None, rater: str | None) -> list[Chart]:
        made = {name: made for name, work in _works(known, campaign, rater, model).items()
                if name in names and (made := work()) is not None}
        return [made[name] for name in names if name in made]

    @app.post("/api/lead/charts")
    def drawn(request: Request, body: Wanted) -> dict[str, Any]:
        """Those of these names of which anything is known, in this order."""
        lead_of(request)
        return {"charts": [{"name": one.name, "title": one.title, "note": one.note,
                            "svg": charts.svg(one, body.width, alone=False)}
                           for one in found(body.names, body.campaign, body.rater)]}

    @app.get("/api/lead/chart/{name}.{kind}")
    def file(request: Request, name: str, kind: Literal["svg", "csv"], campaign: str | None = None,
             rater: str | None = None) -> Response:
        lead_of(request)
        one = next(iter(found([name], campaign, rater)), None)
        if one is None:
            raise HTTPException(404, "there is no such chart, or nothing to draw yet")
        text = charts.svg(one) if kind == "svg" else charts.table(one)
        return Response(text, media_type=KINDS[kind],
                        headers={"content-disposition": f'attachment; filename="prefloop-{one.name}.{kind}"'})


def _works(known: Facts, campaign: str | None, rater: str | None, model: Model,
           ) -> dict[str, Callable[[], Chart | None]]:
    """How each chart is made. Nothing is read for those that nobody asks for."""
    def went(name: str, title: str, unit: str, note: str = "", share: bool = True, hold: tuple[float, ...] = (),
             level: float | None = None) -> tuple[str, Callable[[], Chart | None]]:
        return name, lambda: charts.over_time(name, title, note, unit, known.of(campaign, rater)["over_time"], name,
                                              share, hold, level)

    return {"answers": lambda: charts.answers_a_day(known.days(campaign)), **dict([
        went("alpha", "Agreement over time", "Krippendorff's alpha", charts.ALPHA,
             share=False, hold=(0, 1), level=0.0),
        went("percent", "Pairs on which two raters agree", "share of pairs", hold=(0.5, 1)),
        went("agreement", "Agreement with others", "share of pairs", hold=(0.5, 1), level=0.5),
        went("gold", "Gold items right", "share of items", hold=(0.5, 1)),
        went("accepted", "Answers accepted", "share of answers", hold=(0.8, 1)),
        went("ties", "Ties", "share of pairs", hold=(0, 0.2)),
        went("left", "Won by the answer shown first", "share of decided pairs", "One half, if place says nothing.",
             hold=(0.4, 0.6), level=0.5),
        went("seconds", "Time for an item", "seconds, median", share=False, hold=(0,)),
    ]), "strata": lambda: charts.by_stratum(known.of(campaign, rater)["agreement"]["by_stratum"]),
        "guidelines": lambda: charts.by_guideline(known.of(campaign, rater)["agreement"]["by_guideline"]),
        "model": lambda: charts.over_time("model", "Model and people agree", "Answers given before the model's order "
                                          "was shown.", "share of pairs", model(campaign)["over_time"], "agree",
                                          hold=(0.5, 1), level=0.5),
        "confidence": lambda: charts.by_confidence(model(campaign)["by_confidence"])}

