"""What tests of PPO start from: a 2-layer model made on the spot, with a reward that likes one word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefloop import checkpoints, heads, models, passes, runs
from prefloop.formats import snapshot
from prefloop.ppo import judging, trainer
from prefloop.ppo.actors import Actors, assemble
from prefloop.ppo.settings import PPOConfig, WatchConfig
from prefloop.ppo.watch import Watch
from prefloop.records import Message, Prompt

WORDS = [f"w{n}" for n in range(16)]
LIKED = "w3"
TEMPLATE = ("{% for m in messages %}<{{ m.role }}> {{ m.content }}<end>{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")
FAST = ["train.rollouts=3", "train.episodes=16", "train.ppo_epochs=2", "train.minibatches=2", "train.micro_batch=4",
        "train.max_prompt_tokens=16", "train.max_new_tokens=8", "train.critic_warmup=0", "train.learning_rate=1e-3"]


class Place(NamedTuple):
    folder: Path
    base: Path
    data: Path
    sft: Path
    reward: Path

    def asked(self, *overrides: str) -> list[str]:
        return ["ppo", f"model.path={self.sft}", f"reward.path={self.reward}", f"data.path={self.data}",
                f"run.root={self.folder}", *FAST, *overrides]

    def actors(self, settings: PPOConfig, four_bit: bool = False) -> Actors:
        checkpoint = models.resolve(str(self.sft))
        reward = judging.found_at(str(self.reward), checkpoint, "reward.path")
        return assemble(checkpoint, reward, None, models.ModelConfig(path=str(self.sft), four_bit=four_bit), settings,
                        {})

    def trainer(self, name: str, four_bit: bool = False, **settings: Any) -> trainer.Trainer:
        """What the recipe builds, to look inside."""
        config = PPOConfig(**{"rollouts": 1, "episodes": 16, "ppo_epochs": 1, "minibatches": 1, "micro_batch": 4,
                              "max_new_tokens": 8, "critic_warmup": 0, "warmup": 0.0, "learning_rate": 1e-3,
                              **settings})
        path = self.folder / name
        path.mkdir()
        actors = self.actors(config, four_bit)
        prompts = [actors.chat.prompt_ids(prompt) for prompt in snapshot.read(self.data).prompts_of("train")]
        return trainer.Trainer(runs.Run(path, {"stage": "ppo", "status": "running"}), actors, prompts, config,
                               models.resolve(str(self.sft)), Watch(WatchConfig(every=None), []))


def make_base(folder: Path, seed: int) -> Path:
    special = ["<unk>", "<pad>", "<end>", "<user>", "<assistant>", "<system>"]
    tokenizer = Tokenizer(tokenizer_models.WordLevel({w: n for n, w in enumerate(special + WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>",
                                   eos_token="<end>", additional_special_tokens=special[3:])
    fast.chat_template = TEMPLATE
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(special + WORDS), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1,
        tie_word_embeddings=False)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_run(folder: Path, base: Path, stage: str) -> Path:
    """A finished run as the SFT or reward stage leaves it, with an adapter that changes a little."""
    checkpoint, config = models.resolve(str(base)), models.ModelConfig(path=str(base), lora_r=4)
    chat = models.load_chat(checkpoint)
    torch.manual_seed(len(stage))
    model = models.add_adapter(models.load_base(checkpoint, config), "made", None, config)
    for weight in models.train_only(model, {"made"}):
        torch.nn.init.normal_(weight, std=0.02)
    models.save_adapter(model, "made", folder / "final")
    if stage == "reward":
        liking(model, chat).save(folder / "final")
    models.save_tokenizer(chat, folder / "final")
    models.seal(folder / "final", checkpoint, stage)
    checkpoints.write_json(folder / "run.json", {"stage": stage, "status": "done"})
    return folder


@torch.no_grad()
def liking(model: Any, chat: Any) -> heads.Head:
    """A head that reads from the hidden state whether the token is the liked one: least squares on random rows."""
    ids_BT = torch.randint(6, 6 + len(WORDS), (64, 12), generator=torch.Generator().manual_seed(0))
    with passes.acting(model, "made"):
        hidden_NH = passes.hidden_states(model, ids_BT).flatten(0, 1)
    liked_N = (ids_BT.flatten() == chat.tokenizer.convert_tokens_to_ids(LIKED)).float()
    head = heads.Head(hidden_NH.shape[1], "mean")
    head.linear.weight.copy_(torch.linalg.lstsq(hidden_NH, liked_N[:, None]).solution.T)
    head.shift, head.scale = 1 / len(WORDS), 0.1
    return head


def make_place(folder: Path) -> Place:
    """A base, prompts, and runs of SFT and reward on it."""
    base = make_base(folder / "base", seed=0)
    prompts = [Prompt((Message("user", f"{a} {b} {c}"),)) for a in WORDS for b in WORDS[:3] for c in WORDS[:2]]
    data = snapshot.write(folder / "data", prompts=prompts)
    sft, reward = make_run(folder / "sft", base, "sft"), make_run(folder / "reward", base, "reward")
    return Place(folder, base, data, sft, reward)


def record(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())
