"""The demo's world: prompts, answers with faults, and the truth about any answer.

An answer is [greeting] [acknowledgement] resolution [fact] [padding ...] [closing]. Faults are independent of each
other. Whether a resolution is on topic, or a fact right, depends on the prompt; tone and padding show in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from prefloop.records import Demonstration, Message, Prompt

from .sentences import (
    ASKS_ISSUE,
    ASKS_PLAN,
    HAILS,
    ISSUES,
    NAMES,
    PADDING,
    PLAN_FORMS,
    PLANS,
    PRODUCTS,
    RECAPS,
    REMARKS,
    REPLIES,
    SIGNATURES,
    TONES,
)

# What an answer is worth. Topic and fact weigh most and cannot be seen without the prompt; an invented fact costs
# twice what a right one earns, so that saying something is, by itself, worth nothing.
ON_TOPIC, OFF_TOPIC = 2.0, -2.0
FACT = {"right": 1.0, "absent": 0.0, "wrong": -2.0}
TONE = {"polite": 1.0, "neutral": 0.0, "rude": -1.0}
PAD = -0.4
NOT_FLUENT = -8.0


@dataclass(frozen=True)
class Request:
    """What a customer is about."""

    issue: str
    product: str
    plan: str


@dataclass(frozen=True)
class Faults:
    """How often each fault occurs."""

    off_topic: float
    fact_wrong: float
    fact_absent: float
    rude: float
    polite: float
    padded: float


# In the corpus the right content is far likelier than any one wrong alternative: a good model knows what is right.
# Before that it reads a simpler corpus with few faults, from which it learns to look at the prompt at all.
PRIMER = Faults(off_topic=0.05, fact_wrong=0.05, fact_absent=0.20, rude=0.25, polite=0.35, padded=0.20)
CORPUS = Faults(off_topic=0.30, fact_wrong=0.30, fact_absent=0.20, rude=0.25, polite=0.35, padded=0.40)
DEMONSTRATED = Faults(off_topic=0.22, fact_wrong=0.24, fact_absent=0.20, rude=0.20, polite=0.38, padded=0.36)


@dataclass(frozen=True)
class Parsed:
    """What an answer says: `fact` is the issue and the value that its fact sentence states, if it has one."""

    issue: str
    product: str
    fact: tuple[str, int] | None
    tone: str
    padding: int


@dataclass(frozen=True)
class _Part:
    """One sentence of an answer: its kind is a letter of ORDER."""

    kind: str
    issue: str = ""
    product: str = ""
    value: int = 0
    tone: str = "neutral"


ORDER = re.compile("G?A?RF?P*C?")
_LETTERS = {"greeting": "G", "acknowledgement": "A", "closing": "C"}
VALUES = tuple(sorted({value for issue in ISSUES.values() for value in issue.values}))


def _parts() -> dict[str, _Part]:
    """Every sentence that an answer may hold."""
    found = {text: _Part("P") for text in PADDING}
    for tone, parts in TONES.items():
        for name, texts in parts.items():
            found.update({text: _Part(_LETTERS[name], tone=tone) for text in texts})
    for name, issue in ISSUES.items():
        for form in issue.resolutions:
            found.update({form.format(product=p): _Part("R", name, p) for p in PRODUCTS})
        for form in issue.facts:
            found.update({form.format(value=v): _Part("F", name, value=v) for v in VALUES})
    return found


PARTS = _parts()
COMPLAINTS = {form.format(product=product): (name, product)
              for name, issue in ISSUES.items() for form in issue.complaints for product in PRODUCTS}
PLAN_SENTENCES = {form.format(plan=plan): plan for form in PLAN_FORMS for plan in PLANS}


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) ", text)


def parse(answer: str) -> Parsed | None:
    """What the answer says, or None if it is not fluent: a sentence of no known form, or parts out of order."""
    parts = [PARTS.get(sentence) for sentence in sentences(answer.strip())]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not ORDER.fullmatch("".join(part.kind for part in known)):
        return None
    resolution = next(part for part in known if part.kind == "R")
    fact = next(((part.issue, part.value) for part in known if part.kind == "F"), None)
    tones = {part.tone for part in known}
    tone = "rude" if "rude" in tones else "polite" if "polite" in tones else "neutral"
    return Parsed(resolution.issue, resolution.product, fact, tone, sum(part.kind == "P" for part in known))


def request_of(prompt: Prompt) -> Request:
    """Reads a prompt of this world; a prompt from elsewhere is a ValueError."""
    said = [s for message in prompt.messages if message.role == "user" for s in sentences(message.content)]
    about = [COMPLAINTS[s] for s in said if s in COMPLAINTS]
    plans = [PLAN_SENTENCES[s] for s in said if s in PLAN_SENTENCES]
    if len(about) != 1 or len(plans) != 1:
        raise ValueError("not a prompt of this world: it needs one complaint and one plan")
    return Request(*about[0], plans[0])


def on_topic(request: Request, parsed: Parsed) -> bool:
    return (parsed.issue, parsed.product) == (request.issue, request.product)


def fact_of(request: Request, parsed: Parsed) -> str:
    """right, wrong or absent: the policy depends on the issue that is named and on the customer's plan."""
    if parsed.fact is None:
        return "absent"
    issue, value = parsed.fact
    return "right" if value == ISSUES[issue].values[PLANS.index(request.plan)] else "wrong"


def truth(prompt: Prompt, answer: str) -> float:
    """What the answer is worth. Only the simulated raters and the final check may ask."""
    parsed, request = parse(answer), request_of(prompt)
    if parsed is None:
        return NOT_FLUENT
    topic = ON_TOPIC if on_topic(request, parsed) else OFF_TOPIC
    return topic + FACT[fact_of(request, parsed)] + TONE[parsed.tone] + PAD * parsed.padding


def sample_request(rng: Random) -> Request:
    return Request(rng.choice(list(ISSUES)), rng.choice(PRODUCTS), rng.choice(PLANS))


def sample_prompt(request: Request, rng: Random) -> Prompt:
    """One user turn, or (one in four) three turns in which the shop asks for what is missing."""
    hail = [rng.choice(HAILS)] if rng.random() < 0.5 else []
    remark = [rng.choice(REMARKS).format(number=rng.randrange(100, 1000))] if rng.random() < 0.5 else []
    signature = [rng.choice(SIGNATURES).format(name=rng.choice(NAMES))] if rng.random() < 0.3 else []
    complaint = rng.choice(ISSUES[request.issue].complaints).format(product=request.product)
    core = [complaint, rng.choice(PLAN_FORMS).format(plan=request.plan)]
    plan_first = rng.random() < 0.3
    if plan_first:
        core.reverse()
    if rng.random() < 0.75:
        turns = [("user", [*hail, *core, *remark, *signature])]
    else:
        asks = rng.choice(ASKS_ISSUE if plan_first else ASKS_PLAN)
        turns = [("user", [*hail, core[0]]), ("assistant", [asks]), ("user", [core[1], *remark, *signature])]
    messages = tuple(Message(role, " ".join(said)) for role, said in turns)
    return Prompt(messages, stratum=request.issue, source="world")


def _content(request: Request, faults: Faults, rng: Random) -> list[str]:
    """The resolution and the fact, each with its fault."""
    issue, product = request.issue, request.product
    if rng.random() < faults.off_topic:
        if rng.random() < 0.5:
            issue = rng.choice([other for other in ISSUES if other != issue])
        else:
            product = rng.choice([other for other in PRODUCTS if other != product])
    said = [rng.choice(ISSUES[issue].resolutions).format(product=product)]
    luck = rng.random()
    if luck >= faults.fact_absent:
        plan = PLANS.index(request.plan)
        if luck < faults.fact_absent + faults.fact_wrong:
            plan = rng.choice([other for other in range(len(PLANS)) if other != plan])
        said.append(rng.choice(ISSUES[issue].facts).format(value=ISSUES[issue].values[plan]))
    return said


def sample_answer(request: Request, faults: Faults, rng: Random) -> str:
    luck = rng.random()
    tone = "rude" if luck < faults.rude else "polite" if luck < faults.rude + faults.polite else "neutral"
    toned = rng.sample(list(_LETTERS), rng.choice((1, 2)))
    said = {name: [rng.choice(TONES[tone][name])] if name in toned else [] for name in _LETTERS}
    padding = rng.sample(PADDING, rng.choice((1, 2, 3))) if rng.random() < faults.padded else []
    content = _content(request, faults, rng)
    return " ".join([*said["greeting"], *said["acknowledgement"], *content, *padding, *said["closing"]])


def reply(demonstration: Demonstration, rng: Random) -> str:
    """What the customer writes back: what it was about, or a remark on one side of the answer.

    Conversations that people hold are full of this, and it is where a language model learns what an answer lacks.
    """
    request, parsed = request_of(demonstration.prompt), parse(demonstration.answer)
    remarks: list[str] = []
    if parsed is not None and rng.random() < 0.75:
        remarks = ["on topic" if on_topic(request, parsed) else "off topic", fact_of(request, parsed), parsed.tone]
        remarks += ["padded"] if parsed.padding else []
    said = [name for name in remarks if name in REPLIES]
    texts = REPLIES[rng.choice(said)] if said else RECAPS
    return rng.choice(texts).format(product=request.product, plan=request.plan)


def _stream(faults: Faults, seed: int) -> Iterator[Demonstration]:
    rng = Random(seed)
    while True:
        request = sample_request(rng)
        yield Demonstration(sample_prompt(request, rng), sample_answer(request, faults, rng))


def _distinct(faults: Faults, n: int, seed: int) -> list[Demonstration]:
    found: dict[str, Demonstration] = {}
    for demonstration in _stream(faults, seed):
        if len(found) == n:
            break
        found.setdefault(demonstration.prompt.id, demonstration)
    return list(found.values())


def prompts(n: int, seed: int) -> list[Prompt]:
    """n distinct prompts."""
    return [demonstration.prompt for demonstration in _distinct(CORPUS, n, seed)]


def demonstrations(n: int, seed: int) -> list[Demonstration]:
    """n distinct prompts with answers that are somewhat better than the corpus: what SFT learns from."""
    return _distinct(DEMONSTRATED, n, seed)


def corpus(n: int, seed: int, faults: Faults = CORPUS) -> Iterator[Demonstration]:
    """n conversations to pretrain on, none of them of a prompt that belongs to the test split."""
    stream = (d for d in _stream(faults, seed) if d.prompt.split != "test")
    return islice(stream, n)
