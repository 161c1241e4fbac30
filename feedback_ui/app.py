"""The gradio pages: our own widgets, and nothing that leaves this machine.

A widget is a gr.HTML whose template, style and script are files beside this one. It fetches and submits by itself, so
it has no value and no events, and texts reach the page only as text. It is an instance and no subclass of gr.HTML: on
import, gradio writes a .pyi file beside the source of every subclass.
"""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
from fastapi import FastAPI

HERE = Path(__file__).parent

# The widgets are the whole page: they bring their own margins, and their bars stick to the foot of the window. The
# arena's script says which view is open.
PAGE_CSS = """
.gradio-container { overflow: visible !important; }
.gradio-container .main, .gradio-container main { padding: 0 !important; margin: 0; max-width: none !important; }
.gradio-container main > .column, .gradio-container .column { gap: 0; }
:is(#ranking, #arena), :is(#ranking, #arena) .html-container { padding: 0 !important; overflow: visible !important; }
body[data-view]:not([data-view="vote"]) #ranking { display: none; }
body[data-view] #ranking .pl-brand { display: none; }
"""


def joined(kind: str, *files: str) -> str:
    return "\n".join((HERE / file).read_text(encoding="utf-8") for file in files if file.endswith(kind))


def widget(name: str, *files: str, before: str = "") -> gr.HTML:
    """NAME.html with these styles and scripts; the scripts are one function, which begins with `before`."""
    return gr.HTML(elem_id=name, html_template=joined(".html", f"{name}.html"), css_template=joined(".css", *files),
                   js_on_load=before + joined(".js", *files), apply_default_css=False)


def words() -> str:
    """The strings of the page by language, as a line of script. A language is one file, words.CODE.json."""
    tables = {path.name.split(".")[1]: json.loads(path.read_text(encoding="utf-8"))
              for path in sorted(HERE.glob("words.*.json"))}
    return f"const WORDS = {json.dumps(tables)};\n"


def ranking_widget(in_arena: bool = False) -> gr.HTML:
    return widget("ranking", "base.css", "text.css", "ranking.css", "panels.css", "shared.js", "words.js",
                  "ranking_said.js", "ranking_sync.js", "ranking_cards.js", "ranking_drag.js", "ranking_panels.js",
                  "ranking.js", "ranking_keys.js", before=f"const IN_ARENA = {json.dumps(in_arena)};\n{words()}")


def sign_in_files() -> dict[str, tuple[str, str]]:
    """What anybody may fetch before they are signed in: address, media type and text. No gradio, no inline script."""
    style = f"body {{ {joined('.css', 'base.css')} }}\n{joined('.css', 'sign_in.css')}"
    script = f"const element = document.body;\n{words()}{joined('.js', 'shared.js', 'words.js', 'sign_in.js')}"
    return {"/sign-in": ("text/html", joined(".html", "sign_in.html")), "/sign_in.css": ("text/css", style),
            "/sign_in.js": ("text/javascript", f"(() => {{\n{script}\n}})();")}


def rating_page() -> gr.Blocks:
    with gr.Blocks(title="prefloop: rank answers", analytics_enabled=False, fill_width=True) as page:
        ranking_widget()
    return page


def arena_page() -> gr.Blocks:
    """The arena's own views, and the rating page's widget for its votes."""
    with gr.Blocks(title="prefloop: side by side", analytics_enabled=False, fill_width=True) as page:
        widget("arena", "base.css", "text.css", "arena.css", "shared.js", "arena_texts.js", "arena_look.js",
               "arena_try.js", "arena.js")
        ranking_widget(in_arena=True)
    return page


def mount(app: FastAPI, page: gr.Blocks) -> FastAPI:
    plain = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(app, page, path="/", footer_links=[], run_history=False, enable_monitoring=False,
                               show_error=False, max_file_size="1kb", allowed_paths=[], ssr_mode=False, pwa=False,
                               mcp_server=False, theme=plain, css=PAGE_CSS)
