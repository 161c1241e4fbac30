"""PPO: the policy samples answers, the reward model scores them, and a KL penalty keeps it near the SFT model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop import checkpoints, config, ranks, runs
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Prompt

from .settings import LEAST_WATCHED, PPOConfig, RewardConfig, SamplerConfig, WatchConfig

if TYPE_CHECKING:
    from prefloop.chat import Chat
    from prefloop.models import Checkpoint

    from .actors import Actors
    from .trainer import Trainer

HELD_OUT = 100


def sections() -> config.Sections:
    from prefloop import models, training

    return {"model": config.Section(models.ModelConfig), "reward": config.Section(RewardConfig),
            "watch": config.Section(WatchConfig), "data": config.Section(training.DataConfig),
            "train": config.Section(PPOConfig), "sampler": config.Section(SamplerConfig),
            "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked, resume: Path | None = None) -> None:
    from prefloop import models, training

    from . import checks, held_out, judging, sampler
    from .actors import assemble
    from .trainer import Trainer
    from .watch import Watch

    model_config, reward_config, watching, data, settings, sampling, where = config.build(asked, sections())
    if model_config.whole:
        raise RequestError("model.whole: PPO trains an adapter; leave it out")
    source = snapshot.read(Path(data.path))
    checkpoint = models.resolve_policy(model_config.path, model_config.revision)
    reward = judging.find(reward_config, checkpoint)
    second = judging.found_at(watching.reward, checkpoint, "watch.reward") if watching.reward else None
    judging.require_another(reward, second)
    server = sampler.connect(sampling)
    parents: dict[str, Any] = {"policy": checkpoint.lineage(), "reward": reward.lineage, "data": source.lineage()}
    if second:
        parents["second"] = second.lineage
    with runs.start(asked, where, resume, **parents) as run:
        run.resolved(model=model_config, reward=reward_config, watch=watching, data=data, train=settings,
                     sampler=sampling)
        chat = models.load_chat(checkpoint)
        prompts = fitting(chat, source.prompts_of("train")[: data.limit], settings.max_prompt_tokens)
        tests = fitting(chat, source.prompts_of("test")[: max(HELD_OUT, watching.prompts)], settings.max_prompt_tokens)
        report(run, len(prompts), len(source.prompts_of("train")[: data.limit]), len(tests), data.path, settings)
        if second:
            require_watchable(len(tests), data.path, settings)
        texts = judging.texts_of({**prompts, **tests}, chat)
        actors = assemble(checkpoint, reward, second, model_config, settings, texts)
        models.require_context(actors.model, settings.max_prompt_tokens + settings.max_new_tokens,
                               "train.max_prompt_tokens + train.max_new_tokens")
        if not reward.scaled:
            actors = held_out.centred(run, actors, list(prompts.values()), settings)
        watch = Watch(watching, list(tests.values())[: watching.prompts], actors.second)
        trainer = Trainer(run, actors, list(prompts.values()), settings, checkpoint, watch, sampling, server)
        if run.resumed_from:
            trainer.restore(run.resumed_from)
        else:
            checks.before(run, actors)
        run.rewind(trainer.done if run.resumed_from else -1, watch.knows)
        sampler.clear(run.path)
        shown = list(tests)[:4]
        if not (run.path / "samples.jsonl").exists():
            training.samples(run, actors.model, chat, shown, actors.reference, "before", settings.max_new_tokens)
        trainer.fit()
        trainer.take_best()
        checks.after(run, actors, judging.beside(sft=checkpoint, reward=reward, second=second))
        training.samples(run, actors.model, chat, shown, actors.policy, "after", settings.max_new_tokens)
        ranks.by_first("final", lambda: finish(run, actors, checkpoint))
        summarise(run, actors, list(tests.values())[:HELD_OUT], settings)
        conclude(run, trainer)


def fitting(chat: Chat, prompts: list[Prompt], max_tokens: int) -> dict[Prompt, list[int]]:
    """The prompts that are not too long, with their ids."""
    rendered = {prompt: chat.prompt_ids(prompt) for prompt in prompts}
    return {prompt: ids for prompt, ids in rendered.items() if len(ids) <= max_tokens}


def report(run: runs.Run, train: int, asked: int, held_out: int, path: str, settings: PPOConfig) -> None:
    if not train:
        raise RequestError(f"{path}: no prompt to train on ({asked} in split train, all over "
                           f"train.max_prompt_tokens={settings.max_prompt_tokens})")
    run.note(seed=settings.seed, rows={"train": train, "held_out": held_out, "over_length": asked - train})
    print(f"{train} prompts to train on, {held_out} held out; {asked - train} over "
          f"{settings.max_prompt_tokens} tokens left out")


def require_watchable(held_out: int, path: str, settings: PPOConfig) -> None:
    """A second reward model needs prompts to watch on."""
    what = f"held-out prompts (split test) of at most train.max_prompt_tokens={settings.max_prompt_tokens} tokens"
    if not held_out:
        raise RequestError(f"watch.reward: {path} has no {what}; import some, or drop watch.reward")
    if held_out < LEAST_WATCHED:
        print(f"warning: {path} has only {held_out} {what}: what is seen on so few is mostly noise")


def finish(run: runs.Run, actors: Actors, checkpoint: Checkpoint) -> None:
    """final/: the policy, saved, loaded back and compared, then sealed by its manifest."""
    from prefloop import models

    checkpoints.discard(run.final)  # what an earlier try left
    models.save_adapter(actors.model, actors.policy, run.final)
    models.save_tokenizer(actors.chat, run.final)
    models.check_reload(run, actors.model, actors.chat, run.final, actors.policy)
    models.seal(run.final, checkpoint, "ppo")


def summarise(run: runs.Run, actors: Actors, held_out: list[list[int]], settings: PPOConfig) -> None:
    from .held_out import compared

    if not held_out:
        run.note(metrics={"held_out": 0})
        print("no held-out prompt (split test): nothing to compare before and after on")
        return
    found = compared(actors, held_out, settings, actors.second)
    run.note(metrics=found)
    print(f"held-out reward {found['score_before']:.3f} -> {found['score_after']:.3f}; gain "
          f"{found['score_gain']:.3f} in [{found['score_gain_low']:.3f}, {found['score_gain_high']:.3f}] (95%); "
          f"KL {found['kl']:.2f} nats per answer in [{found['kl_low']:.2f}, {found['kl_high']:.2f}]; length "
          f"{found['length_before']:.1f} -> {found['length_after']:.1f}; ended {found['eos_rate_before']:.0%} -> "
          f"{found['eos_rate_after']:.0%}")


def conclude(run: runs.Run, trainer: Trainer) -> None:
    """For the card: which policy final/ is, who watched, and what was warned of."""
    watch, kept = trainer.watch, trainer.watch.best()
    if kept is not None:
        which = f"after rollout {kept} of {trainer.done}" + ("" if kept else ", which is the SFT model unchanged")
        said = (f"final/ is the policy {which}: the best by the second reward model on "
                f"{len(watch.prompts)} held-out prompts, at a KL of at most {watch.settings.max_kl:g} nats an answer.")
        if hacked := watch.hacked():
            said = f"Stopped after rollout {trainer.done} of {trainer.settings.rollouts} for {hacked}. {said}"
    else:
        said = ("Nobody watched for reward hacking: without a second reward model (watch.reward) nobody can tell a "
                "better policy from one that fools the first, so final/ is the last policy, and no best was chosen.")
    rows = runs.read_lines(run.path / "metrics.jsonl")
    warned = [f"after rollout {row['step']}: {words}" for row in rows for words in row.get("warnings", ())]
    run.note(summary=said, warnings=warned, rollouts=trainer.done)
    print(said)
