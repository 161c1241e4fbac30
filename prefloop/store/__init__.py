"""What raters are given and what they answered: one SQLite file, one process that writes to it."""

from prefloop.store.store import AlreadyAnswered, Judgement, Lease, NotLeased, Progress, Receipt, Store, item_name

__all__ = ["AlreadyAnswered", "Judgement", "Lease", "NotLeased", "Progress", "Receipt", "Store", "item_name"]
