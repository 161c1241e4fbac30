"""The demo's world: the grammar reads what it writes, the truth sees every fault, raters are who they say they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from prefloop.launch.world import baselines, raters
from prefloop.launch.world.grammar import (
    CORPUS,
    DEMONSTRATED,
    NOT_FLUENT,
    Request,
    corpus,
    demonstrations,
    fact_of,
    on_topic,
    parse,
    prompts,
    request_of,
    sample_answer,
    sample_prompt,
    truth,
)
from prefloop.records import Message, Pair, Prompt

PROMPT = Prompt((Message("user", "Hello. My kettle came broken. I have the plus plan. Best, Tom."),))
GOOD = ("I am sorry for the trouble. We will repair your kettle for free. Your plan covers repairs for 12 months. "
        "Have a lovely day.")


def test_the_prompt_is_read_as_it_was_meant() -> None:
    assert request_of(PROMPT) == Request("broken item", "kettle", "plus")
    rng = Random(3)
    for _ in range(300):
        meant = Request(rng.choice(["refund", "password"]), "tent", rng.choice(["basic", "team"]))
        assert request_of(sample_prompt(meant, rng)) == meant


def test_a_prompt_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="not a prompt of this world"):
        request_of(Prompt((Message("user", "What is the capital of France?"),)))


def test_every_answer_of_the_grammar_parses() -> None:
    assert all(parse(d.answer) is not None for d in corpus(2000, 0))
    assert all(parse(d.answer) is not None for d in demonstrations(500, 0))


def test_a_good_answer_is_worth_the_most() -> None:
    assert truth(PROMPT, GOOD) == 2.0 + 1.0 + 1.0
    assert max(truth(PROMPT, d.answer) for d in corpus(500, 0)) <= truth(PROMPT, GOOD)


@pytest.mark.parametrize(("said", "instead", "cost"), [
    ("repair your kettle for free", "refund the price of your kettle", 4.0),
    ("repair your kettle", "repair your lamp", 4.0),
    (" Your plan covers repairs for 12 months.", "", 1.0),
    ("12 months", "24 months", 3.0),
    ("12 months", "7 months", 3.0),
    ("I am sorry for the trouble.", "I have read your message.", 0.0),
    ("I am sorry for the trouble.", "This is your own fault.", 2.0),
    (" Have a", " Our office has a nice garden. Have a", 0.4),
    (" Have a", " Our office has a nice garden. You can also visit our web site. Have a", 0.8),
])
def test_each_fault_costs_what_it_should(said: str, instead: str, cost: float) -> None:
    assert said in GOOD
    assert truth(PROMPT, GOOD) - truth(PROMPT, GOOD.replace(said, instead)) == pytest.approx(cost)


def test_inventing_is_worse_than_silence_and_silence_worse_than_knowing() -> None:
    silent = GOOD.replace(" Your plan covers repairs for 12 months.", "")
    assert truth(PROMPT, GOOD) > truth(PROMPT, silent) > truth(PROMPT, GOOD.replace("12", "36"))


@pytest.mark.parametrize("answer", [
    "", "Sure!", "We will repair your kettle for free", "We will repair your spaceship for free.",
    "We will repair your kettle for free. Lorem ipsum.",
    "Your plan covers repairs for 12 months. We will repair your kettle for free.",
    "We will repair your kettle for free. We will repair your kettle for free.",
    "Have a lovely day. We will repair your kettle for free.", "I am sorry for the trouble.",
])
def test_what_is_not_of_the_grammar_is_not_fluent(answer: str) -> None:
    assert parse(answer) is None
    assert truth(PROMPT, answer) == NOT_FLUENT < min(truth(PROMPT, d.answer) for d in corpus(500, 1))


def test_the_faults_occur_as_often_as_stated() -> None:
    for faults in (CORPUS, DEMONSTRATED):
        rng, seen, n = Random(0), Counter[str](), 4000
        request = Request("broken item", "kettle", "plus")
        for _ in range(n):
            parsed = parse(sample_answer(request, faults, rng))
            assert parsed is not None
            seen[fact_of(request, parsed)] += 1
            seen["off"] += not on_topic(request, parsed)
            seen[parsed.tone] += 1
            seen["padded"] += parsed.padding > 0
        expected = {"off": faults.off_topic, "wrong": faults.fact_wrong, "absent": faults.fact_absent,
                    "rude": faults.rude, "polite": faults.polite, "padded": faults.padded}
        for name, share in expected.items():
            assert seen[name] / n == pytest.approx(share, abs=0.03), name


def test_a_seed_decides_everything_and_prompts_are_distinct() -> None:
    assert prompts(200, 5) == prompts(200, 5)
    assert prompts(200, 5) != prompts(200, 6)
    assert demonstrations(50, 5) == demonstrations(50, 5)
    found = prompts(800, 0)
    assert len({p.id for p in found}) == 800
    assert {len(p.messages) for p in found} == {1, 3}
    assert {p.source for p in found} == {"world"}
    assert all(p.stratum == request_of(p).issue for p in found)


def test_the_corpus_never_shows_a_test_prompt() -> None:
    assert {d.prompt.split for d in corpus(1000, 0)} == {"train", "validation"}


def _agreement(rater: raters.Rater, n: int = 300) -> float:
    rng, right = Random(1), []
    for prompt in prompts(n, 2):
        request = request_of(prompt)
        first, second = sample_answer(request, CORPUS, rng), sample_answer(request, CORPUS, rng)
        gap = truth(prompt, first) - truth(prompt, second)
        a, b = raters.rank(rater, prompt, [first, second], rng)
        if gap and a != b:
            right.append((a < b) == (gap > 0))
    return sum(right) / len(right)


def test_raters_agree_with_the_truth_as_much_as_their_kind_does() -> None:
    careful, noisy, clicks = (_agreement(kind) for kind in (raters.CAREFUL, raters.NOISY, raters.RANDOM))
    assert careful > 0.93
    assert 0.65 < noisy < careful
    assert 0.4 < clicks < 0.6


def test_the_left_lover_prefers_the_left_and_the_long_lover_the_long() -> None:
    rng = Random(0)
    lefts = [raters.rank(raters.LEFT, PROMPT, [GOOD, GOOD], rng) for _ in range(100)]
    assert sum(a < b for a, b in lefts) > 90
    filler = GOOD.replace(" Have a", " Our office has a nice garden. You can also visit our web site. Have a")
    longs = [raters.rank(raters.LONG, PROMPT, [GOOD, filler], rng) for _ in range(100)]
    assert sum(b < a for a, b in longs) > 80


def test_alike_answers_tie() -> None:
    calm = replace(raters.CAREFUL, noise=0.0)
    assert raters.rank(calm, PROMPT, [GOOD, "no", GOOD], Random(0)) == [1, 2, 1]


def test_the_crew_is_mixed_and_its_names_hide_the_kind() -> None:
    crew = raters.crew(0)
    assert Counter(r.kind for r in crew) == {"careful": 8, "noisy": 6, "long": 2, "left": 2, "random": 2}
    assert [r.name for r in crew] == [r.name for r in raters.crew(1)]
    assert [r.kind for r in crew] != [r.kind for r in raters.crew(1)]


def _true_pairs(n: int, seed: int) -> list[Pair]:
    rng, found = Random(seed), []
    for prompt in prompts(n, seed):
        answers = {sample_answer(request_of(prompt), CORPUS, rng) for _ in range(4)}
        for a, b in combinations(sorted(answers, key=lambda text: (-truth(prompt, text), text)), 2):
            if truth(prompt, a) > truth(prompt, b):
                found.append(Pair(prompt, a, b))
    return found


def test_what_cannot_understand_stays_near_chance() -> None:
    test = _true_pairs(300, 7)
    assert 0.5 <= baselines.length_accuracy(test) < 0.62
    assert 0.55 < baselines.bag_of_words_accuracy(_true_pairs(500, 8), test) < 0.70


def test_the_baselines_learn_what_they_can_see() -> None:
    pairs = [Pair(PROMPT, f"good word {i}", f"bad word {i} and more") for i in range(20)]
    assert baselines.length_accuracy(pairs) == 1.0
    assert baselines.bag_of_words_accuracy(pairs, pairs) == 1.0
    flipped = [Pair(p.prompt, p.rejected, p.chosen) for p in pairs]
    assert baselines.bag_of_words_accuracy(pairs, flipped) == 0.0


BASE = Path(__file__).parent.parent / "launch" / "world" / "base"


def test_the_shipped_tokenizer_says_what_pretraining_said() -> None:
    from transformers import AutoTokenizer

    from prefloop.launch.world.pretrain import Recipe, row_of

    tokenizer = AutoTokenizer.from_pretrained(str(BASE))
    assert len({tokenizer.pad_token, tokenizer.eos_token, "<|user|>", "<|assistant|>", "<|system|>"}) == 5
    for demonstration in corpus(50, 4):
        row = row_of(demonstration, tokenizer, Recipe(reply_share=0.0), Random(0))
        chat = [*demonstration.prompt.chat(), {"role": "assistant", "content": demonstration.answer}]
        rendered = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
        assert rendered["input_ids"] == row.tokens
        earlier = len(demonstration.prompt.messages) > 1  # the shop's earlier turn is in the mask, not in the loss
        assert earlier or rendered["assistant_masks"] == [int(weight) for weight in row.weights]
        opened = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True, return_dict=True)
        assert opened["input_ids"] == row.tokens[:row.weights.index(1.0)]


def test_what_the_truth_turns_on_is_one_token_each() -> None:
    """So that an answer is cheap to sample, and a product or number is said or not said, never half."""
    from transformers import AutoTokenizer

    from prefloop.launch.world.grammar import VALUES
    from prefloop.launch.world.sentences import PLANS, PRODUCTS

    tokenizer = AutoTokenizer.from_pretrained(str(BASE))
    for word in (*PRODUCTS, *PLANS, *map(str, VALUES)):
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word
    assert tokenizer.decode(tokenizer("Zoë says: ¿qué? 🙂")["input_ids"]) == "Zoë says: ¿qué? 🙂"


def test_the_shipped_base_answers_in_the_grammar() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prefloop.launch.world.pretrain import figures, sample

    assert sum(file.stat().st_size for file in BASE.iterdir() if file.is_file()) < 12_000_000
    model, tokenizer = AutoModelForCausalLM.from_pretrained(str(BASE)), AutoTokenizer.from_pretrained(str(BASE))
    asked = [p for p in prompts(400, 11) if p.split == "test"][:24]
    found = figures(asked, sample(model, tokenizer, asked, 4, 0), tokenizer)
    assert found["fluent"] > 0.85
    assert 0.5 < found["on_topic"] < 0.9
    assert found["fact_wrong"] > 0.1
