"""Two or more checkpoints on the same held-out prompts, settings and seeds -> figures and one verdict.

Every run is reloaded from disk and verified. Exit codes: 0 ship, 3 reject, 4 undecided.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop import checkpoints, config, runs
from prefloop.compare.answering import Contestant, answered, refuse, shared_prompts
from prefloop.compare.figures import judge
from prefloop.compare.report import page
from prefloop.compare.settings import CompareConfig, HoldConfig, PromptSource
from prefloop.generate import SamplingConfig

if TYPE_CHECKING:
    from prefloop.records import Prompt

EXIT = {"ship": 0, "reject": 3, "undecided": 4}


def sections() -> config.Sections:
    return {"compare": config.Section(CompareConfig), "data": config.Section(PromptSource),
            "sampling": config.Section(SamplingConfig, {"answers": 1}), "model": config.Section(HoldConfig),
            "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked) -> int:
    from prefloop import models
    from prefloop.formats import snapshot

    settings, data, sampling, hold, where = config.build(asked, sections())
    source = snapshot.read(Path(data.path))
    found = [models.resolve(path) for path in settings.runs]
    reward = models.resolve(settings.reward) if settings.reward else None
    refuse(found, reward)
    if settings.out:
        checkpoints.require_place(Path(settings.out) / "report.json", "compare.out")
    prompts, over_length = shared_prompts(source, found, settings.split, settings.limit, sampling)
    parents: dict[str, Any] = {f"run{n}": one.lineage() for n, one in enumerate(found)}
    if reward:
        parents["reward"] = reward.lineage()
    with runs.start(asked, where, resumable=False, data=source.lineage(), **parents) as run:
        contestants = answered(found, reward, prompts, hold, sampling)
        report = {"prompts": len(prompts), "over_length": over_length, "split": settings.split,
                  "unread": contestants[0].unread, "level": settings.level, "reward": settings.reward,
                  "sampling": asdict(sampling), "baseline": settings.runs[0], **judge(contestants, settings.level)}
        out = Path(settings.out) if settings.out else run.path
        write(out, report, prompts, contestants)
        wins = {f"win_rate {name}": own["win_rate"]["value"] for name, own in report["runs"].items()
                if "win_rate" in own}
        run.note(metrics={"verdict": report["verdict"], **wins, "prompts": len(prompts)}, report=str(out))
        print(f"{table(report)}\n{out / 'report.html'} shows it, with the answers that changed most")
    return EXIT[report["verdict"]]


def write(out: Path, report: dict[str, Any], prompts: list[Prompt], contestants: list[Contestant]) -> None:
    """report.json, report.html, and answers.jsonl with one row per prompt: every run's answers, and their rewards."""
    rows = answer_rows(prompts, contestants)
    with checkpoints.replacing(out / "answers.jsonl") as file:
        file.writelines(map(runs.line, rows))
    with checkpoints.replacing(out / "report.html") as file:
        file.write(page(report, rows).encode("utf-8", "backslashreplace").decode())
    checkpoints.write_json(out / "report.json", report)


def answer_rows(prompts: list[Prompt], contestants: list[Contestant]) -> list[dict[str, Any]]:
    texts = {one.name: one.texts() for one in contestants}
    rows = []
    for n, prompt in enumerate(prompts):
        rewards = {one.name: one.rewards[n] for one in contestants if one.rewards and one.rewards[n]}
        rows.append({"prompt": prompt.to_json(), "answers": {name: own[n] for name, own in texts.items()},
                     **({"rewards": rewards} if rewards else {})})
    return rows


def table(report: dict[str, Any]) -> str:
    """One screen."""
    names = list(report["runs"])
    width = max(24, *map(len, names))
    over = f" ({report['over_length']} over length left out)" if report["over_length"] else ""
    if report["unread"]:
        over += f" ({report['unread']} without rewards: an answer is longer than the reward model reads)"
    lines = [f"{report['prompts']} prompts of split {report['split']}{over}, {report['sampling']['answers']} answers "
             f"each, {report['level']:.0%} intervals",
             f"{'run':{width}} {'tokens':>7} {'ended':>6}  {'KL from baseline':20}  {'reward':21}  win rate"]
    for name, own in report["runs"].items():
        cells = [interval(own.get(key), form) for key, form in (("kl", ".2f"), ("reward", ".2f"), ("win_rate", ".1%"))]
        lines.append(f"{name:{width}} {own['mean_length']:7.1f} {own['ended']:6.0%}  {cells[0]:20}  {cells[1]:21}  "
                     f"{cells[2]}")
    return "\n".join([*lines, report["line"]])


def interval(estimate: dict[str, float] | None, form: str) -> str:
    if estimate is None:
        return "-"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"
