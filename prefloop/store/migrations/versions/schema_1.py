"""Prompts, responses, items, leases and answers, for one rater without a sign-in. Stores of this schema have no
Alembic version: they are stamped with this one before they go on.
"""

from alembic import op

revision = "1"
down_revision = None

STATEMENTS = """
create table meta (name text not null primary key, value text not null) strict;
create table prompts (digest text not null primary key, id text not null, record text not null) strict;
create table responses (digest text not null primary key, id text not null, record text not null) strict;
create table items (
    id integer not null primary key, digest text not null unique, prompt text not null references prompts (digest),
    need integer not null, done integer not null, kind text not null, stratum text not null, priority integer not null,
    created integer not null, check (need >= 1), check (done between 0 and need)
) strict;
create table choices (
    item integer not null references items (id), place integer not null,
    response text not null references responses (digest), primary key (item, place)
) strict;
create table leases (
    item integer not null references items (id), rater text not null, token text not null unique, shown text not null,
    state text not null, issued integer not null, expires integer not null, primary key (item, rater),
    check (state in ('open', 'skipped', 'done'))
) strict;
create table answers (
    id integer not null primary key, token text not null unique references leases (token),
    item integer not null references items (id), rater text not null, ranks text not null, shown text not null,
    strength text, none_acceptable integer not null, reason text not null, edited text not null, seconds real,
    guideline text not null, kind text not null, surplus integer not null, created integer not null,
    unique (item, rater)
) strict;
create index ix_prompts_id on prompts (id);
create index ix_responses_id on responses (id);
create index items_open on items (priority desc, id) where done < need;
create index leases_of_rater on leases (rater, state);
create index ix_answers_rater on answers (rater);
insert into meta values ('schema', '1'), ('seed', '0')
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        op.execute(statement)
