"""What is kept of raters' work: prompts, responses, items to rate, leases on them, and answers that are only added.

Texts from outside live in `prompts` and `responses`, once each, under a digest of all that was given; everything else
refers to them. Times are whole seconds of the server's clock, UTC.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint
from sqlalchemy.types import REAL

VERSION = "1"

tables = MetaData()

meta = Table(
    "meta", tables,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_strict=True,
)

prompts = Table(
    "prompts", tables,
    Column("digest", Text, primary_key=True),
    Column("id", Text, nullable=False, index=True),
    Column("record", Text, nullable=False),
    sqlite_strict=True,
)

responses = Table(
    "responses", tables,
    Column("digest", Text, primary_key=True),
    Column("id", Text, nullable=False, index=True),
    Column("record", Text, nullable=False),
    sqlite_strict=True,
)

# An item is one prompt with K responses for `need` raters. `done` counts the answers that fill the need: it is kept
# here, in the transaction that stores the answer, so that finding the next item does not count every answer again.
items = Table(
    "items", tables,
    Column("id", Integer, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("prompt", Text, ForeignKey("prompts.digest"), nullable=False),
    Column("need", Integer, nullable=False),
    Column("done", Integer, nullable=False, default=0),
    Column("kind", Text, nullable=False),
    Column("stratum", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created", Integer, nullable=False),
    CheckConstraint("need >= 1"),
    CheckConstraint("done between 0 and need"),
    sqlite_strict=True,
)
Index("items_open", items.c.priority.desc(), items.c.id, sqlite_where=items.c.done < items.c.need)

choices = Table(
    "choices", tables,
    Column("item", Integer, ForeignKey("items.id"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("response", Text, ForeignKey("responses.digest"), nullable=False),
    sqlite_strict=True,
)

# One row for a rater and an item, for ever: a lease that is skipped or expires is opened again, never doubled, and so
# nobody can answer an item twice.
leases = Table(
    "leases", tables,
    Column("item", Integer, ForeignKey("items.id"), primary_key=True),
    Column("rater", Text, primary_key=True),
    Column("token", Text, nullable=False, unique=True),
    Column("shown", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("issued", Integer, nullable=False),
    Column("expires", Integer, nullable=False),
    CheckConstraint("state in ('open', 'skipped', 'done')"),
    sqlite_strict=True,
)
Index("leases_of_rater", leases.c.rater, leases.c.state)

# `ranks` are in the order of `shown`, as the rater gave them.
answers = Table(
    "answers", tables,
    Column("id", Integer, primary_key=True),
    Column("token", Text, ForeignKey("leases.token"), nullable=False, unique=True),
    Column("item", Integer, ForeignKey("items.id"), nullable=False),
    Column("rater", Text, nullable=False, index=True),
    Column("ranks", Text, nullable=False),
    Column("shown", Text, nullable=False),
    Column("strength", Text),
    Column("none_acceptable", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("edited", Text, nullable=False),
    Column("seconds", REAL),
    Column("guideline", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("surplus", Integer, nullable=False),
    Column("created", Integer, nullable=False),
    UniqueConstraint("item", "rater"),
    sqlite_strict=True,
)
