"""Rollouts sampled by a vLLM server, which holds the base and takes the policy's adapter anew for every rollout.

The server is a process of its own, with dependencies of its own, spoken to over HTTP:

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve BASE --enable-lora --max-lora-rank 16 \\
        --logprobs-mode processed_logprobs          (and --quantization bitsandbytes for a base in 4 bits)

Nothing is ever merged. Its log-probabilities are not quite ours (other kernels, other rounding), so each rollout
measures by how much, corrects for it token by token, and ends the run where the two are not the same model.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefloop import checkpoints, models, passes, ranks, remote
from prefloop.errors import RequestError, RunError
from prefloop.remote import Calls, Refused, Remote

from .actors import Actors
from .settings import PPOConfig, SamplerConfig

SEEDS = 2**31  # vLLM's seeds are below it
MOST_LOADS = 4  # of one rollout's adapter, by a server that starts again and again


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
        vocabulary = passes.plain(actors.model).config.get_text_config().vocab_size
        server = replace(self.server, calls=Calls())
        pool = ThreadPoolExecutor(self.connections)
        try:
            adapter = self._adapter(actors, server, rollout)
            ranks.by_first(f"rollout {rollout} loads its adapter", adapter.load)
            asked = {pool.submit(self._answer, adapter, prompts[n], seeds[n], actors.chat.end_id, vocabulary,
                                 settings): n for n in ranks.share(range(len(prompts)))}
            found = {asked[one]: one.result() for one in as_completed(asked)}
            ranks.by_first(f"rollout {rollout} unloads its adapter", adapter.unload)
        finally:  # where one failed, or Ctrl-C came, the others do not go on asking
            server.calls.end()
            pool.shutdown(wait=False, cancel_futures=True)
        whole = {n: one for part in ranks.from_all(found) for n, one in part.items()}
        return Sampled([whole[n][0] for n in range(len(prompts))], [whole[n][1] for n in range(len(prompts))])

    def _adapter(self, actors: Actors, server: Remote, rollout: int) -> Adapter:
        """The policy's, on disk. vLLM caches by name, over runs too: other weights never have the same one."""
        folder = (self.folder / str(rollout)).resolve()
        ranks.by_first(f"rollout {rollout} saves its adapter",
                       lambda: models.save_adapter(actors.model, actors.policy, folder))
        known = f"{checkpoints.file_sha256(folder / models.ADAPTER)} {folder}" if ranks.first() else ""
        mark = hashlib.sha256(ranks.from_all(known)[0].encode("utf-8", "surrogateescape")).hexdigest()[:12]
        return Adapter(server, folder, f"prefloop-{self.folder.parent.name}-{rollout}-{mark}")

    def _answer(self, adapter: Adapter, prompt: list[int], seed: int, end_id: int, vocabulary: int,
                settings: PPOConfig) -> tuple[list[int], list[float]]:
        """One answer. Everything that a server's own defaults could bend is said: nothing but the temperature may
        stand between the model's distribution and the sample, and only our end token ends it."""
        told = adapter.complete({
            "prompt": prompt, "max_tokens": settings.max_new_tokens, "n": 1, "seed": seed % SEEDS,
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


@dataclass
class Adapter:
    """One rollout's: a folder, and a name at the server, which forgets it when it starts again. Threads share it."""

    server: Remote
    folder: Path
    name: str
    loads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, known: int = 0) -> None:
        """Unless another thread has done so since there were `known` loads."""
        with self.lock:
            if self.loads != known:
                return
            try:
                self.server.patiently("/v1/load_lora_adapter", {"lora_name": self.name, "lora_path": str(self.folder),
                                                                "load_inplace": True})
            except RunError as error:
                raise RunError(f"{error}; the server runs with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora "
                               "and a --max-lora-rank of at least the adapter's, and can read "
                               f"{self.folder}") from None
            self.loads += 1

    def complete(self, body: dict[str, Any]) -> Any:
        """The completion by this adapter, loaded again where the server does not know it any more."""
        while True:
            known = self.loads
            try:
                return self.server.patiently("/v1/completions", {"model": self.name, **body})
            except Refused as refused:
                if refused.status != 404 or known >= MOST_LOADS:
                    raise
            self.load(known)

    def unload(self) -> None:
        try:
            self.server.patiently("/v1/unload_lora_adapter", {"lora_name": self.name})
        except Refused as refused:
            if refused.status != 404:  # one that it has forgotten
                raise
        shutil.rmtree(self.folder)


def connect(config: SamplerConfig) -> Remote | None:
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
    return server


def clear(run: Path) -> None:
    """Adapters that a rollout left which was killed."""
    shutil.rmtree(run / "rollouts", ignore_errors=True)

