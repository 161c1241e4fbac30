"""Campaigns, kinds of items, revisions of answers, flags, guidelines, accounts and pictures.

What was there belongs to a campaign named default. Written in SQL: it must go on making schema 2, whatever schema.py
says by then. SQLite cannot change a constraint, so three tables are made anew and filled from the old ones.
"""

import time

from alembic import op

revision = "2"
down_revision = "1"

NEW = """
create table campaigns (
    id integer not null primary key, name text not null unique, settings text not null, state text not null,
    created integer not null, check (state in ('open', 'paused'))
) strict;
create table pictures (
    digest text not null primary key, kind text not null, data blob not null
) strict;
create table illustrations (
    prompt text not null references prompts (digest), source text not null,
    picture text not null references pictures (digest), primary key (prompt, source)
) strict;
create table new_items (
    id integer not null primary key, digest text not null, campaign integer not null references campaigns (id),
    prompt text not null references prompts (digest), need integer not null, done integer not null, kind text not null,
    rater text, mirrors integer references items (id), stratum text not null, priority integer not null,
    created integer not null, unique (campaign, digest), check (need >= 1), check (done between 0 and need),
    check (kind in ('normal', 'gold', 'repeat', 'qualification')),
    check ((kind = 'repeat') = (rater is not null and mirrors is not null))
) strict;
create table new_answers (
    id integer not null primary key, token text not null references leases (token),
    item integer not null references items (id), rater text not null, revision integer not null, key text not null,
    retracted integer, ranks text not null, shown text not null, strength text, none_acceptable integer not null,
    reason text not null, edited text not null, seconds real, guideline text not null, kind text not null,
    surplus integer not null, created integer not null, unique (item, rater, revision)
) strict;
create table golds (
    item integer not null primary key references items (id), ranks text not null, none_acceptable integer not null,
    explanation text not null, retired integer not null
) strict;
create table flags (
    item integer not null references items (id), rater text not null, kind text not null, note text not null,
    at integer not null, primary key (item, rater, kind), check (kind in ('unsafe', 'personal', 'broken', 'other'))
) strict;
create table guidelines (
    campaign integer not null references campaigns (id), number integer not null, version text not null,
    text text not null, created integer not null, primary key (campaign, number)
) strict;
create table acknowledgements (
    rater text not null, campaign integer not null references campaigns (id), number integer not null,
    version text not null, at integer not null, primary key (rater, campaign, number)
) strict;
create table warnings (
    id integer not null primary key, rater text not null, campaign integer not null references campaigns (id),
    version text not null, accepted integer not null, at integer not null
) strict;
create table verdicts (
    rater text not null, campaign integer not null references campaigns (id), needed integer not null,
    right integer not null, state text not null, at integer not null, primary key (rater, campaign),
    check (state in ('passed', 'failed'))
) strict;
create table accounts (
    name text not null primary key, password text not null, role text not null, state text not null,
    created integer not null, check (role in ('rater', 'lead', 'admin')), check (state in ('active', 'disabled'))
) strict;
create table invitations (
    digest text not null primary key, role text not null, name text, purpose text not null, expires integer not null,
    used integer, check (purpose in ('join', 'reset'))
) strict;
create table sessions (
    digest text not null primary key, rater text not null references accounts (name), created integer not null,
    seen integer not null, expires integer not null
) strict;
create table failures (
    id integer not null primary key, name text not null, address text not null, at integer not null
) strict
"""

# An item that was made by hand as gold or repeat has nothing to be gold or a repeat of: it was rated as any other.
MOVED = """
insert into new_items (id, digest, campaign, prompt, need, done, kind, stratum, priority, created)
    select id, digest, 1, prompt, need, done, 'normal', stratum, priority, created from items;
insert into new_answers (id, token, item, rater, revision, key, ranks, shown, strength, none_acceptable, reason,
                         edited, seconds, guideline, kind, surplus, created)
    select id, token, item, rater, 1, '', ranks, shown, strength, none_acceptable, reason, edited, seconds, guideline,
           kind, surplus, created from answers;
drop table answers;
drop table items;
alter table new_items rename to items;
alter table new_answers rename to answers;
create index items_open on items (campaign, kind, priority desc, id) where done < need;
create index items_of_campaign on items (campaign, kind, need, done);
create index items_by_name on items (digest);
create unique index repeats_of_rater on items (rater, mirrors) where kind = 'repeat';
create unique index answers_counting on answers (item, rater) where retracted is null;
create unique index answers_by_key on answers (rater, key) where key != '';
create index answers_of_rater on answers (rater, id);
create index answers_surplus on answers (item) where surplus = 1;
create index warnings_of_rater on warnings (rater, campaign, version);
create index ix_sessions_rater on sessions (rater);
create index failures_of_name on failures (name, at);
update meta set value = '2' where name = 'schema'
"""


def upgrade() -> None:
    for statement in NEW.split(";"):
        op.execute(statement)
    op.execute(f"insert into campaigns (id, name, settings, state, created) "
               f"values (1, 'default', '{{}}', 'open', {int(time.time())})")
    for statement in MOVED.split(";"):
        op.execute(statement)
