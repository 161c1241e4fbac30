"""A simulated rater for tests of the loop: queues a file of answers and prefers those with more of the letter e.

usage: python tests/simulated_rater.py STORE ANSWERS
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefloop.feedback_ui import assignment, campaigns
from prefloop.store import Judgement, Store


def rank(url: str, answers: Path, rater: str = "simulated") -> int:
    given = 0
    with Store(url) as store:
        campaigns.apply(store, campaigns.CampaignConfig(answers=str(answers)), several=False)
        while task := assignment.next_task(store, rater):
            share = [text.count("e") / max(len(text), 1) for text in task.answers]
            ranks = [1 + sum(other > own for other in share) for own in share]
            assignment.submit(store, rater, task.token, Judgement(tuple(ranks)))
            given += 1
    return given


if __name__ == "__main__":
    print(f"{rank(sys.argv[1], Path(sys.argv[2]))} rankings by a simulated rater")
