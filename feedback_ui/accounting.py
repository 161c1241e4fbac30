"""`prefloop feedback account CONFIG`: adds an account, or changes one that is there."""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefloop import config
from prefloop.errors import RequestError

from . import control, server
from .inviting import require_sign_in
from .server import FeedbackConfig


@dataclass(frozen=True)
class AccountConfig:
    """`account:`. A password is never a key: the command line can be read by others."""

    name: str
    action: Literal["add", "role", "disable", "enable", "sign_out"] = "add"
    role: Literal["rater", "lead", "admin"] = "rater"
    password_file: str | None = None


def sections() -> config.Sections:
    return {**server.sections(), "account": config.Section(AccountConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    wanted: AccountConfig
    settings, _, wanted = config.build(asked, sections())
    require_sign_in(settings)
    if wanted.action == "add":
        control.perform(settings.store, "add", name=wanted.name, role=wanted.role, password=password_of(wanted))
    else:
        control.perform(settings.store, "account", action=wanted.action, name=wanted.name, role=wanted.role)
    become = f"is {'an' if wanted.role == 'admin' else 'a'} {wanted.role} now"
    done = {"add": become, "role": become, "disable": "can sign in no more, and is signed out",
            "enable": "can sign in again", "sign_out": "is signed out everywhere"}
    print(f"{wanted.name} {done[wanted.action]}.")


def password_of(wanted: AccountConfig) -> str:
    if wanted.password_file:
        try:
            lines = Path(wanted.password_file).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise RequestError(f"account.password_file: {wanted.password_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise RequestError(f"account.password_file: {wanted.password_file}: it is not UTF-8") from None
        if not lines or not lines[0].strip():
            raise RequestError(f"account.password_file: {wanted.password_file}: its first line is empty")
        return lines[0]
    if not sys.stdin.isatty():
        raise RequestError("account.password_file: there is no terminal to ask for the password; name a file that "
                           "holds it")
    first = getpass.getpass(f"Password for {wanted.name}: ")
    if getpass.getpass("Once more: ") != first:
        raise RequestError("the two passwords differ; nothing was changed")
    return first
