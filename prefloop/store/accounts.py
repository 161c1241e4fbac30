"""Who may sign in: names with passwords, invitations, and sessions that outlive a restart.

Of what is secret the store holds nothing that opens a door: argon2's text of a password, and the sha256 of an
invitation's or a session's 256 random bits.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from prefloop.errors import RequestError
from prefloop.store import events
from prefloop.store.records import folded
from prefloop.store.schema import accounts, failures, invitations, sessions
from prefloop.store.store import Store

ROLES = ("rater", "lead", "admin")
PURPOSES = ("join", "reset")
SESSION = 14 * 86400  # seconds that a session lasts after it was last used
SEEN = 300  # a session's last use is written down at most so often
TRIES, WINDOW = 5, 15 * 60  # wrong passwords from one address, in so many seconds, that lock a name for it
TRIES_ANYWHERE = 50  # ... and from all addresses, that lock it for everybody
SHORTEST, LONGEST = 10, 1000  # characters of a password
AT_ONCE = 4  # passwords looked at, so that many who sign in at once do not take all memory
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # 19 MiB, some 30 ms
NAME = 64  # characters of a name at most


class Locked(RequestError):
    """Too many wrong passwords: the name can be tried again in `seconds`."""

    def __init__(self, seconds: int) -> None:
        minutes = max(1, round(seconds / 60))
        super().__init__(f"too many wrong passwords; try again in {minutes} minute{'s' * (minutes > 1)}")
        self.seconds = seconds


@dataclass(frozen=True)
class Account:
    name: str
    role: str


class Accounts:
    """Hashing is slow on purpose, and never happens while the store's writer waits for it."""

    def __init__(self, store: Store, hasher: PasswordHasher = HASHER) -> None:
        self._store, self._hasher = store, hasher
        self._hashing = BoundedSemaphore(AT_ONCE)
        self._nobodys = self._hash(secrets.token_urlsafe())  # what the password of an unknown name is held to

    # -- accounts ----------------------------------------------------------------------------------------------------

    def add(self, name: str, password: str, role: str = "rater", by: str = events.COMMAND) -> Account:
        made, hashed = Account(named(name), _role(role)), self._hashed(password)
        self._store.write(lambda db: self._insert(db, by, made, hashed))
        return made

    def _insert(self, db: Connection, by: str, made: Account, hashed: str) -> None:
        if _row(db, made.name) is not None:
            raise RequestError(f"name: there is an account {made.name!r} already; choose another name")
        db.execute(insert(accounts).values(name=made.name, password=hashed, role=made.role, state="active",
                                           created=self._store.clock()))
        self._wrote(db, "account made", by, made.name)

    def _wrote(self, db: Connection, kind: str, by: str, name: str) -> None:
        events.wrote(db, self._store.clock(), kind, by, accounts, accounts.c.name == name)

    def verify(self, name: str, password: str, address: str = "") -> Account | None:
        """The account, if the password is right; None if not. It takes as long for a name that is not known.

        `address` is where the caller sits: a stranger who guesses elsewhere does not lock the name's owner out.
        """
        try:
            known = named(name)
        except RequestError:
            return None  # nobody has it, and anybody can see that
        row = self._store.write(lambda db: self._try(db, known, address))
        if not self._matches(row.password if row else self._nobodys, password) or row is None or row.state != "active":
            return None
        renewed = self._hash(password) if self._hasher.check_needs_rehash(row.password) else row.password

        def clear(db: Connection) -> None:
            db.execute(delete(failures).where(failures.c.name == known, failures.c.address == address))
            if renewed != row.password:
                db.execute(update(accounts).where(accounts.c.name == known, accounts.c.password == row.password)
                           .values(password=renewed))
                self._wrote(db, "password hashed anew", known, known)

        self._store.write(clear)
        return Account(row.name, row.role)

    def _try(self, db: Connection, name: str, address: str) -> Row[Any] | None:
        """The account, with a failure noted that only success takes back: many tries at once are counted too.

        Also for names that nobody has: what locks and what does not must not tell which names there are.
        """
        at = self._store.clock()
        recent = db.execute(select(failures.c.at, failures.c.address).where(
            failures.c.name == name, failures.c.at > at - WINDOW).order_by(failures.c.id.desc())).all()
        for times, most in (([row.at for row in recent if row.address == address], TRIES),
                            ([row.at for row in recent], TRIES_ANYWHERE)):
            if len(times) >= most:
                raise Locked(max(1, times[most - 1] + WINDOW - at))
        db.execute(delete(failures).where(failures.c.at <= at - WINDOW))
        db.execute(insert(failures).values(name=name, address=address, at=at))
        return _row(db, name)

    def change_password(self, name: str, old: str, new: str, address: str = "") -> Account | None:
        """None if `old` is wrong. All sessions of the name end."""
        found = self.verify(name, old, address)
        if found is None:
            return None
        hashed = self._hashed(new)
        self._store.write(lambda db: self._set_password(db, found.name, hashed))
        return found

    def _set_password(self, db: Connection, name: str, hashed: str) -> None:
        db.execute(update(accounts).where(accounts.c.name == name).values(password=hashed))
        db.execute(delete(failures).where(failures.c.name == name))
        self._wrote(db, "password set", name, name)
        self._close_doors(db, name, name)

    def _close_doors(self, db: Connection, by: str, name: str) -> None:
        """Sessions, and links that would reset the password once more."""
        db.execute(delete(sessions).where(sessions.c.rater == name))
        links = db.scalars(select(invitations.c.digest).where(
            invitations.c.name == name, invitations.c.purpose == "reset", invitations.c.used.is_(None))).all()
        for link in links:
            self._use(db, "link withdrawn", by, link)

    def _use(self, db: Connection, kind: str, by: str, link: str) -> None:
        at, own = self._store.clock(), invitations.c.digest == link
        db.execute(update(invitations).where(own).values(used=at))
        events.wrote(db, at, kind, by, invitations, own)

    def disable(self, name: str, by: str = events.COMMAND) -> None:
        """Nobody signs in by this name any more; what it rated stays."""
        def work(db: Connection) -> None:
            own = _known(db, name).name
            self._change(db, "account disabled", by, own, state="disabled")
            self._close_doors(db, by, own)

        self._store.write(work)

    def change_role(self, name: str, role: str, by: str = events.COMMAND) -> None:
        known = _role(role)
        self._store.write(lambda db: self._change(db, f"made {known}", by, _known(db, name).name, role=known))

    def enable(self, name: str, by: str = events.COMMAND) -> None:
        """The name can be used again, with the password that it had."""
        self._store.write(lambda db: self._change(db, "account enabled", by, _known(db, name).name, state="active"))

    def _change(self, db: Connection, kind: str, by: str, name: str, **to: str) -> None:
        db.execute(update(accounts).where(accounts.c.name == name).values(**to))
        self._wrote(db, kind, by, name)

    # -- invitations -------------------------------------------------------------------------------------------------

    def invite(self, role: str = "rater", purpose: str = "join", name: str | None = None, hours: float = 72,
               by: str = events.COMMAND) -> str:
        """A token that lets one person make an account (`name`, or a name of their choice), or reset a password."""
        if purpose not in PURPOSES:
            raise RequestError(f"purpose: {purpose!r} is not one of {', '.join(PURPOSES)}")
        if purpose == "reset" and not name:
            raise RequestError("name: say whose password is to be reset")
        if not 0 < hours <= 24 * 90:
            raise RequestError(f"hours: {hours} is not above 0 and at most {24 * 90}")
        token, whom = secrets.token_urlsafe(32), None if name is None else named(name)

        def work(db: Connection) -> None:
            if whom and (_row(db, whom) is None) == (purpose == "reset"):
                raise RequestError(f"name: there is {'no' if purpose == 'reset' else 'already an'} account {whom!r}")
            at, own = self._store.clock(), _digest(token)
            db.execute(insert(invitations).values(digest=own, role=_role(role), name=whom, purpose=purpose,
                                                  expires=at + int(hours * 3600)))
            events.wrote(db, at, "invited" if purpose == "join" else "reset link made", by, invitations,
                         invitations.c.digest == own)

        self._store.write(work)
        return token

    def redeem(self, token: str, name: str | None, password: str) -> Account:
        """Makes the account that an invitation is for, or gives it this password. It can be done once."""
        with self._store.reading() as db:
            self._invitation(db, token)  # hashing is dear: not for a token that opens nothing
        hashed = self._hashed(password)

        def work(db: Connection) -> Account:
            row = self._invitation(db, token)
            if row.purpose == "reset":
                found = _known(db, row.name)
                self._use(db, "link used", found.name, row.digest)
                self._set_password(db, found.name, hashed)
                return Account(found.name, found.role)
            if row.name is None and not name:
                raise RequestError("name: choose a name")
            if row.name is not None and name and folded(name) not in ("", row.name):
                raise RequestError(f"name: this invitation is for {row.name!r}; leave the name empty or type that one")
            made = Account(row.name or named(name or ""), row.role)
            self._use(db, "link used", made.name, row.digest)
            self._insert(db, made.name, made, hashed)
            return made

        return self._store.write(work)

    def _invitation(self, db: Connection, token: str) -> Row[Any]:
        row = db.execute(select(invitations).where(invitations.c.digest == _digest(token))).first()
        if row is None or row.used is not None or row.expires <= self._store.clock():
            raise RequestError("invitation: it is not known, was used, or has run out; ask for another")
        return row

    # -- sessions ----------------------------------------------------------------------------------------------------

    def session(self, name: str) -> str:
        """A token that says who somebody is, until they sign out or stay away for long."""
        token = secrets.token_urlsafe(32)

        def work(db: Connection) -> None:
            at, row = self._store.clock(), _known(db, name)
            if row.state != "active":
                raise RequestError(f"name: the account {row.name!r} is disabled")
            db.execute(delete(sessions).where(sessions.c.expires <= at))
            db.execute(insert(sessions).values(digest=_digest(token), rater=row.name, created=at, seen=at,
                                               expires=at + SESSION))

        self._store.write(work)
        return token

    def who(self, token: str) -> Account | None:
        """Whose session this is; None if it has ended."""
        own, at = _digest(token), self._store.clock()
        with self._store.reading() as db:
            row = db.execute(select(accounts.c.name, accounts.c.role, sessions.c.seen)
                             .join(accounts, accounts.c.name == sessions.c.rater)
                             .where(sessions.c.digest == own, sessions.c.expires > at,
                                    accounts.c.state == "active")).first()
        if row is None:
            return None
        if at - row.seen >= SEEN:
            self._store.write(lambda db: db.execute(update(sessions).where(sessions.c.digest == own)
                                                    .values(seen=at, expires=at + SESSION)))
        return Account(row.name, row.role)

    def end_session(self, token: str) -> None:
        self._store.write(lambda db: db.execute(delete(sessions).where(sessions.c.digest == _digest(token))))

    def end_all(self, name: str, by: str = events.COMMAND) -> None:
        """Signs a name out everywhere."""
        def work(db: Connection) -> None:
            own = _known(db, name).name
            db.execute(delete(sessions).where(sessions.c.rater == own))
            events.record(db, self._store.clock(), "signed out", by, "accounts", {}, about=own)

        self._store.write(work)

    def count(self) -> int:
        with self._store.reading() as db:
            return db.scalar(select(func.count()).select_from(accounts)) or 0

    # -- passwords ---------------------------------------------------------------------------------------------------

    def _hashed(self, password: str) -> str:
        if not SHORTEST <= len(password) <= LONGEST:
            raise RequestError(f"password: {len(password)} characters; it needs {SHORTEST} to {LONGEST}")
        return self._hash(password)

    def _hash(self, password: str) -> str:
        with self._hashing:
            return self._hasher.hash(_plain(password))

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            with self._hashing:
                return self._hasher.verify(hashed, _plain(password[:LONGEST + 1]))
        except (VerificationError, InvalidHashError):
            return False


def named(text: str) -> str:
    """A name as accounts know it: small letters, no signs that hide or turn others, so that no two look the same."""
    name = folded(text)
    if not name or len(name) > NAME:
        raise RequestError(f"name: it has {len(name)} characters; it needs 1 to {NAME}")
    odd = next((one for one in name if unicodedata.category(one)[0] == "C" or one in "\u2028\u2029"), None)
    if odd is not None:
        raise RequestError(f"name: it holds a sign that cannot be seen (U+{ord(odd):04X})")
    return name


def without_account(store: Store, names: Iterable[str]) -> list[str]:
    """Those of these names that no account has; none while there are no accounts."""
    with store.reading() as db:
        known = set(map(folded, db.scalars(select(accounts.c.name))))
    return [name for name in names if folded(name) not in known] if known else []


def _role(role: str) -> str:
    if role not in ROLES:
        raise RequestError(f"role: {role!r} is not one of {', '.join(ROLES)}")
    return role


def _row(db: Connection, name: str) -> Row[Any] | None:
    return db.execute(select(accounts).where(accounts.c.name == name)).first()


def _known(db: Connection, name: str) -> Row[Any]:
    row = _row(db, named(name))
    if row is None:
        raise RequestError(f"name: there is no account {name!r}")
    return row


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(password: str) -> str:
    """One spelling of what was typed, whatever keyboard it was typed on; halves of surrogate pairs are no text."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "replace").decode("utf-8")
