"""The ranking widget: K answers as cards, ranked with keys, mouse or thumb; the files beside it are its page.

It fetches and submits by itself (ranking.js), so it has no value and no events, and texts reach the page only as text.
It is an instance and no subclass of gr.HTML: on import, gradio writes a .pyi file beside the source of every subclass.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent


def ranking_widget(name: str) -> gr.HTML:
    html, css, script = ((HERE / f"ranking.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return gr.HTML(elem_id=name, html_template=html, css_template=css, js_on_load=script, apply_default_css=False)
