"""Reviews: what is found, against a second, plain version; what a decision does, and what it leaves alone."""

import json
import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import log
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from test_store import Clock, item, leased, url

from prefloop.errors import RequestError
from prefloop.records import Message, Prompt, Ranking, Response
from prefloop.store import Campaign, Judgement, Store, disputing, queue
from prefloop.store.cases import Decision
from prefloop.store.drawing import Drawn
from prefloop.store.reviewing import CAUSES, Closed, Reviews
from prefloop.store.schema import answers, golds, items, leases, payloads, predictions, quarantines
from prefloop.store.schema import reviews as table
from prefloop.store.verifying import verify

FIRST, LAST = (1, 2, 3), (3, 2, 1)
STUDY = Campaign("study", gold_share=0.3, repeats=0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(url(tmp_path), clock=clock, seed=5) as opened:
        opened.apply(STUDY, "be kind", rows=[item(n) for n in range(3)], need=4)
        yield opened


@pytest.fixture
def reviews(store: Store) -> Reviews:
    return Reviews(store)


def answered(store: Store, rater: str, ranks: Sequence[int | None], question: int = 0, **said: object) -> int:
    """The rater answers this question, in the stored order; what comes before it in the queue is put aside."""
    while True:
        lease = store.lease(rater, 60)
        assert lease is not None
        if lease.prompt.messages[0].content == f"question {question}":
            return store.submit(lease.token, rater, Judgement(tuple(ranks), **said)).answer  # type: ignore[arg-type]
        store.release(lease.token, rater)


def predicted(store: Store, scores: Sequence[float], spread: float | None = None, number: int = 0) -> None:
    store.write(lambda db: db.execute(insert(predictions).values(
        item=item_id(store, number), model="runs/reward", scores=json.dumps(scores), spread=spread, at=store.clock())))


def item_id(store: Store, number: int = 0) -> int:
    with store.reading() as db:
        return db.scalars(select(items.c.id).where(items.c.kind == "normal").order_by(items.c.id)).all()[number]


def flagged(store: Store, rater: str, kind: str = "unsafe", question: int = 0) -> None:
    while (lease := leased(store, rater)).prompt.messages[0].content != f"question {question}":
        store.release(lease.token, rater)
    store.flag(lease.token, rater, kind, "look <b>here</b>")
    store.release(lease.token, rater)


def suspected(store: Store, rater: str, state: str = "proposed") -> None:
    store.write(lambda db: db.execute(insert(quarantines).values(
        rater=rater, state=state, why="[]", by="lead", at=store.clock(), closed_by="",
        closed=None if state in ("proposed", "held") else store.clock())))


def why(reviews: Reviews) -> list[list[str]]:
    """The kinds of reasons of every open review."""
    reviews.sweep()
    return [[one["kind"] for one in review.why] for review in reviews.listed()]


# -- arithmetic -------------------------------------------------------------------------------------------------------


def test_contested_pairs_are_those_decided_both_ways() -> None:
    dice = random.Random(3)
    for _ in range(300):
        count = dice.randint(2, 6)
        given = [[dice.choice([None, *range(1, count + 1)]) for _ in range(count)] for _ in range(dice.randint(0, 4))]

        def above(ranks: Sequence[int | None], i: int, j: int) -> bool:
            own, other = ranks[i], ranks[j]
            return own is not None and (other is None or own < other)

        expected = [(i, j) for i, j in combinations(range(count), 2)
                    if any(above(one, i, j) for one in given) and any(above(one, j, i) for one in given)]
        assert disputing.contested(given) == expected, given


@pytest.mark.parametrize(("scores", "spread", "pairs"), [
    ((0.0, 2.3), None, [(0, 1)]),  # the sigmoid of 2.3 is 0.91
    ((0.0, 2.1), None, []),
    ((0.0, 2.3), 0.7, [(0, 1)]),
    ((0.0, 2.3), 0.8, []),  # its members are too far apart
    ((2.3, 0.0), None, []),  # it agrees
    ((0.0, 9.0), 3.1, []),
])
def test_a_model_contradicts_where_it_is_sure(scores: tuple[float, ...], spread: float | None,
                                              pairs: list[tuple[int, int]]) -> None:
    assert disputing.contradicted((1, 2), scores, spread) == pairs


def test_sure_begins_at_its_probability() -> None:
    gap = log(disputing.SURE / (1 - disputing.SURE))
    assert disputing.contradicted((1, 2), (0, gap + 1e-9), None)
    assert not disputing.contradicted((1, 2), (0, gap - 1e-9), None)


@pytest.mark.parametrize(("right", "of", "below"), [(0, 0, False), (0, 2, True), (1, 1, False), (2, 5, False),
                                                    (4, 20, True), (10, 20, False), (14, 20, False)])
def test_only_who_surely_fails_gold_is_not_heard(right: int, of: int, below: bool) -> None:
    from scipy.stats import binomtest

    assert disputing.surely_below(right, of) is below
    if of:
        assert below is bool(binomtest(right, of).proportion_ci(method="wilson").high < disputing.BAR)


# -- what is found ----------------------------------------------------------------------------------------------------


def test_a_disagreement_is_found_once_and_goes_when_it_is_mended(store: Store, reviews: Reviews) -> None:
    answered(store, "ann", FIRST)
    assert why(reviews) == []
    other = answered(store, "bob", (2, 1, 3))
    assert why(reviews) == [["disagreement"]]
    (one,) = reviews.listed()
    assert [tuple(pair) for pair in one.why[0]["pairs"]] == [(0, 1)]
    assert reviews.sweep() == 0, "nothing happened since"
    store.revise(other, "bob", Judgement(FIRST))
    assert why(reviews) == []
    (kept,) = (row for row in all_rows(store) if row.id == one.id)
    assert (kept.state, kept.reviewer) == ("dismissed", "")
    assert reviews.listed("dismissed") == [], "nobody dismissed it"
    store.revise(other, "bob", Judgement(LAST))
    assert why(reviews) == [["disagreement"]]


def all_rows(store: Store) -> list[Any]:
    with store.reading() as db:
        return list(db.execute(select(table).order_by(table.c.id)))


@pytest.mark.parametrize("state", ["proposed", "held", "lifted", "dismissed"])
def test_who_is_suspected_is_not_heard(state: str, store: Store, reviews: Reviews) -> None:
    answered(store, "ann", FIRST)
    answered(store, "bob", LAST)
    suspected(store, "bob", state)
    assert bool(why(reviews)) == (state in ("lifted", "dismissed"))


def test_who_fails_gold_is_not_heard(store: Store, reviews: Reviews) -> None:
    answered(store, "ann", FIRST)
    answered(store, "bob", LAST)
    assert why(reviews) == [["disagreement"]]
    store.apply(STUDY, "be kind", gold=[key(n) for n in range(3)])
    for number in gold_ids(store):
        store.submit(leased_on(store, number, "bob"), "bob", Judgement(LAST))
    assert why(reviews) == [], "three of three wrong is surely below the bar"


def key(number: int) -> Ranking:
    prompt = Prompt((Message("user", f"gold {number}"),))
    return Ranking(prompt, tuple(Response(f"gold {number}.{n}") for n in range(3)), FIRST, "expert")


def gold_ids(store: Store) -> list[int]:
    with store.reading() as db:
        return list(db.scalars(select(items.c.id).where(items.c.kind == "gold").order_by(items.c.id)))


def leased_on(store: Store, number: int, rater: str) -> str:
    """This very item, as the queue would give it in time."""
    turn = queue.Turn(rater, store.clock(), 60, store.seed, False, None, None)
    return store.write(lambda db: queue.lent(db, turn, Drawn(number), lambda item, count: range(count)))


def test_what_does_not_count_is_not_heard(store: Store, reviews: Reviews) -> None:
    answered(store, "ann", FIRST)
    given = answered(store, "bob", LAST)
    store.write(lambda db: db.execute(update(answers).where(answers.c.id == given).values(excluded=1)))
    assert why(reviews) == []


def test_a_sure_model_is_heard_and_an_unsure_one_not(store: Store, reviews: Reviews) -> None:
    answered(store, "ann", FIRST, 0)
    answered(store, "ann", FIRST, 1)
    predicted(store, (0.0, 1.0, 5.0), 0.1, 0)
    predicted(store, (0.0, 1.0, 2.0), 0.1, 1)
    assert why(reviews) == [["model"]]
    assert reviews.listed(why="model") == reviews.listed()
    assert reviews.listed()[0].why[0]["pairs"] == [[0, 2], [1, 2]]


def test_what_was_dismissed_stays_so_when_scores_are_read_again(store: Store, clock: Clock, reviews: Reviews) -> None:
    answered(store, "ann", FIRST)
    predicted(store, (0.0, 1.0, 5.0))
    assert why(reviews) == [["model"]]
    reviews.dismiss(reviews.listed()[0].id, "lead", "the model is wrong")
    clock.at += 10
    store.write(lambda db: db.execute(update(predictions).values(at=clock.at)))
    assert why(reviews) == []


def test_a_flag_opens_a_review_also_where_nobody_answered(store: Store, reviews: Reviews) -> None:
    flagged(store, "ann")
    answered(store, "bob", FIRST)
    answered(store, "cy", LAST)
    predicted(store, (9.0, 0.0, -9.0))
    assert why(reviews) == [["disagreement", "model", "flag"]]
    assert reviews.waiting() == {"all": 1, "disagreement": 1, "model": 1, "flag": 1}
    assert reviews.listed(why="flag") == reviews.listed() == reviews.listed(campaign="study")
    assert reviews.listed(campaign="default") == []
    assert "look" not in json.dumps([row.why for row in all_rows(store)]), "what people wrote stays with the flag"
    case = reviews.case_of(item_id(store))
    assert [(one.rater, one.kind, one.note) for one in case.remarks] == [("ann", "unsafe", "look <b>here</b>")]
    assert [(one.rater, one.ranks, one.guideline, one.trusted) for one in case.opinions] \
        == [("bob", FIRST, None, True), ("cy", LAST, None, True)]
    assert sorted(case.order) == [0, 1, 2]


def test_lists_go_on_after_a_part(store: Store, reviews: Reviews) -> None:
    for n in range(3):
        flagged(store, "ann", question=n)
    reviews.sweep()
    ids = [one.id for one in reviews.listed()]
    assert [one.id for one in reviews.listed(after=ids[0], limit=1)] == ids[1:2]
    for one in ids:
        reviews.dismiss(one, "lead")
    assert [one.id for one in reviews.listed("dismissed", after=ids[2])] == ids[1::-1]


# -- deciding ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_one(store: Store, reviews: Reviews) -> int:
    answered(store, "ann", FIRST, reason="clearer")
    answered(store, "bob", LAST)
    reviews.sweep()
    return reviews.listed()[0].id


def test_a_decision_stands_beside_the_answers(open_one: int, store: Store, reviews: Reviews) -> None:
    before = list(store.rankings())
    said = Decision((1, 1, 2), "taste", note="both are fine")
    assert reviews.decide(open_one, "lead", said) is None
    assert list(store.rankings()) == before
    (ranking,) = reviews.decisions()
    assert (ranking.rater, ranking.ranks, ranking.reason) == ("review:lead", said.ranks, said.note)
    assert ranking.kind == "normal"
    assert ranking.responses == before[0].responses
    assert why(reviews) == [], "the answers still differ, but it is decided"
    (kept,) = reviews.listed("decided")
    assert kept.decision == said
    assert kept.reviewer == "lead"


def test_every_change_is_in_the_log(open_one: int, store: Store, reviews: Reviews) -> None:
    reviews.decide(open_one, "lead", Decision(FIRST, "mistake", gold=True))
    with store.reading() as db:
        told = [(row.actor, json.loads(row.payload)["rows"]) for row in db.execute(select(payloads))]
    mine = [(actor, rows["reviews"][0]["state"]) for actor, rows in told if "reviews" in rows]
    assert mine == [("review queue", "open"), ("lead", "decided")]
    assert [actor for actor, rows in told if "golds" in rows] == ["lead"]


@pytest.mark.parametrize(("said", "what"), [
    (Decision((1, 2), "taste"), "2 ranks for 3 answers"),
    (Decision((1, 2, 4), "taste"), "beyond the 3 answers"),
    (Decision((0, 2, 1), "taste"), "not a whole number"),
    (Decision((None, None, None), "taste"), "no answer was ranked"),
    (Decision(FIRST, "boredom"), "cause"),
    (Decision((1, 1, 1), "taste", gold=True), "no answer above another"),
    (Decision(FIRST, "taste", note="x" * 2001), "note"),
    (Decision(FIRST, "taste", note="\ud800"), "surrogate"),
])
def test_what_cannot_be_decided_is_refused_and_changes_nothing(said: Decision, what: str, open_one: int,
                                                               reviews: Reviews) -> None:
    with pytest.raises(RequestError, match=what):
        reviews.decide(open_one, "lead", said)
    assert [one.id for one in reviews.listed()] == [open_one]


def test_two_reviewers_do_not_overwrite_each_other_unseen(open_one: int, reviews: Reviews) -> None:
    said = Decision(FIRST, "mistake")
    reviews.decide(open_one, "lead", said)
    reviews.decide(open_one, "lead", said)  # a reply was lost
    with pytest.raises(Closed, match="lead decided it"):
        reviews.decide(open_one, "boss", said)
    with pytest.raises(Closed):
        reviews.dismiss(open_one, "boss")
    reviews.decide(open_one, "boss", Decision(LAST, "edge"), again=True)
    (kept,) = reviews.listed("decided")
    assert (kept.reviewer, kept.decision) == ("boss", Decision(LAST, "edge"))


def test_what_is_closed_comes_back_for_news_alone(open_one: int, store: Store, clock: Clock, reviews: Reviews) -> None:
    reviews.dismiss(open_one, "lead", "they may differ")
    assert why(reviews) == []
    clock.at += 10
    answered(store, "cy", (2, 1, 3))
    assert why(reviews) == [["disagreement"]]
    (again,) = reviews.listed()
    with pytest.raises(Closed, match="come back"):
        reviews.decide(open_one, "lead", Decision(FIRST, "edge"), again=True)
    reviews.decide(again.id, "lead", Decision(FIRST, "edge"))
    clock.at += 10
    answered(store, "dee", LAST)
    assert why(reviews) == [], "the decision stands, whoever else differs"
    token = leased_on(store, item_id(store), "eve")
    store.flag(token, "eve", "other", "is it?")
    assert why(reviews) == [["flag"]]


def test_causes_are_counted_and_a_gap_names_the_guideline(store: Store, clock: Clock, reviews: Reviews) -> None:
    version = store.guideline("ann", "study")
    assert version is not None
    for rater, ranks in (("ann", FIRST), ("bob", LAST)):
        store.acknowledge(rater, "study", version.version)
        answered(store, rater, ranks)
    clock.at += 10
    store.apply(STUDY, "be kind, and brief")
    for n in (1, 2):
        flagged(store, "ann", question=n)
    reviews.sweep()
    for one, cause in zip(reviews.listed(), ("guideline", "guideline", "edge"), strict=True):
        reviews.decide(one.id, "lead", Decision(FIRST, cause))
    assert sorted((one.cause, one.reviews, one.guideline) for one in reviews.causes("study")) \
        == [("edge", 1, None), ("guideline", 1, 1), ("guideline", 1, 2)]
    assert reviews.causes("default") == []
    assert set(CAUSES) >= {one.cause for one in reviews.causes()}


# -- gold -------------------------------------------------------------------------------------------------------------


def gold_rows(store: Store) -> list[Any]:
    with store.reading() as db:
        return list(db.execute(select(golds.c.item, golds.c.ranks, golds.c.retired)))


def test_a_decision_becomes_gold_for_those_who_have_not_rated_it(open_one: int, store: Store,
                                                                 reviews: Reviews) -> None:
    gold = reviews.decide(open_one, "lead", Decision((2, 1, 3), "mistake", gold=True))
    assert gold is not None
    store.apply(Campaign("study", gold_share=1, repeats=0), "", rows=[item(n) for n in range(3, 40)])
    with store.reading() as db:
        about = {row.id: row for row in db.execute(select(items))}

    def given(rater: str) -> list[int]:
        """What the queue gives them until the end."""
        found = []
        while lease := store.lease(rater, 60, campaign="study"):
            with store.reading() as db:
                found.append(db.scalar(select(leases.c.item).where(leases.c.token == lease.token)))
            store.release(lease.token, rater)
        return found

    assert gold not in given("ann")
    reviewed = item_id(store)
    fresh = given("cy")
    assert fresh[0] == gold
    assert reviewed not in fresh, "who had it as gold does not meet it again"
    assert about[gold].prompt == about[reviewed].prompt


def test_gold_that_was_decided_stays_when_the_campaign_is_applied_again(open_one: int, store: Store,
                                                                        reviews: Reviews) -> None:
    gold = reviews.decide(open_one, "lead", Decision((2, 1, 3), "mistake", gold=True))
    same = item(0)
    store.apply(STUDY, "be kind", gold=[key(0), Ranking(same.prompt, same.responses, FIRST, "file")])
    assert (gold, "[2, 1, 3]", 0) in gold_rows(store)
    store.apply(STUDY, "be kind", gold=[])
    assert sorted(row.retired for row in gold_rows(store)) == [0, 1]


def test_gold_is_taken_back_with_its_decision(open_one: int, store: Store, reviews: Reviews) -> None:
    gold = reviews.decide(open_one, "lead", Decision(FIRST, "mistake", gold=True))
    assert reviews.decide(open_one, "lead", Decision(LAST, "mistake", gold=True), again=True) == gold
    assert gold_rows(store) == [(gold, "[3, 2, 1]", 0)]
    reviews.dismiss(open_one, "lead", again=True)
    assert gold_rows(store) == [(gold, "[3, 2, 1]", 1)]
    assert list(reviews.decisions()) == []


def test_the_newest_decision_on_an_item_is_the_one_that_leaves(open_one: int, store: Store, clock: Clock,
                                                                reviews: Reviews) -> None:
    reviews.decide(open_one, "lead", Decision(FIRST, "mistake", gold=True))
    clock.at += 60
    flagged(store, "cy")
    reviews.sweep()
    (again,) = reviews.listed()
    assert [one.ranks for one in reviews.decisions()] == [FIRST], "it stands until it is decided anew"
    reviews.decide(again.id, "lead", Decision(LAST, "guideline"))
    assert [one.ranks for one in reviews.decisions()] == [LAST]
    assert [retired for _, _, retired in gold_rows(store)] == [1], "nobody is held to what is right no more"
    clock.at += 60
    flagged(store, "dee")
    reviews.sweep()
    reviews.dismiss(reviews.listed()[0].id, "lead")
    assert [one.ranks for one in reviews.decisions()] == [LAST]
    with store.reading() as db:
        assert not verify(db).bad


def test_a_flagged_gold_item_gets_the_key_that_is_decided(store: Store, reviews: Reviews) -> None:
    store.apply(STUDY, "be kind", gold=[key(0)])
    (before,) = gold_rows(store)
    store.flag(leased_on(store, before.item, "bob"), "bob", "other", "the key is wrong")
    assert why(reviews) == [["flag"]]
    (one,) = reviews.listed()
    assert reviews.decide(one.id, "lead", Decision(LAST, "mistake", gold=True)) == before.item
    assert gold_rows(store) == [(before.item, "[3, 2, 1]", 0)]
    assert [ranking.kind for ranking in reviews.decisions()] == ["gold"]


def test_a_review_of_two_alike_prompts_is_told_by_item(store: Store, reviews: Reviews) -> None:
    """Answers of one prompt in two campaigns are two items: deciding one leaves the other."""
    store.apply(Campaign("other"), rows=[item(0)], need=2)
    flagged(store, "ann")
    reviews.sweep()
    (one,) = reviews.listed()
    reviews.decide(one.id, "lead", Decision(FIRST, "edge"))
    assert list(reviews.decisions("other")) == []
    assert len(list(reviews.decisions("study"))) == 1


def test_the_log_holds_all_that_reviews_wrote(open_one: int, store: Store, reviews: Reviews) -> None:
    reviews.decide(open_one, "lead", Decision(FIRST, "mistake", gold=True))
    flagged(store, "cy", question=1)
    reviews.sweep()
    reviews.dismiss(reviews.listed()[0].id, "lead", "no")
    reviews.decide(open_one, "lead", Decision(FIRST, "edge"), again=True)
    with store.reading() as db:
        assert not verify(db).bad
    store.write(lambda db: db.execute(update(table).where(table.c.id == open_one).values(cause="taste")))
    with store.reading() as db:
        assert verify(db).bad
