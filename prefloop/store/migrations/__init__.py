"""How a store of an earlier schema becomes one of today's: a file in versions/ for each step, never changed again."""

from __future__ import annotations

from sqlalchemy import Connection

FIRST = "1"  # a store of this schema bears no Alembic version yet
STEPS = "prefloop.store:migrations"


def upgrade(db: Connection, version: str | None, to: str) -> None:
    """Takes the steps to schema `to` in the transaction that is open; None is an empty database."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", STEPS)
    config.attributes["connection"] = db
    if version == FIRST:
        command.stamp(config, FIRST)
    command.upgrade(config, to)
