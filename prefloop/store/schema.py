"""What is kept of raters' work: campaigns, items to rate, leases on them, answers that are only added, what leads
decided, accounts, and a log of every change.

Texts from outside live in `prompts` and `responses`, once each, under a digest of all that was given; everything else
refers to them. Times are whole seconds of the server's clock, UTC. A change here needs a new file in migrations/.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from prefloop.store.dialects import REAL, Integer, Text, counted, partial

VERSION = "3"  # also the name of the newest migration

tables = MetaData()

meta = Table(
    "meta", tables,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_strict=True,
)

# Alembic's own, made here for new stores.
alembic_version = Table(
    "alembic_version", tables,
    Column("version_num", String(32), primary_key=True),
)

# -- what is rated ----------------------------------------------------------------------------------------------------

campaigns = Table(
    "campaigns", tables,
    counted("campaigns"),
    Column("name", Text, nullable=False, unique=True),
    Column("settings", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", Integer, nullable=False),
    CheckConstraint("state in ('draft', 'open', 'paused')"),
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

pictures = Table(
    "pictures", tables,
    Column("digest", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    sqlite_strict=True,
)

# Which picture a prompt's Markdown means by a `source`: a path beside the file that the prompt came from.
illustrations = Table(
    "illustrations", tables,
    Column("prompt", Text, ForeignKey("prompts.digest"), primary_key=True),
    Column("source", Text, primary_key=True),
    Column("picture", Text, ForeignKey("pictures.digest"), nullable=False),
    sqlite_strict=True,
)

# An item is one prompt with K responses for `need` raters. `done` counts the answers that fill the need: it is kept
# here, in the transaction that stores the answer, so that finding the next item does not count every answer again.
# Only normal items are counted. Gold and qualification items are for every rater once; a repeat is for `rater` alone,
# who answered the item that it `mirrors`. `chance` is the place that the store's seed drew for it among all;
# `uncertainty` is how far an ensemble of reward models is apart on it.
items = Table(
    "items", tables,
    counted("items"),
    Column("digest", Text, nullable=False),
    Column("campaign", Integer, ForeignKey("campaigns.id"), nullable=False),
    Column("prompt", Text, ForeignKey("prompts.digest"), nullable=False),
    Column("need", Integer, nullable=False),
    Column("done", Integer, nullable=False, default=0),
    Column("kind", Text, nullable=False),
    Column("rater", Text),
    Column("mirrors", Integer, ForeignKey("items.id")),
    Column("stratum", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created", Integer, nullable=False),
    Column("chance", Integer, nullable=False, server_default=text("0")),
    Column("uncertainty", REAL),
    UniqueConstraint("campaign", "digest"),
    CheckConstraint("need >= 1"),
    CheckConstraint("done between 0 and need"),
    CheckConstraint("kind in ('normal', 'gold', 'repeat', 'qualification')"),
    CheckConstraint("(kind = 'repeat') = (rater is not null and mirrors is not null)"),
    sqlite_strict=True,
)
Index("items_open", items.c.campaign, items.c.kind, items.c.priority.desc(), items.c.id,
      **partial(items.c.done < items.c.need))
Index("items_of_campaign", items.c.campaign, items.c.kind, items.c.need, items.c.done)
Index("items_by_name", items.c.digest)
Index("items_by_chance", items.c.campaign, items.c.kind, items.c.chance, items.c.id,
      **partial(items.c.done < items.c.need))
Index("items_by_stratum", items.c.campaign, items.c.kind, items.c.stratum, items.c.chance, items.c.id,
      **partial(items.c.done < items.c.need))
Index("items_by_uncertainty", items.c.campaign, items.c.kind, items.c.uncertainty.desc(), items.c.id,
      **partial(items.c.done < items.c.need))
Index("repeats_of_rater", items.c.rater, items.c.mirrors, unique=True, **partial(items.c.kind == "repeat"))

choices = Table(
    "choices", tables,
    Column("item", Integer, ForeignKey("items.id"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("response", Text, ForeignKey("responses.digest"), nullable=False),
    sqlite_strict=True,
)

# What is right, of gold and qualification items; `ranks` in the stored order of the answers. `retired`: the campaign
# does not name it any more, and so it is not given out.
golds = Table(
    "golds", tables,
    Column("item", Integer, ForeignKey("items.id"), primary_key=True),
    Column("ranks", Text, nullable=False),
    Column("none_acceptable", Integer, nullable=False),
    Column("explanation", Text, nullable=False),
    Column("retired", Integer, nullable=False, default=0),
    sqlite_strict=True,
)

# -- what raters did --------------------------------------------------------------------------------------------------

# One row for a rater and an item, for ever: a lease that is skipped or expires is opened again, never doubled, and so
# nobody can answer an item twice. `policy` is the rule that chose the item, and `propensity` how likely the campaign's
# rule was to choose it then (drawing.py). `informed`: having answered, the rater was told a model's order of it.
leases = Table(
    "leases", tables,
    Column("item", Integer, ForeignKey("items.id"), primary_key=True),
    Column("rater", Text, primary_key=True),
    Column("token", Text, nullable=False, unique=True),
    Column("shown", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("issued", Integer, nullable=False),
    Column("expires", Integer, nullable=False),
    Column("policy", Text, nullable=False, server_default=text("'queued'")),
    Column("propensity", REAL),
    Column("informed", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("state in ('open', 'skipped', 'done')"),
    sqlite_strict=True,
)
Index("leases_of_rater", leases.c.rater, leases.c.state)

# Rows are added and never changed, but for `retracted`: when a row ceased to count, for a newer revision took its
# place or the rater withdrew it; `surplus`; and `excluded`: whether its rater is in quarantine. Of one item and rater
# at most one row is current. `ranks` are in the order of `shown`, as the rater gave them; `key` is the page's own name
# for the submission, so that a retry is known for one. `informed`: the rater had seen the model's order before.
answers = Table(
    "answers", tables,
    counted("answers"),
    Column("token", Text, ForeignKey("leases.token"), nullable=False),
    Column("item", Integer, ForeignKey("items.id"), nullable=False),
    Column("rater", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("retracted", Integer),
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
    Column("excluded", Integer, nullable=False, server_default=text("0")),
    Column("informed", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("item", "rater", "revision"),
    sqlite_strict=True,
)
Index("answers_counting", answers.c.item, answers.c.rater, unique=True, **partial(answers.c.retracted.is_(None)))
Index("answers_by_key", answers.c.rater, answers.c.key, unique=True, **partial(answers.c.key != ""))
Index("answers_of_rater", answers.c.rater, answers.c.id)
Index("answers_surplus", answers.c.item, **partial(answers.c.surplus == 1))

flags = Table(
    "flags", tables,
    Column("item", Integer, ForeignKey("items.id"), primary_key=True),
    Column("rater", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("note", Text, nullable=False),
    Column("at", Integer, nullable=False),
    CheckConstraint("kind in ('unsafe', 'personal', 'broken', 'other')"),
    sqlite_strict=True,
)

# `version` is a digest of the text, as answers hold it; the highest `number` is in force.
guidelines = Table(
    "guidelines", tables,
    Column("campaign", Integer, ForeignKey("campaigns.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("version", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Integer, nullable=False),
    sqlite_strict=True,
)

acknowledgements = Table(
    "acknowledgements", tables,
    Column("rater", Text, primary_key=True),
    Column("campaign", Integer, ForeignKey("campaigns.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("version", Text, nullable=False),
    Column("at", Integer, nullable=False),
    sqlite_strict=True,
)

# The newest row of a rater and a version of the warning's text holds.
warnings = Table(
    "warnings", tables,
    counted("warnings"),
    Column("rater", Text, nullable=False),
    Column("campaign", Integer, ForeignKey("campaigns.id"), nullable=False),
    Column("version", Text, nullable=False),
    Column("accepted", Integer, nullable=False),
    Column("at", Integer, nullable=False),
    sqlite_strict=True,
)
Index("warnings_of_rater", warnings.c.rater, warnings.c.campaign, warnings.c.version)

# How a finished qualification round ended; it stays so when the round is changed.
verdicts = Table(
    "verdicts", tables,
    Column("rater", Text, primary_key=True),
    Column("campaign", Integer, ForeignKey("campaigns.id"), primary_key=True),
    Column("needed", Integer, nullable=False),
    Column("right", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("at", Integer, nullable=False),
    CheckConstraint("state in ('passed', 'failed')"),
    sqlite_strict=True,
)

# -- what leads and models say ----------------------------------------------------------------------------------------

# What a reward model says of an item, kept before anybody rates it: `scores` in the stored order of the answers.
predictions = Table(
    "predictions", tables,
    Column("item", Integer, ForeignKey("items.id"), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("scores", Text, nullable=False),
    Column("spread", REAL),
    Column("at", Integer, nullable=False),
    sqlite_strict=True,
)

# An item that somebody should look at, and what they decided; `ranks` in the stored order, `gold` the item made of it.
reviews = Table(
    "reviews", tables,
    counted("reviews"),
    Column("item", Integer, ForeignKey("items.id"), nullable=False),
    Column("why", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("ranks", Text),
    Column("none_acceptable", Integer, nullable=False),
    Column("cause", Text),
    Column("note", Text, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("opened", Integer, nullable=False),
    Column("closed", Integer),
    Column("gold", Integer, ForeignKey("items.id")),
    CheckConstraint("state in ('open', 'decided', 'dismissed')"),
    CheckConstraint("cause in ('ambiguous', 'guideline', 'mistake', 'edge', 'taste')"),
    sqlite_strict=True,
)
Index("reviews_open", reviews.c.item, unique=True, **partial(reviews.c.state == "open"))
Index("reviews_of_item", reviews.c.item)
Index("reviews_made_gold", reviews.c.gold, **partial(reviews.c.gold.is_not(None)))

# A rater whose answers do not count while they are held; nothing of theirs is deleted.
quarantines = Table(
    "quarantines", tables,
    counted("quarantines"),
    Column("rater", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", Integer, nullable=False),
    Column("closed_by", Text, nullable=False),
    Column("closed", Integer),
    CheckConstraint("state in ('proposed', 'held', 'lifted', 'dismissed')"),
    sqlite_strict=True,
)
Index("quarantines_of_rater", quarantines.c.rater, unique=True, **partial(quarantines.c.closed.is_(None)))

# -- what happened ----------------------------------------------------------------------------------------------------

# Rows are only added. `digest` is of a salt and a payload, which may be deleted; `chain` is of the chain before and of
# this row. `subject` names a row of another table, such as answers:12, and never a person.
events = Table(
    "events", tables,
    counted("events"),
    Column("at", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False, index=True),
    Column("digest", Text, nullable=False),
    Column("chain", Text, nullable=False),
    sqlite_strict=True,
)

# Who did it, to or of whom, and what; all that is personal of an event.
payloads = Table(
    "payloads", tables,
    Column("event", Integer, ForeignKey("events.id"), primary_key=True),
    Column("actor", Text, nullable=False, index=True),
    Column("about", Text, nullable=False, index=True),
    Column("salt", Text, nullable=False),
    Column("payload", Text, nullable=False),
    sqlite_strict=True,
)

# What left the store, and whose answers went with it; `head` is the log's last event then, as ID:CHAIN.
exports = Table(
    "exports", tables,
    counted("exports"),
    Column("at", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("checksum", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("by", Text, nullable=False),
    Column("head", Text, nullable=False),
    sqlite_strict=True,
)

exports_of = Table(
    "exports_of", tables,
    Column("export", Integer, ForeignKey("exports.id"), primary_key=True),
    Column("rater", Text, primary_key=True),
    Column("answers", Integer, nullable=False),
    sqlite_strict=True,
)

# -- who may sign in --------------------------------------------------------------------------------------------------

# `password` is argon2's own text; of invitations and sessions only a sha256 is kept, so that a copy of the store opens
# nothing.
accounts = Table(
    "accounts", tables,
    Column("name", Text, primary_key=True),
    Column("password", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", Integer, nullable=False),
    CheckConstraint("role in ('rater', 'lead', 'admin')"),
    CheckConstraint("state in ('active', 'disabled')"),
    sqlite_strict=True,
)

invitations = Table(
    "invitations", tables,
    Column("digest", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("name", Text),
    Column("purpose", Text, nullable=False),
    Column("expires", Integer, nullable=False),
    Column("used", Integer),
    CheckConstraint("purpose in ('join', 'reset')"),
    sqlite_strict=True,
)

sessions = Table(
    "sessions", tables,
    Column("digest", Text, primary_key=True),
    Column("rater", Text, ForeignKey("accounts.name"), nullable=False, index=True),
    Column("created", Integer, nullable=False),
    Column("seen", Integer, nullable=False),
    Column("expires", Integer, nullable=False),
    sqlite_strict=True,
)

failures = Table(
    "failures", tables,
    counted("failures"),
    Column("name", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("at", Integer, nullable=False),
    sqlite_strict=True,
)
Index("failures_of_name", failures.c.name, failures.c.at)
