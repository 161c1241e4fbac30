"""Rollouts sampled by a vLLM server, which holds the base and takes the policy's adapter anew for every rollout.

The server is a process of its own, with dependencies of its own, spoken to over HTTP:

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve BASE --enable-lora --max-lora-rank 16 \\
        --logprobs-mode processed_logprobs          (and --quantization bitsandbytes for a base in 4 bits)

Nothing is ever merged. Its log-probabilities are not quite ours (other kernels, other rounding), so each rollout
measures by how much, corrects for it token by token, and ends the run where the two are not the same model.
"""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefloop import models, passes, ranks, remote
from prefloop.errors import RequestError, RunError
from prefloop.remote import Remote

from .actors import Actors
from .settings import PPOConfig, SamplerConfig

SEEDS = 2**31  # vLLM's seeds are below it


@dataclass(frozen=True)
class Sampled:
    """An answer for each prompt, as token ids with the end token where there is one, and the server's log-probability
    of each of their tokens."""

    answers: list[list[int]]
    logprobs: list[list[float]]


@dataclass(frozen=True)
class Sampler:
    """The server, and a folder that it can read too: the policy's adapter is put there."""

    server: Remote
    folder: Path
    connections: int

    def sample(self, actors: Actors, prompts: list[list[int]], seeds: list[int], rollout: int,
               settings: PPOConfig) -> Sampled:
        """From the policy as it is now. Each process asks for its share, and each has all of the answers."""
        name = f"prefloop-{self.folder.parent.name}-{rollout}"
        # A folder of its own for each rollout: vLLM's prefix cache would take one that it knows for the same weights.
        adapter = self.folder / str(rollout)
        ranks.by_first(f"{name} loads", lambda: self._load(actors, name, adapter))
        own = ranks.share(range(len(prompts)))
        vocabulary = passes.plain(actors.model).config.get_text_config().vocab_size
        pool, over = ThreadPoolExecutor(self.connections), threading.Event()
        patient = replace(self, server=replace(self.server, sleep=lambda seconds: pause(over, seconds)))
        try:
            asked = [pool.submit(patient._answer, name, prompts[n], seeds[n], actors.chat.end_id, vocabulary, settings)
                     for n in own]
            found = {n: one.result() for n, one in zip(own, asked, strict=True)}
        finally:  # where one failed, or Ctrl-C came, the others do not go on asking
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
        ranks.by_first(f"{name} unloads", lambda: self._unload(name, adapter))
        whole = {n: one for part in ranks.from_all(found) for n, one in part.items()}
        return Sampled([whole[n][0] for n in range(len(prompts))], [whole[n][1] for n in range(len(prompts))])

    def _load(self, actors: Actors, name: str, adapter: Path) -> None:
        models.save_adapter(actors.model, actors.policy, adapter)
        try:
            self.server.patiently("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter.resolve()),
                                                            "load_inplace": True})
        except RunError as error:
            raise RunError(f"{error}; the server runs with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and a "
                           f"--max-lora-rank of at least the adapter's, and can read {adapter.resolve()}") from None

    def _unload(self, name: str, adapter: Path) -> None:
        self.server.patiently("/v1/unload_lora_adapter", {"lora_name": name})
        shutil.rmtree(adapter)

    def _answer(self, name: str, prompt: list[int], seed: int, end_id: int, vocabulary: int,
                settings: PPOConfig) -> tuple[list[int], list[float]]:
        """One answer. Everything that a server's own defaults could bend is said: nothing but the temperature may
        stand between the model's distribution and the sample, and only our end token ends it."""
        told = self.server.patiently("/v1/completions", {
            "model": name, "prompt": prompt, "max_tokens": settings.max_new_tokens, "n": 1, "seed": seed % SEEDS,
            "temperature": settings.temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
            "presence_penalty": 0.0, "frequency_penalty": 0.0, "ignore_eos": True, "stop_token_ids": [end_id],
            "logprobs": 0, "return_token_ids": True})
        return self._checked(told, end_id, vocabulary, settings.max_new_tokens)

    def _checked(self, told: Any, end_id: int, vocabulary: int, longest: int) -> tuple[list[int], list[float]]:
        try:
            choice = told["choices"][0]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        except (KeyError, IndexError, TypeError):
            raise RunError(f"{self.server.url}: its completion has no token_ids and logprobs: "
                           f"{remote.shortened(told)}; vLLM 0.10 or newer gives them") from None
        sound = (isinstance(ids, list) and isinstance(logprobs, list) and len(ids) == len(logprobs) and
                 0 < len(ids) <= longest and all(type(one) is int and 0 <= one < vocabulary for one in ids) and
                 all(isinstance(one, int | float) and -1e4 <= one <= 1e-3 for one in logprobs))
        if not sound or (end_id in ids[:-1]) or (ids[-1] != end_id and len(ids) < longest):
            raise RunError(f"{self.server.url}: its completion is not an answer of up to {longest} tokens with the "
                           f"log-probability of each: {remote.shortened(told)}")
        return ids, [float(one) for one in logprobs]


def pause(over: threading.Event, seconds: float) -> None:
    """Wait before asking again, but not once it is `over`."""
    if over.wait(seconds):
        raise CancelledError


def connect(config: SamplerConfig, run: Path) -> Sampler | None:
    """The server that `sampler.url` names, if any; it must answer now."""
    if config.url is None:
        return None
    server = Remote(config.url.rstrip("/").removesuffix("/v1"), "sampler",
                    remote.token_of(config.token_file, "sampler.token_file"), config.timeout, config.patience)
    try:
        told = server.once("/v1/models")
    except (remote.Away, RunError) as error:
        raise RequestError(f"sampler.url: {config.url}: {str(error).removeprefix(f'{server.url}: ')}; start it as "
                           f"docs/ppo.md says") from None
    if not isinstance(told, dict) or not isinstance(told.get("data"), list):
        raise RequestError(f"sampler.url: {config.url}: its /v1/models lists no models; it is no vLLM server")
    return Sampler(server, run / "rollouts", config.connections)


def clear(run: Path) -> None:
    """Adapters that a rollout left which was killed."""
    shutil.rmtree(run / "rollouts", ignore_errors=True)

