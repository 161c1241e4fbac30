"""What SQLite and PostgreSQL do not say alike."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Double, Table, text, types
from sqlalchemy.dialects import postgresql, sqlite

# As SQLite has them: its strict tables know no other names. PostgreSQL's own INTEGER and REAL are too small for times,
# and its texts would be sorted by the rules of a language.
Integer = BigInteger().with_variant(types.Integer(), "sqlite")
REAL = Double().with_variant(types.REAL(), "sqlite")
Text = types.Text(collation="C").with_variant(types.Text(), "sqlite")


def counted(table: str) -> Column[int]:
    """A row's number, one above the highest: there is one writer at a time. A sequence would leave gaps, and know
    nothing of numbers that were given.
    """
    return Column("id", Integer, primary_key=True, autoincrement=False,
                  default=text(f"(select coalesce(max(id), 0) + 1 from {table})"))


def partial(condition: Any) -> dict[str, Any]:
    """An index has only the rows of which this holds."""
    return {"sqlite_where": condition, "postgresql_where": condition}


def upsert(db: Connection, table: Table) -> Any:
    """An insert that may say what it does where there is such a row: `on_conflict_do_nothing`, `..._do_update`."""
    return (postgresql if db.dialect.name == "postgresql" else sqlite).insert(table)
