"""Prompts, responses, items, leases and answers, for one rater without a sign-in. Stores of this schema have no
Alembic version: they are stamped with this one before they go on.
"""

revision = "1"
down_revision = None
