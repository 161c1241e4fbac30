"""What raters were given and what they answered: one SQLite file, one process that writes to it."""

from prefloop.store.items import item_name
from prefloop.store.records import (
    AlreadyAnswered,
    Applied,
    Campaign,
    Guideline,
    Judgement,
    Lease,
    Lesson,
    NotLeased,
    Past,
    Progress,
    Qualification,
    Receipt,
)
from prefloop.store.store import Store

__all__ = ["AlreadyAnswered", "Applied", "Campaign", "Guideline", "Judgement", "Lease", "Lesson", "NotLeased", "Past",
           "Progress", "Qualification", "Receipt", "Store", "item_name"]
