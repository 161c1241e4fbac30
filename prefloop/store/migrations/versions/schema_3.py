"""How items are chosen, what models and leads say, quarantines, and a log of every change.

Written in SQL: it must go on making schema 3, whatever schema.py says by then.
"""

import hashlib

from alembic import op
from sqlalchemy import text

revision = "3"
down_revision = "2"

STATEMENTS = """
create table new_campaigns (
    id integer not null primary key, name text not null unique, settings text not null, state text not null,
    created integer not null, check (state in ('draft', 'open', 'paused'))
) strict;
insert into new_campaigns select id, name, settings, state, created from campaigns;
drop table campaigns;
alter table new_campaigns rename to campaigns;
alter table items add column chance integer not null default 0;
alter table items add column uncertainty real;
alter table leases add column policy text not null default 'queued';
alter table leases add column propensity real;
alter table leases add column informed integer not null default 0;
create index items_by_chance on items (campaign, kind, chance, id) where done < need;
create index items_by_stratum on items (campaign, kind, stratum, chance, id) where done < need;
create index items_by_uncertainty on items (campaign, kind, uncertainty desc, id) where done < need;
alter table answers add column excluded integer not null default 0;
alter table answers add column informed integer not null default 0;
create table predictions (
    item integer not null references items (id), model text not null, scores text not null, spread real,
    at integer not null, primary key (item, model)
) strict;
create table reviews (
    id integer not null primary key, item integer not null references items (id), why text not null,
    state text not null, ranks text, none_acceptable integer not null, cause text, note text not null,
    reviewer text not null, opened integer not null, closed integer, gold integer references items (id),
    check (state in ('open', 'decided', 'dismissed')),
    check (cause in ('ambiguous', 'guideline', 'mistake', 'edge', 'taste'))
) strict;
create unique index reviews_open on reviews (item) where state = 'open';
create index reviews_of_item on reviews (item);
create index reviews_made_gold on reviews (gold) where gold is not null;
create table quarantines (
    id integer not null primary key, rater text not null, state text not null, why text not null, by text not null,
    at integer not null, closed_by text not null, closed integer,
    check (state in ('proposed', 'held', 'lifted', 'dismissed'))
) strict;
create unique index quarantines_of_rater on quarantines (rater) where closed is null;
create table events (
    id integer not null primary key, at integer not null, kind text not null, subject text not null,
    digest text not null, chain text not null
) strict;
create index ix_events_subject on events (subject);
create table payloads (
    event integer not null primary key references events (id), actor text not null, about text not null,
    salt text not null, payload text not null
) strict;
create index ix_payloads_actor on payloads (actor);
create index ix_payloads_about on payloads (about);
create table exports (
    id integer not null primary key, at integer not null, kind text not null, place text not null,
    checksum text not null, rows integer not null, by text not null, head text not null
) strict;
create table exports_of (
    export integer not null references exports (id), rater text not null, answers integer not null,
    primary key (export, rater)
) strict;
update meta set value = '3' where name = 'schema'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        op.execute(statement)
    _draw()


def _draw() -> None:
    """Every item's place in a random order, as new items get theirs (items.py)."""
    db = op.get_bind()
    seed = db.execute(text("select value from meta where name = 'seed'")).scalar_one()
    for row in db.execute(text("select id, digest from items")).all():
        chance = int(hashlib.sha256(f"{seed}\x1f{row.digest}".encode()).hexdigest()[:8], 16) >> 1
        op.execute(text("update items set chance = :chance where id = :id").bindparams(chance=chance, id=row.id))
