"""Two or more checkpoints on the same held-out prompts, settings and seeds -> figures and one verdict.

Every run is reloaded from disk and verified. Exit codes: 0 ship, 3 reject, 4 undecided.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefloop import checkpoints, config, runs, stats
from prefloop.errors import RequestError, RunError
from prefloop.generate import SamplingConfig
from prefloop.report import page

if TYPE_CHECKING:
    from torch import nn

    from prefloop.chat import Chat
    from prefloop.formats.snapshot import Snapshot
    from prefloop.models import Checkpoint, ModelConfig
    from prefloop.records import Prompt

EXIT = {"ship": 0, "reject": 3, "undecided": 4}


@dataclass(frozen=True)
class CompareConfig:
    """`compare:`. The first of `runs` is the baseline. `out` is a folder; without it the files go to the run's."""

    runs: list[str] = field(default_factory=list)
    reward: str = ""
    out: str = ""
    split: str = "test"
    limit: int | None = 200
    level: float = 0.95

    def __post_init__(self) -> None:
        if len(self.runs) < 2 or not all(isinstance(one, str) and one for one in self.runs):
            raise ValueError("compare.runs names two or more runs, the baseline first: compare.runs=[runs/a,runs/b]")
        places = [str(Path(one).resolve()) for one in self.runs]
        twice = next((one for n, one in enumerate(self.runs) if places[n] in places[:n]), None)
        if twice:
            raise ValueError(f"compare.runs names {twice} twice")
        if self.limit is not None and self.limit < 1:
            raise ValueError("compare.limit is at least 1")
        if not 0 < self.level < 1:
            raise ValueError("compare.level is between 0 and 1")


@dataclass(frozen=True)
class PromptSource:
    """`data:` names the snapshot whose prompts are answered."""

    path: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("data.path is missing: name a snapshot, as `prefloop import` makes them")


@dataclass(frozen=True)
class HoldConfig:
    """`model:` says how the bases are held; which they are, the runs say."""

    four_bit: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclass
class Contestant:
    """One run, and what was found out about it. Every list has one entry per prompt, with one number per answer;
    rewards have none where somebody's answer is longer than the reward model reads."""

    name: str
    checkpoint: Checkpoint
    chat: Chat
    role: str | None
    ids: list[list[list[int]]]
    own_logprobs: list[list[float]]
    baseline_logprobs: list[list[float]] | None = None
    rewards: list[list[float]] | None = None
    spreads: list[list[float]] | None = None

    @property
    def unread(self) -> int:
        """Prompts without rewards, which are the same for all."""
        return sum(not own for own in self.rewards or ())

    def texts(self) -> list[list[str]]:
        return [[self.chat.text(ids) for ids in own] for own in self.ids]


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


def refuse(found: list[Checkpoint], reward: Checkpoint | None) -> None:
    """What cannot be compared, said before a base is loaded."""
    from prefloop import models

    folders = [one.folder.resolve() for one in found if one.folder]
    if len(set(folders)) < len(folders):
        raise RequestError("compare.runs names one run twice, by two paths: its folder and its final/")
    for one in found:
        if models.reward_kind(one):
            raise RequestError(f"{one.path}: a reward model writes no answers; name it as compare.reward")
    if reward:
        models.require_reward(reward)


def shared_prompts(source: Snapshot, found: list[Checkpoint], split: str, limit: int | None,
                   sampling: SamplingConfig) -> tuple[list[Prompt], int]:
    """The split's first prompts that fit every run's tokenizer, and how many did not."""
    from prefloop import models

    wanted = source.prompts_of(split)[:limit]
    if not wanted:
        raise RequestError(f"{source.path}: it has no prompts in split {split!r}")
    chats = [models.load_chat(one) for one in found]
    fitting = [prompt for prompt in wanted
               if all(len(chat.prompt_ids(prompt)) <= sampling.max_prompt_tokens for chat in chats)]
    if not fitting:
        raise RequestError(f"{source.path}: every prompt is over "
                           f"sampling.max_prompt_tokens={sampling.max_prompt_tokens}")
    return fitting, len(wanted) - len(fitting)


def answered(found: list[Checkpoint], reward: Checkpoint | None, prompts: list[Prompt], hold: HoldConfig,
             sampling: SamplingConfig) -> list[Contestant]:
    """Every run's answers, base by base; the baseline's last, for then it can read what all the others wrote."""
    made: dict[str, Contestant] = {}
    for base in {one.base_checksum: one for one in found[1:] if one.base_checksum != found[0].base_checksum}:
        made |= on_base(found, base, prompts, hold, sampling)[1]
    model: Any
    model, own = on_base(found, found[0].base_checksum, prompts, hold, sampling)
    made |= own
    baseline, *others = everyone = [made[one.path] for one in found]
    for one in others:
        # Greedy answers are no sample of anything, and a KL is between two that read and write the same tokens.
        if sampling.temperature and same_tokens(one.chat, baseline.chat, prompts):
            one.baseline_logprobs = logprobs(model, baseline.role, one, prompts, sampling)
    if reward:
        if not reward.adapter or reward.base_checksum != found[0].base_checksum:
            model = None  # it makes room for the reward model's own
        score(reward, everyone, prompts, model_config(reward, hold), model)
    return everyone


def on_base(found: list[Checkpoint], base: str, prompts: list[Prompt], hold: HoldConfig,
            sampling: SamplingConfig) -> tuple[nn.Module, dict[str, Contestant]]:
    """A base with the adapters of all the runs that stand on it, and what these runs answered."""
    own = [one for one in found if one.base_checksum == base]
    model, roles = hosted(own, hold)
    return model, {one.path: contestant(model, one, role, prompts, sampling)
                   for one, role in zip(own, roles, strict=True)}


def hosted(own: list[Checkpoint], hold: HoldConfig) -> tuple[nn.Module, list[str | None]]:
    """The base that these checkpoints share, with their adapters on it, and each one's role."""
    from prefloop import models

    model: Any = models.load_base(own[0], model_config(own[0], hold))
    roles = [f"run{number}" if one.adapter else None for number, one in enumerate(own)]
    for one, role in zip(own, roles, strict=True):
        if role:
            model = models.add_adapter(model, role, one.adapter, model_config(one, hold))
    return model.eval(), roles


def model_config(one: Checkpoint, hold: HoldConfig) -> ModelConfig:
    from prefloop.models import ModelConfig

    return ModelConfig(path=one.path, four_bit=hold.four_bit, dtype=hold.dtype)


def contestant(model: nn.Module, one: Checkpoint, role: str | None, prompts: list[Prompt],
               sampling: SamplingConfig) -> Contestant:
    from prefloop import models
    from prefloop.generate import sample_ids

    chat = models.load_chat(one)
    ids = sample_ids(model, chat, prompts, sampling, role, f"sampling from {one.path}")
    made = Contestant(one.path, one, chat, role, ids, [])
    made.own_logprobs = logprobs(model, role, made, prompts, sampling)
    return made


def same_tokens(one: Chat, other: Chat, prompts: list[Prompt]) -> bool:
    """Whether both read and write the same token ids: only then is a KL between them defined."""
    return (one.end_id == other.end_id and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
            and all(one.prompt_ids(prompt) == other.prompt_ids(prompt) for prompt in prompts))


def logprobs(model: nn.Module, role: str | None, one: Contestant, prompts: list[Prompt],
             sampling: SamplingConfig) -> list[list[float]]:
    """log p of each answer of `one` under `role`, at the temperature it was sampled at."""
    from prefloop import passes

    asked = [ids for prompt in prompts for ids in [one.chat.prompt_ids(prompt)] * sampling.answers]
    flat = [ids for own in one.ids for ids in own]
    values = passes.total_logprobs(model, role, [a + b for a, b in zip(asked, flat, strict=True)],
                                   [len(ids) for ids in asked], one.chat.pad_id, sampling.temperature or 1.0)
    return by_prompt(values.tolist(), sampling.answers)


def by_prompt(values: list[float], answers: int) -> list[list[float]]:
    return [values[first : first + answers] for first in range(0, len(values), answers)]


def score(reward: Checkpoint, everyone: list[Contestant], prompts: list[Prompt], settings: ModelConfig,
          base: Any) -> None:
    """Rewards of the answers as people would read them: text, and the end of the turn.

    `base` is the baseline's, which a reward adapter that was trained on it is put on.
    """
    from prefloop import scoring

    scorer = scoring.load(reward, settings, base)
    each, texts = len(everyone[0].ids[0]), [one.texts() for one in everyone]
    asked = [[(prompt, text) for own in texts for text in own[n]] for n, prompt in enumerate(prompts)]
    kept = [n for n, own in enumerate(asked) if all(scorer.reads(own))]
    if not kept:
        raise RunError(f"{reward.path}: on every prompt some answer is longer than this reward model reads; name "
                       "another compare.reward, or lower sampling.max_new_tokens")
    found = scoring.scored(scorer, [answer for n in kept for answer in asked[n]], what="rewards")
    for number, one in enumerate(everyone):
        one.rewards, one.spreads = [[] for _ in prompts], [[] for _ in prompts]
        for place, n in enumerate(kept):
            first = (place * len(everyone) + number) * each
            one.rewards[n] = found.mean_N[first : first + each].tolist()
            one.spreads[n] = found.spread_N[first : first + each].tolist()


def judge(contestants: list[Contestant], level: float) -> dict[str, Any]:
    """The figures of every run, and the verdict."""
    baseline, *others = contestants
    figures = {one.name: run_figures(one, baseline, level) for one in contestants}
    wins = {one.name: figures[one.name].get("win_rate") for one in others}
    verdict, line = decide(baseline.name, {name: win for name, win in wins.items() if win})
    return {"verdict": verdict, "line": line, "runs": figures}


def run_figures(one: Contestant, baseline: Contestant, level: float) -> dict[str, Any]:
    answers = [ids for own in one.ids for ids in own]
    figures: dict[str, Any] = {
        "checksum": one.checkpoint.checksum,
        "mean_length": sum(map(len, answers)) / len(answers),
        "ended": sum(ids[-1] == one.chat.end_id for ids in answers) / len(answers),
    }
    if one.baseline_logprobs is not None:
        lengths = [[len(ids) for ids in own] for own in one.ids]
        figures |= kl_figures(one.own_logprobs, one.baseline_logprobs, lengths, level)
    if one.rewards is not None:
        means = [mean(own) for own in one.rewards if own]
        figures["reward"] = mean_of(means, level)
        if one.spreads and any(map(any, one.spreads)):  # of one member there is none
            figures["disagreement"] = mean_of([mean(own) for own in one.spreads if own], level)
        if one is not baseline and baseline.rewards is not None:
            figures |= reward_figures(one.rewards, baseline.rewards, level)
    return figures


def kl_figures(own: list[list[float]], base: list[list[float]], lengths: list[list[int]],
               level: float) -> dict[str, Any]:
    """KL(run, baseline) in nats, of the run's own answers: the mean of log p_run - log p_baseline, over prompts.

    Each prompt's answers are averaged first: they are not independent. Per token is the ratio of the two means.
    """
    per_prompt = [mean([a - b for a, b in zip(x, y, strict=True)]) for x, y in zip(own, base, strict=True)]
    tokens = mean([mean([float(n) for n in row]) for row in lengths])
    return {"kl": mean_of(per_prompt, level), "kl_per_token": mean(per_prompt) / tokens}


def reward_figures(rewards: list[list[float]], baseline: list[list[float]], level: float) -> dict[str, Any]:
    """Win rate by reward over the baseline, answer against answer of the same seed, ties half; and the paired gain."""
    both = [(x, y) for x, y in zip(rewards, baseline, strict=True) if x and y]
    wins = [mean([float(a > b) + 0.5 * float(a == b) for a, b in zip(x, y, strict=True)]) for x, y in both]
    gain = stats.paired_difference([mean(x) for x, _ in both], [mean(y) for _, y in both], level=level)
    return {"win_rate": stats.win_rate(wins, level)._asdict(), "reward_gain": gain._asdict()}


def decide(baseline: str, wins: dict[str, dict[str, float]]) -> tuple[str, str]:
    """ship if some candidate's interval is above one half, reject if all are below, else undecided."""
    if not wins:
        return "undecided", "undecided: without compare.reward nothing says which answers are better"
    best = max(wins, key=lambda name: wins[name]["low"])
    shown = f"{wins[best]['value']:.1%} [{wins[best]['low']:.1%}, {wins[best]['high']:.1%}]"
    if wins[best]["low"] > 0.5:
        return "ship", f"ship {best}: by reward it wins {shown} against {baseline}"
    if all(win["high"] < 0.5 for win in wins.values()):
        return "reject", f"reject: the best, {best}, wins only {shown} against {baseline}"
    return "undecided", f"undecided: the best, {best}, wins {shown} against {baseline}; more prompts may tell"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def mean_of(per_prompt: list[float], level: float) -> dict[str, float]:
    return stats.Estimate(mean(per_prompt), *stats.bootstrap_interval(per_prompt, level=level))._asdict()


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
