"""Accounts: what opens, what locks, what runs out, and that the store holds nothing that opens a door."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from prefloop.errors import RequestError
from prefloop.store import Store, schema
from prefloop.store import accounts as module
from prefloop.store.accounts import SESSION, TRIES, WINDOW, Account, Accounts, Locked

QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"


class Clock:
    def __init__(self) -> None:
        self.at = 1_000_000

    def __call__(self) -> int:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(store_url: str, clock: Clock) -> Iterator[Store]:
    with Store(store_url, clock=clock) as opened:
        yield opened


@pytest.fixture
def accounts(store: Store) -> Accounts:
    made = Accounts(store, QUICK)
    made.add("ann", PASSWORD)
    return made


def wrong(accounts: Accounts, name: str, times: int) -> None:
    for _ in range(times):
        assert accounts.verify(name, "wrong horse battery") is None


def test_the_right_password_and_no_other(accounts: Accounts) -> None:
    assert accounts.verify("ann", PASSWORD) == Account("ann", "rater")
    assert accounts.verify(" ANN ", PASSWORD) == Account("ann", "rater"), "names are not told apart by their case"
    for name, password in [("ann", PASSWORD + " "), ("ann", ""), ("bob", PASSWORD), ("", PASSWORD), ("\x00", "x"),
                           ("ann", "\ud800")]:
        assert accounts.verify(name, password) is None


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_five_wrong_passwords_lock_a_name_for_a_quarter_of_an_hour(accounts: Accounts, clock: Clock,
                                                                   name: str) -> None:
    wrong(accounts, name, TRIES)
    clock.at += 60
    with pytest.raises(Locked, match="try again in 14 minutes") as told:
        accounts.verify(name, PASSWORD)
    assert told.value.seconds == WINDOW - 60
    clock.at += told.value.seconds
    assert accounts.verify(name, PASSWORD) == (Account("ann", "rater") if name == "ann" else None)


def test_a_stranger_who_guesses_elsewhere_locks_nobody_out_until_there_are_many(accounts: Accounts) -> None:
    for number in range(10):
        for _ in range(TRIES):
            assert accounts.verify("ann", "wrong horse battery", f"10.0.0.{number}") is None
        with pytest.raises(Locked):
            accounts.verify("ann", PASSWORD, f"10.0.0.{number}")
        if number < 9:
            assert accounts.verify("ann", PASSWORD, "192.0.2.1") is not None
    with pytest.raises(Locked):
        accounts.verify("ann", PASSWORD, "192.0.2.1")


def test_success_forgets_what_was_wrong_before(accounts: Accounts) -> None:
    for _ in range(3):
        wrong(accounts, "ann", TRIES - 1)
        assert accounts.verify("ann", PASSWORD) is not None


def test_tries_at_the_same_time_are_counted_too(accounts: Accounts) -> None:
    def attempt(_: int) -> str:
        try:
            return "wrong" if accounts.verify("ann", "wrong horse battery") is None else "right"
        except Locked:
            return "locked"

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(attempt, range(40)))
    assert (told.count("wrong"), told.count("locked")) == (TRIES, 40 - TRIES)


@pytest.mark.parametrize(("name", "password", "role", "names"), [
    ("ann", PASSWORD, "rater", "already"), ("ANN", PASSWORD, "rater", "already"), ("", PASSWORD, "rater", "name: "),
    ("x" * 65, PASSWORD, "rater", "name: it has 65"), ("b\u202eob", PASSWORD, "rater", "cannot be seen"),
    ("b\x00b", PASSWORD, "rater", "cannot be seen"), ("\ud800", PASSWORD, "rater", "cannot be seen"),
    ("bob", "short", "rater", "password: 5 characters"), ("bob", "x" * 1001, "rater", "password: 1001"),
    ("bob", PASSWORD, "owner", "role: 'owner'")])
def test_what_makes_no_account(accounts: Accounts, name: str, password: str, role: str, names: str) -> None:
    with pytest.raises(RequestError, match=names):
        accounts.add(name, password, role)
    assert accounts.count() == 1


def test_sessions_outlive_a_restart_and_end(store: Store, accounts: Accounts, clock: Clock, store_url: str) -> None:
    first, second = accounts.session("ann"), accounts.session("ann")
    store.close()
    with Store(store_url, clock=clock) as again:
        accounts = Accounts(again, QUICK)
        clock.at += SESSION - 1
        assert accounts.who(first) == Account("ann", "rater")
        clock.at += SESSION - 1
        assert accounts.who(first) is not None, "a session that is used goes on"
        assert accounts.who(second) is None, "one that is not used runs out"
        accounts.end_session(first)
        assert accounts.who(first) is None
        third, fourth = accounts.session("ann"), accounts.session("ann")
        accounts.end_all("ann")
        assert accounts.who(third) is accounts.who(fourth) is None
        assert accounts.who("made up") is accounts.who("") is accounts.who("\ud800") is None


def test_a_changed_password_and_a_disabled_name_end_every_session(accounts: Accounts) -> None:
    token = accounts.session("ann")
    assert accounts.change_password("ann", "wrong horse battery", "a new long password") is None
    assert accounts.who(token) is not None
    assert accounts.change_password("ann", PASSWORD, "a new long password") == Account("ann", "rater")
    assert accounts.who(token) is None
    assert accounts.verify("ann", PASSWORD) is None
    token = accounts.session("ann")
    link = accounts.invite(purpose="reset", name="ann")
    accounts.disable("ann")
    assert accounts.who(token) is None
    with pytest.raises(RequestError, match="is disabled"):
        accounts.session("ann")
    with pytest.raises(RequestError, match="invitation: "):
        accounts.redeem(link, None, PASSWORD)
    assert accounts.verify("ann", "a new long password") is None
    with pytest.raises(RequestError, match="there is no account 'bob'"):
        accounts.disable("bob")


def test_an_invitation_is_redeemed_once_and_in_time(accounts: Accounts, clock: Clock) -> None:
    open_, named, late = accounts.invite("lead"), accounts.invite(name="cy"), accounts.invite(hours=1)
    with pytest.raises(RequestError, match="choose another name"):
        accounts.redeem(open_, "ann", PASSWORD)
    with pytest.raises(RequestError, match="choose a name"):
        accounts.redeem(open_, None, PASSWORD)
    assert accounts.redeem(open_, "Bob", PASSWORD) == Account("bob", "lead"), "a name that was taken cost nothing"
    with pytest.raises(RequestError, match="this invitation is for 'cy'"):
        accounts.redeem(named, "somebody else", PASSWORD)
    assert accounts.redeem(named, "", PASSWORD) == Account("cy", "rater"), "it names who it is for"
    clock.at += 3600
    for token in (open_, named, late, "made up", ""):
        with pytest.raises(RequestError, match="invitation: "):
            accounts.redeem(token, "dora", PASSWORD)


def test_a_password_is_reset_by_an_invitation(accounts: Accounts) -> None:
    session = accounts.session("ann")
    wrong(accounts, "ann", TRIES)
    token, other = (accounts.invite(purpose="reset", name="ann") for _ in range(2))
    assert accounts.redeem(token, None, "a new long password") == Account("ann", "rater")
    assert accounts.verify("ann", "a new long password") is not None, "and the name is unlocked"
    assert accounts.who(session) is None
    with pytest.raises(RequestError, match="invitation: "):
        accounts.redeem(other, None, "yet another password")
    wrong_requests: list[dict[str, Any]] = [{"purpose": "reset"}, {"purpose": "reset", "name": "bob"}, {"name": "ann"},
                                            {"purpose": "x"}, {"hours": 0}, {"role": "owner"}]
    for asked in wrong_requests:
        with pytest.raises(RequestError):
            accounts.invite(**asked)


def test_two_who_redeem_one_invitation_at_once(accounts: Accounts) -> None:
    token = accounts.invite()

    def redeem(number: int) -> bool:
        try:
            return bool(accounts.redeem(token, f"rater {number}", PASSWORD))
        except RequestError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(redeem, range(16))) == 1
    assert accounts.count() == 2


def test_a_copy_of_the_store_opens_nothing(store: Store, accounts: Accounts) -> None:
    secret = [PASSWORD, accounts.session("ann"), accounts.invite()]
    with store.reading() as db:
        everything = "\n".join(str(row) for table in schema.tables.sorted_tables for row in db.execute(select(table)))
    assert not [one for one in secret if one in everything]
    assert "$argon2id$" in everything


def test_a_file_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'f.db'}"):
        assert (tmp_path / "f.db").stat().st_mode & 0o077 == 0


def test_hashes_of_lesser_strength_are_renewed(store: Store, accounts: Accounts) -> None:
    stronger = Accounts(store, module.HASHER)
    assert stronger.verify("ann", PASSWORD) is not None
    with store.reading() as db:
        assert "m=19456,t=2" in db.exec_driver_sql("select password from accounts").scalar_one()
    assert stronger.verify("ann", PASSWORD) is not None
