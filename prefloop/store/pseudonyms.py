"""What raters are called in what leaves a store: always the same there, and no name that can be found out by guessing.

A pseudonym is a keyed digest (BLAKE2b); the key is the store's own, random, and never leaves it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from sqlalchemy import Connection, insert, select

from prefloop.store.schema import answers, meta
from prefloop.store.store import Store

KEY = "pseudonyms"
REVIEW = "review:"  # before the name of whoever decided a review


def pseudonyms(store: Store) -> Callable[[str], str]:
    with store.reading() as db:
        key = _key(db) or ""
    secret = bytes.fromhex(key or store.write(_made))

    def called(name: str) -> str:
        if name.startswith(REVIEW):
            return REVIEW + called(name.removeprefix(REVIEW))
        return f"rater-{hashlib.blake2b(name.encode(), digest_size=6, key=secret).hexdigest()}"

    return called


def known(store: Store) -> dict[str, str]:
    """Whom this store's pseudonyms stand for, of all who answered here."""
    with store.reading() as db:
        if _key(db) is None:
            return {}
        names = db.scalars(select(answers.c.rater).distinct()).all()
    called = pseudonyms(store)
    return {called(name): name for name in names}


def _key(db: Connection) -> str | None:
    return db.scalar(select(meta.c.value).where(meta.c.name == KEY))


def _made(db: Connection) -> str:
    known = _key(db)
    if known is None:
        known = secrets.token_hex(32)
        db.execute(insert(meta).values(name=KEY, value=known))
    return known
