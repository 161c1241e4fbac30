"""The gradio pages: our own widgets, and nothing that leaves this machine.

A widget is a gr.HTML whose template, style and script are files beside this one. It fetches and submits by itself, so
it has no value and no events, and texts reach the page only as text. It is an instance and no subclass of gr.HTML: on
import, gradio writes a .pyi file beside the source of every subclass.
"""

from __future__ import annotations

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


def widget(name: str, *files: str) -> gr.HTML:
    """NAME.html with these styles and scripts; the scripts are one function."""
    def joined(kind: str) -> str:
        return "\n".join((HERE / file).read_text(encoding="utf-8") for file in files if file.endswith(kind))

    return gr.HTML(elem_id=name, html_template=(HERE / f"{name}.html").read_text(encoding="utf-8"),
                   css_template=joined(".css"), js_on_load=joined(".js"), apply_default_css=False)


def ranking_widget() -> gr.HTML:
    return widget("ranking", "ranking.css", "shared.js", "ranking.js")


def rating_page() -> gr.Blocks:
    with gr.Blocks(title="prefloop: rank answers", analytics_enabled=False, fill_width=True) as page:
        ranking_widget()
    return page


def arena_page() -> gr.Blocks:
    """The arena's own views, and the rating page's widget for its votes."""
    with gr.Blocks(title="prefloop: side by side", analytics_enabled=False, fill_width=True) as page:
        widget("arena", "ranking.css", "arena.css", "shared.js", "arena_texts.js", "arena_look.js", "arena_try.js",
               "arena.js")
        ranking_widget()
    return page


def mount(app: FastAPI, page: gr.Blocks) -> FastAPI:
    plain = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(app, page, path="/", footer_links=[], run_history=False, enable_monitoring=False,
                               show_error=False, max_file_size="1kb", allowed_paths=[], ssr_mode=False, pwa=False,
                               mcp_server=False, theme=plain, css=PAGE_CSS)


def sign_in_files() -> dict[str, tuple[str, str]]:
    return {"/sign-in": ("text/html", ""), "/sign_in.css": ("text/css", ""), "/sign_in.js": ("text/javascript", "")}
