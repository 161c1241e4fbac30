"""`prefloop feedback verify CONFIG`: whether the store is what its log says, also while it is in use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prefloop import checkpoints, config
from prefloop.errors import RequestError, RunError
from prefloop.store import Store
from prefloop.store.verifying import Head, Tell, Verdict, head_of, verify

from . import server
from .campaigns import listed
from .flagging import plain
from .server import FeedbackConfig

HEAD = "head.json"  # in a snapshot's folder: where the log stood


@dataclass(frozen=True)
class VerifyConfig:
    """`verify:`. `head` has what the log must still lead to: an ID:HASH that this command printed, or snapshots."""

    head: tuple[str, ...] | str = ()


def sections() -> config.Sections:
    return {**server.sections(), "verify": config.Section(VerifyConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    wanted: VerifyConfig
    settings, _, wanted = config.build(asked, sections())
    heads = [head_in(one) for one in listed(wanted.head)]
    with Store(settings.store, read_only=True) as store:
        found = verified(store, heads, lambda done, of: print(f"{done} of {of} events", flush=True))
    for words in found.bad:
        print(plain(words))
    if found.bad:
        raise RunError(f"the store is not what its log says; the first: {plain(found.bad[0])}")
    erased = f" ({found.erased} of them deleted with a person)" if found.erased else ""
    print(f"{found.events} events{erased} and {found.rows} rows are as they were written. Keep this head elsewhere, "
          f"for verify.head: {found.head}")


def verified(store: Store, heads: Iterable[Head] = (), tell: Tell = lambda done, of: None) -> Verdict:
    with store.reading() as db:
        return verify(db, heads, tell)


def head_in(text: str) -> Head:
    """Of ID:HASH, or of a snapshot."""
    folder = Path(text)
    if not folder.is_dir():
        return head_of(text, "verify.head")
    if not (folder / HEAD).is_file():
        raise RequestError(f"verify.head: {text}: it has no {HEAD}; `prefloop snapshot` writes it")
    said = checkpoints.read_json(folder / HEAD)
    return head_of(str(said.get("head") if isinstance(said, dict) else said), str(folder / HEAD))
