"""Two or more checkpoints on the same held-out prompts, settings and seeds -> figures and one verdict.

Every run is reloaded from disk and verified. Exit codes: 0 ship, 3 reject, 4 undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop import checkpoints, config, runs
from prefloop.compare import (
    ai_judge,
    figures,
    kept,
    metrics,
    overlap,
    overoptimisation,
    people,
    question_sets,
    regressions,
    rewards,
    robustness,
    statistics,
    tasks,
    verdict,
)
from prefloop.compare.cache import Cache
from prefloop.compare.kept import Compared
from prefloop.compare.metrics import MetricsConfig
from prefloop.compare.records import HELD_OUT, PEOPLE, Contests, Judge, Question
from prefloop.compare.report import page
from prefloop.compare.screen import table
from prefloop.compare.settings import CompareConfig, HoldConfig, PromptSource
from prefloop.compare.slices import slices
from prefloop.errors import RequestError
from prefloop.generate import SamplingConfig
from prefloop.records import digest
from prefloop.store.opening import require_no_password

if TYPE_CHECKING:
    from prefloop.models import Checkpoint

REGRESSIONS = "regressions.jsonl"
SHOWN = 50  # regressions in the report; all are in the file
ANYTIME = ("no number of votes was planned (compare.planned_votes), so the interval that decides is one that holds "
           "however often it is looked at: a confidence sequence, wider than the usual interval")
PLANNED = ("{planned} votes were planned beforehand (compare.planned_votes): before they are in, nothing is decided; "
           "then the usual interval decides, up to a tenth more votes; after that one that holds at every look")


def sections() -> config.Sections:
    return {"compare": config.Section(CompareConfig), "data": config.Section(PromptSource),
            "sampling": config.Section(SamplingConfig, {"answers": 1}), "model": config.Section(HoldConfig),
            "metrics": config.Section(metrics.MetricsConfig), "judge": config.Section(ai_judge.JudgeConfig),
            "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked) -> int:
    settings, data, sampling, hold, measuring, judging, where = config.build(asked, sections())
    if settings.out:
        checkpoints.require_place(Path(settings.out) / kept.REPORT, "compare.out")
    metrics.functions(measuring)  # what cannot be imported is said now
    tasks.require(measuring)
    judge = ai_judge.named(judging, hold, cache_of(settings, where))
    require_judges(settings, judge)
    if settings.answers:
        return judged_again(asked, settings, measuring, judge, where)
    return sampled(asked, settings, data, sampling, hold, measuring, judge, where)


def cache_of(settings: CompareConfig, where: runs.RunConfig) -> Cache:
    return Cache(Path(settings.cache) if settings.cache else Path(where.root) / "answered")


def sampled(asked: config.Asked, settings: CompareConfig, data: PromptSource, sampling: SamplingConfig,
            hold: HoldConfig, measuring: MetricsConfig, judge: ai_judge.Asked | None, where: runs.RunConfig) -> int:
    from prefloop.compare.answering import Setting, answered, over_length, reader
    from prefloop.formats import snapshot

    if not data.path:
        raise RequestError("data.path is missing: name a snapshot, as `prefloop import` makes them")
    source = snapshot.read(Path(data.path))
    found, judges = contestants_of(settings), judges_of(settings)
    refuse(found, judges)
    wanted = question_sets.questions(source, settings)
    questions = question_sets.fitting(wanted, reader(found, sampling))
    if not any(one.set == HELD_OUT for one in questions):
        raise over_length(source.path, sampling)
    if measuring.perplexity and not any(one.reference for one in questions):
        raise RequestError(f"metrics.perplexity: {source.path} has no demonstrations of these prompts, so there are "
                           "no right answers to be measured")
    seen = overlap.overlaps([*found, *judges], questions)
    if not settings.allow_overlap:
        overlap.require_none(seen, questions)
    parents: dict[str, Any] = {f"run{n}": one.lineage() for n, one in enumerate(found)} | {
        "reward" if n == 0 else f"reward{n + 1}": one.lineage() for n, one in enumerate(judges)}
    with runs.start(asked, where, resumable=False, data=source.lineage(), **parents) as run:
        setting = Setting(questions, hold, sampling, cache_of(settings, where), measuring)
        contestants, held = answered(found, setting)
        scores = rewards.scored(judges, contestants, setting, held)
        near = [questions[n].prompt.id for n in sorted(seen.near | seen.exact)]
        facts = {"split": settings.split, "over_length": len(wanted) - len(questions), "sampling": asdict(sampling),
                 "hold": asdict(hold), "overlap": seen.to_json() | {"near_questions": near},
                 "proxies": [settings.reward], "swept": bool(settings.sweep),
                 "provenance": {"data": source.lineage(), **named(questions)}}
        return concluded(run, settings, measuring, judge, Compared(questions, contestants, tuple(scores), facts))


def judged_again(asked: config.Asked, settings: CompareConfig, measuring: MetricsConfig,
                 judge: ai_judge.Asked | None, where: runs.RunConfig) -> int:
    """What was answered and scored before, with the votes that have come in since. No model is loaded, but the AI
    judge that judge.path may name."""
    found = [kept.read(Path(place)) for place in settings.answers]
    compared = kept.joined(found, settings.shared_only, settings.answers)
    facts = {key: compared.facts[key] for key in ("split", "over_length", "sampling", "hold", "overlap", "proxies",
                                                  "swept", "provenance") if key in compared.facts}
    facts["provenance"] = facts["provenance"] | named(compared.questions)
    parents: dict[str, Any] = {
        f"answers{n}": {"path": place, "checksum": checkpoints.file_sha256(kept.answers_in(Path(place)))}
        for n, place in enumerate(settings.answers)}
    with runs.start(asked, where, resumable=False, **parents) as run:
        return concluded(run, settings, measuring, judge, replace(compared, facts=facts))


def require_judges(settings: CompareConfig, judge: ai_judge.Asked | None) -> None:
    """Who is to judge is there, and is told from the others: said before anything is sampled."""
    named = [*settings.second, *([settings.reward] if settings.reward else []),
             *([judge.settings.name] if judge else [])]
    twice = next((one for one in named if one == PEOPLE or named.count(one) > 1), None)
    if twice:
        raise RequestError(f"compare: two judges cannot both be called {twice!r}; what they say would be mixed up")
    missing = {"people": not settings.votes and "compare.votes names no votes",
               "ai": not judge and "judge.url and judge.path name none",
               "reward": not (settings.reward or settings.answers) and "compare.reward names none",
               "second": not (settings.second or settings.answers) and "compare.second names none"}.get(settings.by)
    if missing:
        raise RequestError(f"compare.by={settings.by}: there is no such judge, for {missing}")
    for source in settings.votes:
        if "://" in source:
            require_no_password(source, "compare.votes")
        next(iter(people.rankings([source])), None)  # it can be read


def contestants_of(settings: CompareConfig) -> list[Checkpoint]:
    """The checkpoints that are compared, verified; of a sweep what the run began from, and all that it saved."""
    from prefloop import models

    if not settings.sweep:
        return [models.resolve(path) for path in settings.runs]
    run = runs.load(Path(settings.sweep))
    policy = run.record.get("parents", {}).get("policy", {}).get("path")
    saved = checkpoints.steps(run.path)
    if not policy or not saved:
        what = "it is no run of PPO or DPO" if not policy else "it kept no checkpoints (train.save_total_limit)"
        raise RequestError(f"compare.sweep: {run.path}: {what}")
    found = [models.resolve(str(path)) for path in (policy, *saved)]
    if (run.path / "final").is_dir():
        final = models.resolve(str(run.path))
        if weights(final) not in map(weights, found):  # it usually is the last checkpoint, or the best
            found.append(final)
    return found


def weights(one: Checkpoint) -> list[str]:
    """What it weighs in: the checksums of its tensors alone."""
    return [checkpoints.file_sha256(path) for path in sorted((one.adapter or Path(one.base)).glob("*.safetensors"))]


def judges_of(settings: CompareConfig) -> list[Checkpoint]:
    from prefloop import models

    return [models.resolve(path) for path in [*([settings.reward] if settings.reward else []), *settings.second]]


def refuse(found: Sequence[Checkpoint], judges: Sequence[Checkpoint]) -> None:
    """What cannot be compared, said before a base is loaded."""
    from prefloop import models

    for keys, several in (("compare.runs", found), ("compare.reward and compare.second", judges)):
        folders = [one.folder.resolve() for one in several if one.folder]
        if len(set(folders)) < len(folders):
            raise RequestError(f"{keys}: one run is named twice, perhaps by its folder and by its final/")
    for one in found:
        if models.reward_kind(one):
            raise RequestError(f"{one.path}: a reward model writes no answers; name it as compare.reward")
    for one in judges:
        models.require_reward(one)


def named(questions: Sequence[Question]) -> dict[str, str]:
    """Digests of all that is asked, and of what the verdict is about."""
    return {"questions": digest(*(part for one in questions for part in (one.set, one.prompt.id))),
            "held_out": digest(*(one.prompt.id for one in questions if one.set == HELD_OUT))}


# -- judging ----------------------------------------------------------------------------------------------------------


def concluded(run: runs.Run, settings: CompareConfig, measuring: MetricsConfig, judge: ai_judge.Asked | None,
              compared: Compared) -> int:
    """Everybody's judgement of the answers, the figures, the verdict, and the files that tell them."""
    contestants, questions = compared.contestants, compared.questions
    opinion = judge and ai_judge.opinion(judge, contestants, questions, settings.level)
    everything, counted = asked_judges(settings, compared, opinion)
    judges = [replace(one, contests=on_held_out(one.contests, questions)) for one in everything]
    presiding = verdict.presiding(judges, settings.by)
    report = reported(settings, compared, judges, counted)
    report["by"] = presiding and presiding.name
    if opinion:
        report["judges"][opinion.judge.name] |= ai_judge.beside(opinion, judges, settings.level)
    add_metrics(report, measuring, compared, settings.level)
    worse = presiding and regressions.told_by(everything[judges.index(presiding)], compared.rewards, contestants,
                                              questions, opinion.recorded if opinion else {})
    if worse:
        report["regressions"] = regressions.figures(worse, contestants)
    said = verdict.decided(report, settings)
    report.update(verdict=said.word, line=said.line, reasons=list(said.reasons), best=said.best)
    for name, gates in said.gates.items():
        report["runs"][name]["gates"] = {gate: asdict(one) for gate, one in gates.items()}
    out = Path(settings.out) if settings.out else run.path
    (out / REGRESSIONS).unlink(missing_ok=True)  # of an earlier verdict
    if worse and said.best:
        number = [one.name for one in contestants].index(said.best)
        report["regressions"]["best"] = [one.to_json() for one in worse.found[number][:SHOWN]]
        regressions.write(out / REGRESSIONS, worse.found[number], contestants[0].name, said.best, worse.by)
    write(out, report, kept.rows(compared))
    wins = {f"win_rate {name}": own["win_rate"]["value"]
            for name, own in (report["judges"][report["by"]]["runs"].items() if report["by"] else ())}
    run.note(metrics={"verdict": said.word, **wins, "prompts": report["prompts"]}, report=str(out))
    print(f"{table(report)}\n{out / 'report.html'} shows it, with the answers that changed most")
    return verdict.EXIT[said.word]


def asked_judges(settings: CompareConfig, compared: Compared,
                 opinion: ai_judge.Opinion | None) -> tuple[list[Judge], dict[str, int]]:
    """Everybody who judges, each by themselves; and how many of people's votes counted."""
    contestants, questions = compared.contestants, compared.questions
    found, counted = [], {}
    if settings.votes:
        said, counted = people.contests(settings.votes, contestants, questions)
        found.append(Judge(PEOPLE, "people", said))
    if opinion:
        found.append(opinion.judge)
    found += [Judge(one.name, "reward", rewards.contests(one, contestants, questions),
                    one.name in compared.facts["proxies"]) for one in compared.rewards]
    return found, counted


def on_held_out(said: Contests, questions: Sequence[Question]) -> Contests:
    return said.where([questions[n].set == HELD_OUT for n in said.prompt_D])


def reported(settings: CompareConfig, compared: Compared, judges: Sequence[Judge],
             counted: dict[str, int]) -> dict[str, Any]:
    """report.json, but for the verdict."""
    questions, contestants = compared.questions, compared.contestants
    by = slices(questions, compared.facts.get("overlap", {}))
    judged = {one.name: statistics.judged(one, 0, settings.level, settings.effect, by, settings.planned_votes)
              for one in judges}
    for one in compared.rewards:
        judged[one.name] |= rewards.figures(one, contestants, questions, settings.level)
    sets = dict.fromkeys(one.set for one in questions)
    told = {one.name: figures.of_run(one, contestants[0], questions, settings.level) for one in contestants}
    swept = bool(compared.facts.get("swept"))
    return {
        "format": 2, "made": runs.now(), "baseline": contestants[0].name,
        "level": settings.level, "effect": settings.effect, **compared.facts,
        "provenance": {**compared.facts["provenance"], "prefloop": version("prefloop"), "commit": runs.commit()},
        "prompts": sum(one.set == HELD_OUT for one in questions),
        "sets": {name: sum(one.set == name for one in questions) for name in sets},
        "runs": told, "judges": judged, "votes": counted,
        "overoptimisation": overoptimisation.of_report(told, judged, settings.effect, swept),
        "peeking": {"rule": PLANNED.format(planned=settings.planned_votes) if settings.planned_votes else ANYTIME}}


def add_metrics(report: dict[str, Any], measuring: MetricsConfig, compared: Compared, level: float) -> None:
    """What needs no judge, on every set; and what variants of the questions change."""
    contestants, questions = compared.contestants, compared.questions
    measures = (metrics.measures(contestants, questions, measuring) | metrics.of_rewards(compared.rewards)
                | metrics.of_references({one.name: one.references for one in contestants}))
    found = metrics.measured(measures, [one.name for one in contestants], questions, level)
    scored = tasks.measured(contestants, level)
    for name, own in found.items():
        report["runs"][name]["metrics"] = own | scored[name]
    report["robustness"] = robustness.robustness(measures, contestants, questions, level)


def write(out: Path, report: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """answers.jsonl, report.html, and report.json last."""
    kept.write(out, rows)
    with checkpoints.replacing(out / "report.html") as file:
        file.write(page(report, rows).encode("utf-8", "backslashreplace").decode())
    checkpoints.write_json(out / kept.REPORT, report)
