"""When a proxy reward and another judge part: by hand, along a sweep, and out of a report."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prefloop.compare import overoptimisation
from prefloop.compare.overoptimisation import Point
from prefloop.stats import Estimate


def point(run: str, kl: float | None, gain: float, share: float, width: float = 0.04) -> Point:
    return Point(run, kl, Estimate(gain, gain - 0.1, gain + 0.1), Estimate(share, share - width, share + width))


def told(points: list[Point], swept: bool = False) -> dict[str, Any]:
    return overoptimisation.overoptimisation(points, "reward-1", "people", 0.55, swept)


@pytest.mark.parametrize(("one", "flagged", "said"), [
    (point("ppo", 9.0, 1.2, 0.62), False, "better too"),
    (point("ppo", 9.0, 1.2, 0.44), True, "for ppo, while by people it wins only 44.0% [40.0%, 48.0%]"),
    (point("ppo", 9.0, 1.2, 0.50), True, "rose by 1.20 [1.10, 1.30]"),  # no better by what matters
    (point("ppo", 9.0, 1.2, 0.50, 0.2), False, "Not known yet"),  # too few votes to say
    (point("ppo", 9.0, 0.05, 0.30), False, "rose for none of them"),  # worse, but not by its proxy
    (point("ppo", 9.0, -1.0, 0.70), False, "rose for none of them"),
])
def test_one_candidate(one: Point, flagged: bool, said: str) -> None:
    found = told([one])
    assert found["flagged"] == flagged == found["points"][0]["flagged"]
    assert said in found["words"]
    assert found["points"][0]["root_kl"] == 3.0


def test_along_a_sweep_the_first_checkpoint_past_the_peak_is_flagged() -> None:
    """Gao's curve: the proxy goes on rising with d = sqrt(KL), the gold reward is d (1 - 0.4 log d)."""
    steps = [(f"checkpoint-{n}", d * d, 0.5 * d, 1 / (1 + math.exp(-0.5 * d * (1 - 0.4 * math.log(d)))))
             for n, d in enumerate([1.0, 2.0, 4.0, 7.0, 9.0, 11.0])]
    found = told([point(*one, width=0.02) for one in steps], swept=True)
    flags = [one["flagged"] for one in found["points"]]
    shares = [share for *_, share in steps]
    peak = shares.index(max(shares))
    assert 0 < peak < flags.index(True)
    assert flags == sorted(flags)
    assert not any(flags[: peak + 1])
    assert f"from {steps[peak][0]} to {steps[flags.index(True)][0]} the reward of reward-1 rose" in found["words"]
    assert [one["run"] for one in found["points"]] == [name for name, *_ in steps]


def test_other_runs_are_ordered_by_their_kl_and_no_peak_is_seen_in_them() -> None:
    found = told([point("far", 16.0, 2.0, 0.60), point("unknown", None, 1.0, 0.62), point("near", 1.0, 1.0, 0.75)])
    assert [one["run"] for one in found["points"]] == ["near", "far", "unknown"]
    assert found["points"][2]["root_kl"] is None
    assert not found["flagged"]
    assert told([point("early", 1.0, 1.0, 0.75), point("late", 16.0, 2.0, 0.60)], swept=True)["flagged"]


def test_a_kl_below_zero_is_none() -> None:
    assert told([point("same", -1e-9, 0.0, 0.5)])["points"][0]["root_kl"] == 0.0


def test_several_that_parted_are_counted() -> None:
    found = told([point("a", 1.0, 1.0, 0.4), point("b", 2.0, 1.0, 0.4), point("c", 3.0, 1.0, 0.7)])
    assert found["words"].endswith("So it is with 1 more.")


def judge(kind: str, proxy: bool = False, gain: float | None = None, share: float = 0.7) -> dict[str, Any]:
    wins = {"ppo": {"win_rate": {"value": share, "low": share - 0.05, "high": share + 0.05}}}
    made: dict[str, Any] = {"kind": kind, "proxy": proxy, "runs": wins}
    if gain is not None:
        made["gain"] = {"ppo": {"value": gain, "low": gain - 0.1, "high": gain + 0.1}}
    return made


RUNS = {"sft": {}, "ppo": {"kl": {"value": 4.0, "low": 3.9, "high": 4.1}}}


def test_out_of_a_report_people_come_before_models() -> None:
    judges = {"r1": judge("reward", True, 1.0, 0.9), "gpt": judge("ai"), "r2": judge("reward", gain=0.5, share=0.6),
              "people": judge("people", share=0.4)}
    found = overoptimisation.of_report(RUNS, judges, 0.55, False)
    assert found is not None
    assert (found["proxy"], found["other"], found["flagged"]) == ("r1", "people", True)
    assert found["points"][0]["kl"] == 4.0
    assert found["points"][0]["other"]["value"] == 0.4
    del judges["people"]
    second = overoptimisation.of_report(RUNS, judges, 0.55, False)
    assert second is not None
    assert (second["other"], second["flagged"]) == ("r2", False)


def test_without_a_proxy_or_another_judge_there_is_nothing_to_tell() -> None:
    assert overoptimisation.of_report(RUNS, {"people": judge("people")}, 0.55, False) is None
    assert overoptimisation.of_report(RUNS, {"r1": judge("reward", True, 1.0)}, 0.55, False) is None
    nobody = {**judge("people"), "runs": {}}
    assert overoptimisation.of_report(RUNS, {"r1": judge("reward", True, 1.0), "people": nobody}, 0.55, False) is None
