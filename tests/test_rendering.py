"""Markdown to safe HTML: what may stand in the page, and what is shown as text. tests/browser/ holds the corpus."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from prefloop.feedback_ui import assignment, names, rendering, telling
from prefloop.feedback_ui.names import MASK
from prefloop.feedback_ui.rendering import to_html
from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Store

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
INLINE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def kept(source: str) -> str | None:
    return "/api/picture/0123abcd" if source.startswith("figures/") else None


@pytest.mark.parametrize(("text", "html"), [
    ("plain", '<p dir="auto">plain</p>'),
    ("one\ntwo", '<p dir="auto">one<br>\ntwo</p>'),
    ("*a* **b** ~~c~~ `d`", '<p dir="auto"><em>a</em> <strong>b</strong> <s>c</s> <code>d</code></p>'),
    ("# first\n###### last", '<h3 dir="auto">first</h3><h6 dir="auto">last</h6>'),
    ("```html\n<b>\n```", "<pre><code>&lt;b&gt;\n</code></pre>"),
    ("    indented", "<pre><code>indented\n</code></pre>"),
    ("3. c", '<ol start="3">\n<li dir="auto">c</li>\n</ol>'),
    ("<b>not bold</b>", '<p dir="auto">&lt;b&gt;not bold&lt;/b&gt;</p>'),
    ("[here](http://a.example 'x')",
     '<p dir="auto"><span class="pl-link">here</span> <span class="pl-address">(http://a.example)</span></p>'),
    ("<http://a.example>", '<p dir="auto"><span class="pl-link">http://a.example</span></p>'),
    ("![p](http://a.example/p.png)", '<p dir="auto"><span class="pl-address">![p](http://a.example/p.png)</span></p>'),
    ("x\u202ey", '<p dir="auto">x<span class="pl-odd">U+202E</span>y</p>'),
    ("", ""),
])
def test_what_becomes_of_markdown(text: str, html: str) -> None:
    assert to_html(text) == html


def test_a_family_and_persian_keep_their_joiners() -> None:
    assert "\N{ZERO WIDTH JOINER}" in to_html("\U0001f469\u200d\U0001f467")
    assert "\N{ZERO WIDTH NON-JOINER}" in to_html("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")


@pytest.mark.parametrize(("source", "shown"), [
    ("figures/a.png", "/api/picture/0123abcd"), (INLINE, INLINE), ("other/a.png", None), ("/etc/passwd", None),
    ("//a.example/p.png", None), ("http://a.example/figures/p.png", None), ("javascript:alert(1)", None),
    (INLINE.replace("png", "gif"), None), (INLINE.replace("image/png", "image/svg+xml"), None),
    ("data:text/html;base64,PGI+", None), ("data:image/png;base64,PGI+", None), ("data:image/png,x", None),
])
def test_pictures_that_a_prompt_brings_along(source: str, shown: str | None) -> None:
    made = to_html(f"![name]({source})", picture=kept)
    assert made == (f'<p dir="auto"><img src="{shown}" alt="name"></p>' if shown else
                            f'<p dir="auto"><span class="pl-address">![name]({source})</span></p>')
    assert "<img" not in to_html(f"![name]({source})"), "an answer shows none"


def test_what_a_callback_says_is_not_trusted() -> None:
    assert "src" not in to_html("![p](a.png)", picture=lambda _: "http://a.example/p.png")
    assert "src" not in to_html("![p](a.png)", picture=lambda _: "/api/picture/0' onerror='alert(1)")


def test_pictures_are_found_where_they_would_be_shown() -> None:
    text = ("![a](figures/a.png) [![b](b.png)](x) `![c](c.png)` ![d](http://d/d.png) ![a](figures/a.png) "
            f"![a]({INLINE})")
    assert rendering.pictures(text) == ["figures/a.png", "b.png"]


@pytest.mark.parametrize(("data", "kind"), [
    (PNG, "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif"),
    (b"RIFF\n\x00\x00\x00WEBPVP8 ", "image/webp"), (b"<svg>", None), (b"", None), (b"RIFF1234WAVE", None)])
def test_a_picture_is_known_by_how_it_begins(data: bytes, kind: str | None) -> None:
    assert rendering.picture_kind(data) == kind


@pytest.mark.parametrize("text", [
    "dpo_0007", "DPO_0007", "dpo\\_0007", "dpo&#95;0007", "&#x64;po_0007", "**dpo**_0007", "_dpo_ is, `dpo_`0007",
    "\uff44\uff50\uff4f_0007", "dp\u200bo_0007", "d\u0335po_0007", "`dpo_0007`",
    "```\ndpo_0007\n```", "    dpo_0007",
    "[x](http://a.example/dpo_0007)", "![dpo_0007](a.png)", "| a |\n|---|\n| dpo_0007 |"])
def test_names_are_masked_however_they_are_written(text: str) -> None:
    for made in (to_html(text, ["x", "dpo_0007", " "]), rendering.masked(text, ["dpo_0007"])):
        assert "0007" not in made
        assert MASK in made


def test_a_link_does_not_cut_a_name_in_two() -> None:
    assert "0007" not in to_html("[dpo](http://a.example)_0007", ["dpo_0007"])


def test_what_is_no_name_stays() -> None:
    assert rendering.masked("a.b and dpo 0007 &amp;", ["a*b", "dpo_0007", "***"]) == "a.b and dpo 0007 &amp;"
    assert names.of_policies(["human", "runs/1000", "x1", "gpt-4"]) == ("gpt-4", "runs/1000")


@pytest.mark.parametrize(("policy", "written"), [
    ("runs/dpo-0007", ["runs/dpo-0007", "dpo-0007"]), ("runs/ppo-0001/checkpoint-12", ["ppo-0001", "checkpoint-12"]),
    ("/data/runs/dpo-0003/final/", ["dpo-0003", "/data/runs/dpo-0003/final"]), ("C:\\runs\\sft-1", ["sft-1"]),
    ("runs/dpo (abcd1234)", ["runs/dpo", "abcd1234", "runs/dpo (abcd1234)"]), ("größe-2 x", ["größe-2"])])
def test_every_part_of_a_name_that_tells_something_is_masked(policy: str, written: list[str]) -> None:
    hidden = names.of_policies([policy])
    for name in written:
        assert rendering.masked(f"I am {name}.", hidden) == f"I am {MASK}."
    assert rendering.masked("data, runs, final, human: 1000", hidden) == "data, runs, final, human: 1000"


def test_a_table_is_no_larger_than_it_may_be() -> None:
    wide = "|a" * 300 + "\n" + "|-" * 300 + "\n" + "|a\n" * 900
    assert len(to_html(wide)) < 3 * len(wide)
    assert "<table>" in to_html("|a|b|\n|-|-|\n" + "|1|2|\n" * 100)


def test_a_large_picture_is_no_long_text() -> None:
    large = f"data:image/png;base64,{base64.b64encode(PNG + bytes(1_000_000)).decode()}"
    text = f"**see** ![name]({large}) ![other]({INLINE})"
    assert to_html(text, picture=kept).count("<img") == 2
    assert large in to_html(text, picture=kept)
    assert len(to_html(text)) < 1000
    assert "<strong>see</strong>" in to_html(text)


@pytest.mark.parametrize("part", ["[", "*a", ">", "- ", "`a", "![a](", "<", "a_", "&#x", "[a](", "1. ", "|a\n"])
def test_nothing_is_too_deep_to_show(part: str) -> None:
    assert to_html(part * (rendering.LARGEST_TEXT // len(part))) is not None
    assert "pl-plaintext" not in to_html(part)


def test_what_is_too_long_for_markdown_is_shown_as_written() -> None:
    made = to_html("**a** <b>\n" * rendering.LARGEST_TEXT)
    assert made.startswith("<div")
    assert "**a** &lt;b&gt;" in made


def test_a_task_does_not_name_its_writers(tmp_path: Path) -> None:
    item = Answers(Prompt((Message("user", "who are you?"),)), (Response("I am dpo-0007.", "runs/dpo-0007"),
                                                                 Response("I am **DPO**-0007!", "runs/dpo-0007")))
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}") as store:
        store.add_items([item])
        task = assignment.next_task(store, "ann")
        assert task is not None
        assert "0007" not in json.dumps(telling.task(task))
