"""Text that a model or a person wrote, as HTML that can do nothing: no script, no link, no form, no request elsewhere.

Markdown becomes paragraphs, lists, tables and code. HTML in it is shown as text; so are links, with their address, and
pictures, except those that a prompt brings along. Characters that hide or reorder what stands around them are named.
What markdown-it makes passes nh3 with a list of what may stand in the page: two locks, either of which would hold.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Sequence
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token

from . import names

LARGEST_PICTURE = 2 * 1024 * 1024
LARGEST_TEXT = 20_000  # characters; beyond it Markdown's worst cases take seconds
MOST_CELLS = 5_000  # that a text's tables may have; a wide head makes many cells of short rows
SIGNATURES = {"image/png": rb"\x89PNG\r\n\x1a\n", "image/jpeg": rb"\xff\xd8\xff", "image/gif": rb"GIF8[79]a",
              "image/webp": rb"RIFF.{4}WEBP"}
INLINE = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/=]+)", re.ASCII)
PICTURED = re.compile(rf"(?<=\]\(){INLINE.pattern}", re.ASCII)
KEPT = re.compile(r"/api/picture/[0-9a-f]{1,64}", re.ASCII)
# Controls, overrides of the writing direction, what has no width, and tags. Joiners and direction marks are part of
# how people write; they stay.
ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")

BLOCKS = ("p", "h3", "h4", "h5", "h6", "li", "blockquote", "th", "td")
TAGS = {*BLOCKS, "div", "br", "hr", "em", "strong", "s", "code", "pre", "ul", "ol", "table", "thead", "tbody", "tr",
        "span", "img"}

Picture = Callable[[str], str | None]


def to_html(text: str, hidden: Collection[str] = (), picture: Picture | None = None) -> str:
    """Safe HTML. `hidden` are names to mask; `picture` gives the address of a picture that this text may show."""
    inline: list[str] = []

    def short(found: re.Match[str]) -> str:
        inline.append(found[0])
        return f"data:;{len(inline) - 1}"

    own = PICTURED.sub(short, text)  # a picture is long, and no text
    if len(own) > LARGEST_TEXT:
        return _plain(own, hidden)
    reader = _markdown(picture, inline, hidden)
    lines = own.splitlines()
    if lines and len(lines) * (1 + max(line.count("|") for line in lines)) > MOST_CELLS:
        reader.disable("table")
    tokens = reader.parse(own)
    for token in tokens if hidden else ():
        _mask(token, hidden)
    return _clean(reader.renderer.render(tokens, reader.options, {})).strip()


def _plain(text: str, hidden: Collection[str]) -> str:
    return _clean(f'<div class="pl-plaintext" dir="auto">{_spelled(masked(text, hidden))}</div>')


def _mask(token: Token, hidden: Collection[str]) -> None:
    """In what the text will say: a name may be cut up by Markdown."""
    if token.type in ("fence", "code_block"):
        token.content = masked(token.content, hidden)
    said = [child for child in token.children or () if child.type in ("text", "code_inline")]
    for child, words in zip(said, names.masked([child.content for child in said], hidden), strict=True):
        child.content = words


def masked(text: str, hidden: Collection[str]) -> str:
    """The names that would tell who wrote an answer, blacked out, however they are written."""
    return names.masked([text], hidden)[0]


def pictures(text: str) -> list[str]:
    """The sources of the pictures in a Markdown text that are files beside it."""
    found: list[str] = []

    def remembered(source: str) -> None:
        if source not in found:
            found.append(source)

    if len(own := PICTURED.sub("data:;", text)) <= LARGEST_TEXT:
        _markdown(remembered).render(own)
    return found


def picture_kind(data: bytes) -> str | None:
    """What kind of picture these bytes begin as; None if of none that may be shown."""
    return next((kind for kind, begin in SIGNATURES.items() if re.match(begin, data, re.DOTALL)), None)


def _markdown(picture: Picture | None, inline: Sequence[str] = (), hidden: Collection[str] = ()) -> MarkdownIt:
    """`inline` are the pictures that the text held, by their number."""
    def image(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
        return _image(tokens[at], picture, inline, hidden)

    def link_close(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
        return _link_close(tokens, at, hidden)

    made = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    made.disable("reference")  # it would hide what it defines
    # What a link or a picture points to is only shown or looked up, never followed.
    made.validateLink = lambda url: True  # type: ignore[method-assign]
    made.normalizeLink = lambda url: url  # type: ignore[method-assign]
    made.add_render_rule("text", _text)
    made.add_render_rule("code_inline", _code)
    made.add_render_rule("code_block", _code_block)
    made.add_render_rule("fence", _code_block)
    made.add_render_rule("link_open", _link_open)
    made.add_render_rule("link_close", link_close)
    made.add_render_rule("image", image)
    made.add_render_rule("heading_open", _heading)
    made.add_render_rule("heading_close", _heading)
    return made


# markdown-it calls these with its renderer first.


def _text(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    return _spelled(tokens[at].content)


def _code(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    return f"<code>{_spelled(tokens[at].content)}</code>"


def _code_block(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    return f"<pre><code>{_spelled(tokens[at].content)}</code></pre>\n"


def _link_open(*_: Any) -> str:
    return '<span class="pl-link">'


def _link_close(tokens: Sequence[Token], at: int, hidden: Collection[str]) -> str:
    """The address, unless it is all that the link says."""
    opened, depth = at - 1, 1
    while depth:
        depth += {"link_close": 1, "link_open": -1}.get(tokens[opened].type, 0)
        opened -= 1
    address = masked(str(tokens[opened + 1].attrGet("href") or ""), hidden)
    said = "".join(token.content for token in tokens[opened + 2 : at])
    return "</span>" if said == address else f'</span> <span class="pl-address">({_spelled(address)})</span>'


def _image(token: Token, picture: Picture | None, inline: Sequence[str], hidden: Collection[str]) -> str:
    source, name = str(token.attrGet("src") or ""), masked(token.content, hidden)
    number = source.removeprefix("data:;")
    if number != source and number.isdecimal() and int(number) < len(inline):
        source = inline[int(number)]
    shown = source if picture and _is_picture(source) else None
    if picture and shown is None and "://" not in source and not source.startswith(("data:", "/", "\\")):
        shown = picture(source)
    if shown is None:
        return f'<span class="pl-address">{_spelled(f"![{name}]({masked(source[:300], hidden)})")}</span>'
    return f'<img src="{escape(shown)}" alt="{escape(name)}">'


def _heading(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    """The page has headings of its own, above these."""
    token = tokens[at]
    return f"<{'/' if token.nesting < 0 else ''}h{min(6, int(token.tag[1]) + 2)}>"


def _is_picture(source: str) -> bool:
    """Is this a picture in itself, of the kind that it says, and of a size to show?"""
    found = INLINE.fullmatch(source)
    if found is None or len(found[2]) > LARGEST_PICTURE * 4 // 3 + 4:
        return False
    try:
        return picture_kind(base64.b64decode(found[2], validate=True)) == found[1]
    except binascii.Error:
        return False


def _spelled(text: str) -> str:
    """Escaped, and with what cannot be seen made visible."""
    return ODD.sub(lambda found: f'<span class="pl-odd">U+{ord(found[0]):04X}</span>', escape(text))


def _clean(html: str) -> str:
    classes = {"div": {"pl-plaintext"}, "span": {"pl-link", "pl-address", "pl-odd"}}
    return nh3.clean(html, tags=TAGS, attributes={"img": {"src", "alt"}, "ol": {"start"}}, allowed_classes=classes,
                     attribute_filter=_attribute, set_tag_attribute_values={tag: {"dir": "auto"} for tag in BLOCKS},
                     link_rel=None, url_schemes={"data"})


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "src":
        return value if KEPT.fullmatch(value) or _is_picture(value) else None
    if name == "start":
        return value if value.isascii() and value.isdigit() and len(value) < 10 else None
    return value
