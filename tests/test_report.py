"""The report that a person reads: what it shows, in which order, where marks stand, and that text stays text."""

from __future__ import annotations

import json
import math
import random
import sys
from html.parser import HTMLParser
from itertools import combinations, pairwise
from typing import Any

import pytest
from made_reports import (
    DPO,
    HOSTILE,
    LOST,
    NAMES,
    PPO,
    ROWS,
    SECTIONS,
    SFT,
    against,
    estimate,
    judged,
    run,
    told,
    whole,
)

from prefloop import pages, plots
from prefloop.compare import drawings, report, screen
from prefloop.compare.wording import LONGEST, changes, common
from prefloop.pages import Bar


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(html: str) -> Seen:
    parser = Seen()
    parser.feed(html)
    return parser


def shown(html: str) -> str:
    """The words of the body, with single spaces."""
    return " ".join(seen(html[html.index("<main>"):].replace("<", " <")).text.split())


def test_the_page_says_what_the_report_says() -> None:
    page = shown(report.page(told(peeking={"rule": "as planned"}), []))
    for words in (f"{PPO} wins 60.0%", "60.0% 50.0 to 70.0%", "at equal length 55.0% 40.0 to 70.0%",
                  "3.00 2.50 to 3.50", "1.50 ×", "votes still needed 720",
                  "The verdict goes by people alone",
                  "as planned", "2026-03-04 05:06:07 UTC", "1,234"):
        assert words in page, words
    assert "votes still needed" not in shown(report.page(told(verdict="ship"), []))


@pytest.mark.parametrize(("kind", "words"), [("reward", "prompts still needed 720"), ("ai", "pairs still needed 720")])
def test_what_more_of_is_needed_is_what_the_judge_goes_by(kind: str, words: str) -> None:
    page = shown(report.page(told(judges={"people": judged(kind)}), []))
    assert words in page
    assert "votes still needed" not in page


@pytest.mark.parametrize(("answers", "words"), [(1, "1 answer each"), (4, "4 answers each")])
def test_the_screen_counts_answers(answers: int, words: str) -> None:
    runs = {name: {**own, "cut": 0, "empty": 0} for name, own in told()["runs"].items()}
    assert words in screen.asked(told(runs=runs, sampling={"answers": answers}))


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_is_there_when_the_report_has_something_for_it(title: str) -> None:
    assert f"<h2>{title}</h2>" not in report.page(told(), [])
    assert f"<h2>{title}</h2>" in report.page(told(**SECTIONS[title]), [])


def test_the_verdicts_judge_stands_first_and_its_details_are_open() -> None:
    strengths = SECTIONS["All runs among themselves"]["judges"]["people"]["strengths"]
    page = report.page(told(judges={"gpt": judged("ai", strengths=strengths), "people": judged(strengths=strengths)}),
                       [])
    folds = [part[: part.index("</summary>")] for part in page.split("<details")[1:]]
    assert [("open" in fold, fold.rpartition(">")[2]) for fold in folds] == [(True, "people"), (False, "gpt")]


def test_what_is_known_of_a_judge_is_told() -> None:
    gpt = judged("ai", missing=7, complaint="the server is away", pairs=90, judged=80, unread=5,
                 position_bias=estimate(0.2, 0.1, 0.3), second_place=estimate(0.05, 0.0, 0.1),
                 consistent=estimate(0.75, 0.7, 0.8),
                 agreement={"pairs": 33, "share": estimate(0.6, 0.5, 0.7), "alpha": 0.345})
    counted = {"counted": 12, "gold and repeats": 3}
    page = shown(report.page(told(votes=counted, judges={"people": judged(), "gpt": gpt}), []))
    assert "not every verdict came: the server is away." in page
    for words in ("of 90 pairs it judged 80 in both orders, 75.0% 70.0 to 80.0% alike", "both times in 20.0%",
                  "60.0% 50.0 to 70.0% of 33 pairs", "α 0.345", "5 prompts without rewards",
                  "12 counted, 3 gold and repeats"):
        assert words in page, words


def test_nobody_judged_is_said() -> None:
    page = shown(report.page(told(by=None, best=None, judges={}), ROWS))
    assert "Nobody judged" in page
    assert "Win rates" not in page
    assert "Got better" not in page


def test_the_interval_of_the_verdict_stands_below_its_judge() -> None:
    wide = estimate(0.6, 0.45, 0.75)
    lanes = drawings.side_by_side({"people": judged(runs={PPO: against(0.6, decide=wide)}),
                                   "gpt": judged("ai", runs={PPO: against(0.6, decide=wide)})}, "people", NAMES)
    ((name, drawn),) = lanes
    assert name == PPO
    assert [lane.name for lane in drawn.lanes] == ["people", "what the verdict goes by", "gpt"]
    assert drawn.lanes[1].interval == "45.0 to 75.0%"


@pytest.mark.parametrize(("key", "why"), [("decide", "wider, for several candidates"),
                                          ("anytime", "may be looked at at any time")])
def test_the_tiles_show_the_intervals_that_decide(key: str, why: str) -> None:
    wide = {key: estimate(0.6, 0.45, 0.75)}
    page = shown(report.page(told(judges={"people": judged(runs={PPO: against(0.6, **wide)})}), []))
    assert f"win rate 60.0% 45.0 to 75.0% {why} at equal length 55.0% 32.5 to 77.5% {why}" in page
    assert why not in shown(report.page(told(), []))


def test_gains_go_from_the_largest_and_regressions_come_as_they_are_given() -> None:
    must = {"asked": 3, "passed": {DPO: 3, PPO: 2}, "failed": [{**LOST, "run": PPO}]}
    facts = told(regressions={"best": [LOST], "counts": {DPO: 2, PPO: 1}, "by": "runs/reward", "must_pass": must},
                 judges={"runs/reward": judged("reward")}, by="runs/reward")
    page = shown(report.page(facts, ROWS))
    assert f"passed: {DPO} 3, {PPO} 2. Failed: {PPO}: question 1" in page
    assert f"{DPO} on 2 prompts, {PPO} on 1 prompt." in page
    assert "the reward fell by 0.75" in page
    by_people = told(regressions={**facts["regressions"], "by": "people"})
    assert "lost 75% of the votes" in shown(report.page(by_people, ROWS))
    by_gpt = told(regressions={**facts["regressions"], "by": "gpt"}, judges={"gpt": judged("ai")}, by="gpt")
    assert "lost in both orders" in shown(report.page(by_gpt, ROWS))
    emptied = {**LOST, "set": "near", "emptied": True, "after": ""}
    facts["regressions"] |= {"best": [emptied], "elsewhere": {PPO: 3, DPO: 0}}
    emptier = shown(report.page(facts, ROWS))
    assert "near: became empty" in emptier
    assert "the reward fell" not in emptier
    assert f"{DPO} on 2 prompts, {PPO} on 1 prompt and 3 of other sets." in emptier
    better = page[page.index("Got better"):]
    assert better.index("reward +1.00") < better.index("question 0") < better.index("reward +0.25")
    assert "question 1" not in better


def test_a_gate_that_only_some_runs_have_keeps_its_column() -> None:
    passed, failed = {"passed": True, "detail": "by far"}, {"passed": False, "detail": "by little"}
    runs = told()["runs"]
    runs[DPO]["gates"], runs[PPO]["gates"] = {"win rate": passed}, {"KL": failed, "win rate": passed}
    page = shown(report.page(told(runs=runs), []))
    assert f"run win rate KL {DPO} passed by far – {PPO} best passed by far failed by little" in page


def test_a_run_that_wins_more_and_is_rejected_is_told_from_the_best() -> None:
    runs = told()["runs"]
    runs[DPO]["gates"] = {"win rate": {"passed": True, "detail": "wins"}, "KL": {"passed": False, "detail": "KL 9"}}
    runs[PPO]["gates"] = {"win rate": {"passed": True, "detail": "wins"}}
    more = {"people": judged(runs={DPO: against(0.9), PPO: against(0.7)})}
    page = shown(report.page(told(runs=runs, judges=more, verdict="ship"), []))
    assert f"{PPO} best that passes" in page
    assert f"{DPO} rejected : KL 9 40 held-out" in page
    runs[PPO]["gates"] |= {"length": {"passed": None, "detail": "longer"}}
    page = shown(report.page(told(runs=runs, judges=more), []))
    assert f"{PPO} best that may pass" in page
    assert f"{PPO} open : longer" in page
    runs[DPO]["gates"] |= {"plan": {"passed": None, "detail": "3 of 9 votes"}}
    assert screen.state(runs[DPO]["gates"]) == "undecided"
    assert "best that" not in shown(report.page(told(), []))


def test_the_table_of_judges_counts_voters_of_people_alone_and_more_while_more_is_needed() -> None:
    page = shown(report.page(told(judges={"people": judged(), "gpt": judged("ai")}), []))
    assert "people people the verdict goes by it 1,234 1,234 3 0 64 1.25 62.5% 720" in page
    assert "gpt AI judge 1,234 – – 0 64 1.25 62.5% 720" in page
    wins = judged("reward", runs={PPO: against(0.9)})
    page = shown(report.page(told(judges={"runs/reward": wins}, by="runs/reward"), []))
    assert "judge contests missing decisive design effect finds win rates from runs/reward" in page
    assert "The last three are of" in page


def test_many_runs_are_shown_by_judge() -> None:
    runs = {f"runs/ppo/checkpoint-{n}": against(0.5 + n / 100) for n in range(1, 6)}
    judges = {"people": judged(runs=runs), "gpt": judged("ai", runs=runs)}
    assert [title for title, _ in drawings.side_by_side(judges, "people", runs)] == ["people", "gpt"]
    assert [title for title, _ in drawings.side_by_side(judges, "people", list(runs)[:4])] == list(runs)[:4]


def test_metrics_have_a_column_for_every_set_but_the_variants() -> None:
    sets = {of: {"rouge_l": {**estimate(0.5, 0.4, 0.6), "gap": estimate(-0.1, -0.2, 0.0)}} for of in (
        "held out", "near", "typos")}
    facts = told(best=None, runs={"runs/sft": {**told()["runs"]["runs/sft"], "metrics": sets}},
                 robustness={"runs/sft": {"typos": {"rouge_l": estimate(-0.1, -0.2, 0.0)}}})
    (metric,) = report.tables(report.by_metric(facts))
    assert (metric.title, metric.columns) == ("rouge_l", ["held out", "near"])
    assert "gap -0.100, -0.200 to 0.000" in shown(report.page(facts, []))
    del sets["near"]
    (alone,) = report.tables(report.by_metric(facts))
    assert (alone.title, alone.columns) == ("held out", ["rouge_l"])


def test_where_all_prompts_are_alike_there_is_no_interval() -> None:
    same, moved = estimate(0.0, 0.0, 0.0), estimate(0.5, 0.5, 0.5 + 1e-12)
    figures = {"than": {**same, "prompts": 40}, "refusal": {**estimate(0.1, 0.0, 0.2), "prompts": 40, "gain": same},
               "length": {**estimate(9.0, 9.0, 9.0), "prompts": 40, "gain": moved, "gap": estimate(0.5, 0.4, 0.6)}}
    page = shown(report.page(told(runs={SFT: run(metrics={"held out": figures})}, best=None), []))
    assert "0.100 0.000 to 0.200 gain 0.000, no difference seen in 40" in page.replace("+", "")
    assert "0.000 the same in 40 0.100" in page
    assert "9.00 the same in 40 gain +0.500, the same in 40 gap +0.500, 0.400 to 0.600" in page
    assert drawings.reward_note({"gain": {PPO: same}}, PPO).endswith("(no difference seen)")


def test_one_is_counted_as_one() -> None:
    fifth = {"low": 1.0, "high": 1.001, "win_rate": estimate(0.4, 0.2, 0.6), "prompts": 1}
    piece = {"by": "stratum", "name": "chat", "prompts": 1, "win_rate": estimate(0.4, 0.2, 0.6)}
    one = judged(runs={PPO: against(0.6, prompts=1, quintiles=[fifth], slices=[piece])}, unread=1)
    page = shown(report.page(told(prompts=1, judges={"people": one}, regressions={"counts": {PPO: 1}}), []))
    assert "1 prompts" not in page
    assert page.count("1 prompt ") >= 5
    assert "1.00 times as long" in page
    assert "1.00 to" not in page


def test_each_snapshot_that_was_learned_from_is_told_once() -> None:
    rows = [{"run": run, "by": by, "snapshot": "data/rankings", "exact": 0, "near": 2}
            for run, by in ((PPO, PPO), (PPO, "runs/reward"), (DPO, DPO))]
    overlap = {"exact": 0, "near": 2, "in": rows, "unchecked": []}
    page = shown(report.page(told(overlap=overlap, provenance={"prefloop": "0.1.0"}), []))
    assert f"2 nearly 0 and 2 in data/rankings, which {PPO}, {DPO} learned from" in page
    assert page.count("data/rankings") == 1


def test_brackets_are_explained_where_there_are_some() -> None:
    facts = SECTIONS["All runs among themselves"]["judges"]["people"]["strengths"]
    page = shown(report.page(told(judges={"people": judged(strengths=facts)}), []))
    assert "In brackets the places that the contests leave open." in page
    sure = {name: {**own, "rank_low": own["rank"], "rank_high": own["rank"]} for name, own in facts.items()}
    assert "In brackets" not in shown(report.page(told(judges={"people": judged(strengths=sure)}), []))


def test_hostile_text_stays_text_everywhere() -> None:
    def poisoned(value: Any) -> Any:
        """Every word and every name of the report is hostile."""
        if isinstance(value, dict):
            return {HOSTILE + key if key in NAMES or key in ("people", "rouge_l", "typos", "held out") else key:
                    poisoned(one) for key, one in value.items()}
        if isinstance(value, list):
            return [poisoned(one) for one in value]
        return HOSTILE + value if isinstance(value, str) else value

    facts = whole()
    html = report.page(poisoned(facts), [poisoned(one) for one in ROWS])
    page = seen(html)
    assert HOSTILE in page.text
    assert not {"script", "img", "iframe", "link", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]


def test_marks_that_turn_the_writing_are_spelled_out_in_names_and_stay_in_texts() -> None:
    turned, arabic = "runs/\u202eopp", "\u0646\u0639\u0645\u200f!"
    facts = json.loads(json.dumps(whole()).replace("runs/ppo", turned).replace("a dark night", arabic))
    page = report.page(facts, [])
    assert "\u202e" not in page
    assert "runs/U+202Eopp wins 60.0%" in page
    assert arabic in "".join(page.split("<del>"))


@pytest.mark.parametrize(("before", "after", "went", "came"), [
    ("a b c", "a x c", "b ", "x "),
    ("", "new", "", "new"),
    ("same  words", "same words", "", ""),  # spaces alone are no change
    ("one\ntwo", "one\ntwo three", "", "three"),
])
def test_word_differences(before: str, after: str, went: str, came: str) -> None:
    old, new = changes(before, after)
    assert ["".join(one.text for one in parts) for parts in (old, new)] == [before, after]
    assert ["".join(one.text for one in parts if one.changed) for parts in (old, new)] == [went, came]


def test_the_work_of_a_difference_grows_with_its_words_however_often_they_repeat() -> None:
    lines = 0

    def traced(*_: Any) -> Any:
        nonlocal lines
        lines += 1
        return traced if lines < 100_000 else None

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        old, new = changes("a " * 800, "a b " * 400)
    finally:
        sys.settrace(before)
    assert lines < 50_000
    assert sum(one.text.count("a") for one in old if not one.changed) == 400
    assert {one.text for one in new if one.changed} == {"b "}


@pytest.mark.parametrize("seed", range(20))
def test_as_many_words_stay_as_can(seed: int) -> None:
    draw = random.Random(seed)
    one, other = ([draw.choice("abc") for _ in range(draw.randrange(12))] for _ in range(2))
    pairs = common(one, other)[::-1]
    assert all(one[a] == other[b] for a, b in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    longest = next(size for size in range(len(one), -1, -1)
                   if set(combinations(one, size)) & set(combinations(other, size)))
    assert len(pairs) == longest


def test_a_text_that_is_too_long_to_compare_stays_whole() -> None:
    old, new = changes("a " * (LONGEST + 1), "b")
    assert [[one.changed for one in parts] for parts in (old, new)] == [[False], [False]]


def test_small_slices_are_folded_and_coloured_and_large_ones_stand_first() -> None:
    slices = [{"by": "stratum", "name": name, "prompts": prompts, "win_rate": estimate(0.6, 0.5, 0.7),
               "adjusted": 0.01, "coloured": coloured}
              for name, prompts, coloured in (("a", 31, False), ("b", 12, False), ("c", 90, False), ("d", 30, True))]
    ((by, large, small),) = drawings.by_slice({"slices": slices})
    assert large is not None
    assert small is not None
    assert (by, [one.name for one in large.lanes], [one.name for one in small.lanes]) == (
        "stratum", ["d", "c", "a"], ["b"])
    page = report.page(told(judges={"people": judged(runs={PPO: against(0.6, slices=slices)})}), [])
    assert "<details><summary>1 of under 30 prompts</summary>" in page


@pytest.mark.parametrize(("values", "share", "words"), [
    ([0.53, 0.61], True, ["50%", "55%", "60%", "65%"]),
    ([0.0, 1.0], True, ["0%", "20%", "40%", "60%", "80%", "100%"]),
    ([0.501, 0.502], True, ["50.10%", "50.12%", "50.14%", "50.16%", "50.18%", "50.20%"]),
    ([-3.0, 7.5], False, ["-5", "0", "5", "10"]),
    ([1200.0, 1300.0], False, ["1200", "1220", "1240", "1260", "1280", "1300"]),
])
def test_axes_have_round_ticks_and_hold_every_value(values: list[float], share: bool, words: list[str]) -> None:
    axis = plots.numbers(values, share, hold=(0.5,) if values[0] == 0.53 else ())
    assert [word for _, word in axis.ticks] == words
    assert all(axis.holds(value) for value in values)
    assert axis.ticks[0][0] == 0.0
    assert axis.ticks[-1][0] == pytest.approx(100.0)


@pytest.mark.parametrize("values", [[], [0.0], [5.0, 5.0], [math.nan, math.inf], [-1e-12, 1e-12], [1e9, 1e9 + 1],
                                    [1e300, -1e300], [1.7e308, -1.7e308]])
def test_an_axis_has_a_length_whatever_it_is_given(values: list[float]) -> None:
    axis = plots.numbers(values)
    assert axis.least < axis.most
    assert len({word for _, word in axis.ticks}) >= 2
    assert max(len(word) for _, word in axis.ticks) <= 14
    assert 0.0 <= axis.at(1e12) <= 100.0


@pytest.mark.parametrize(("days", "first"), [(0.0, "12:00"), (0.2, "12:00"), (3.0, "10 Mar"), (60.0, "26 Mar"),
                                             (4000.0, "17 Dec 2029")])
def test_times_have_round_ticks(days: float, first: str) -> None:
    noon = 1_773_057_600.0  # 9 March 2026, 12:00 UTC
    axis = plots.times([noon, noon + 86400 * days])
    assert first in [word for _, word in axis.ticks]
    assert 1 <= len(axis.ticks) <= 7
    assert axis.least < noon <= noon + 86400 * days < axis.most


@pytest.mark.parametrize(("hours", "words"), [(2, ["23:00", "01 Jan", "01:00"]), (26, ["01 Jan", "12:00", "02 Jan"])])
def test_midnight_is_told_by_its_date(hours: int, words: list[str]) -> None:
    eve = 1_798_758_000.0  # 31 December 2026, 23:00 UTC
    assert [word for _, word in plots.times([eve, eve + 3600 * hours]).ticks] == words


def test_marks_stand_where_the_numbers_say() -> None:
    assert Bar.of(estimate(0.75, 0.5, 1.0)) == Bar(50.0, 75.0, 100.0)
    assert Bar.of(estimate(1.0, 0.0, 2.0), -1.0, 3.0) == Bar(25.0, 50.0, 75.0)
    drawn = drawings.win_rates([drawings.Row("a", estimate(0.6, 0.5, 0.7))])
    assert drawn is not None
    assert (drawn.axis.least, drawn.axis.most) == pytest.approx((0.5, 0.7))
    assert drawn.lanes[0].span == pytest.approx((0.0, 50.0, 100.0))
    axis = plots.numbers([0.0, 1.0])
    assert [(one.left, one.height) for one in drawings.blocks(axis, [0.0, 0.5, 1.0], [1, 3], 0.75)] == [
        (0.0, pytest.approx(100 / 3)), (pytest.approx(50.0), pytest.approx(100.0))]


@pytest.mark.parametrize(("prompts", "value", "coloured", "tone"), [
    (29, 0.9, True, "faint"), (30, 0.9, True, "ship"), (30, 0.1, True, "reject"), (300, 0.9, False, "plain")])
def test_small_slices_have_no_colour(prompts: int, value: float, coloured: bool, tone: str) -> None:
    assert drawings.tone_of({"prompts": prompts, "win_rate": {"value": value}, "coloured": coloured}) == tone


@pytest.mark.parametrize(("value", "words"), [
    (0.0, "0.000"), (0.1234, "0.123"), (9.876, "9.88"), (98.76, "98.8"), (1234.5, "1,234"), (2e-5, "2e-05"),
    (0.000561, "0.00056"), (None, "–"), (math.nan, "–")])
def test_numbers_have_three_figures(value: float | None, words: str) -> None:
    assert pages.number(value) == words
