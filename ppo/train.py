"""PPO: the policy samples answers, the reward model scores them, and a KL penalty keeps it near the SFT model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefloop import checkpoints, config, ranks, runs
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Prompt

from .settings import PPOConfig, RewardConfig, SamplerConfig

if TYPE_CHECKING:
    from prefloop.chat import Chat
    from prefloop.models import Checkpoint

    from .actors import Actors

HELD_OUT = 100


def sections() -> config.Sections:
    from prefloop import models, training

    return {"model": config.Section(models.ModelConfig), "reward": config.Section(RewardConfig),
            "data": config.Section(training.DataConfig), "train": config.Section(PPOConfig),
            "sampler": config.Section(SamplerConfig),
            "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked, resume: Path | None = None) -> None:
    from prefloop import models, training

    from . import checks, sampler
    from .actors import assemble
    from .trainer import Trainer

    model_config, reward_config, data, settings, sampling, where = config.build(asked, sections())
    if model_config.whole:
        raise RequestError("model.whole: PPO trains an adapter; leave it out")
    source = snapshot.read(Path(data.path))
    checkpoint = models.resolve_policy(model_config.path, model_config.revision)
    reward = models.resolve(reward_config.path)
    checks.same_base(checkpoint, reward)
    assert reward.adapter is not None
    with runs.start(asked, where, resume, policy=checkpoint.lineage(), reward=reward.lineage(),
                    data=source.lineage()) as run:
        run.resolved(model=model_config, reward=reward_config, data=data, train=settings, sampler=sampling)
        chat = models.load_chat(checkpoint)
        prompts = fitting(chat, source.prompts_of("train")[: data.limit], settings.max_prompt_tokens)
        held_out = fitting(chat, source.prompts_of("test")[:HELD_OUT], settings.max_prompt_tokens)
        report(run, len(prompts), len(source.prompts_of("train")[: data.limit]), len(held_out), data.path, settings)
        actors = assemble(checkpoint, reward.adapter, model_config, settings)
        checks.same_tokens(actors, checkpoint, reward)
        models.require_context(actors.model, settings.max_prompt_tokens + settings.max_new_tokens,
                               "train.max_prompt_tokens + train.max_new_tokens")
        trainer = Trainer(run, actors, list(prompts.values()), settings, checkpoint, sampling)
        if run.resumed_from:
            trainer.restore(run.resumed_from)
        else:
            checks.before(run, actors)
        run.rewind(trainer.done)
        sampler.clear(run.path)
        shown = list(held_out)[:4]
        if not (run.path / "samples.jsonl").exists():
            training.samples(run, actors.model, chat, shown, actors.reference, "before", settings.max_new_tokens)
        trainer.fit()
        checks.after(run, actors, checkpoint, reward)
        training.samples(run, actors.model, chat, shown, actors.policy, "after", settings.max_new_tokens)
        ranks.by_first("final", lambda: finish(run, actors, checkpoint))
        summarise(run, actors, list(held_out.values()), settings)


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
    found = compared(actors, held_out, settings)
    run.note(metrics=found)
    print(f"held-out reward {found['score_before']:.3f} -> {found['score_after']:.3f}; gain "
          f"{found['score_gain']:.3f} in [{found['score_gain_low']:.3f}, {found['score_gain_high']:.3f}] (95%); "
          f"KL {found['kl']:.2f} nats per answer in [{found['kl_low']:.2f}, {found['kl_high']:.2f}]; length "
          f"{found['length_before']:.1f} -> {found['length_after']:.1f}; ended {found['eos_rate_before']:.0%} -> "
          f"{found['eos_rate_after']:.0%}")
