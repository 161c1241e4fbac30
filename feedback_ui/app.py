"""The gradio page: one ranking widget, and nothing that leaves this machine."""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI

from .ranking import ranking_widget

# The widget is the whole page: it brings its own margins, and its bar sticks to the foot of the window.
PAGE_CSS = """
.gradio-container { overflow: visible !important; }
.gradio-container .main, .gradio-container main { padding: 0 !important; margin: 0; max-width: none !important; }
#ranking, #ranking .html-container { padding: 0 !important; overflow: visible !important; }
"""


def blocks() -> gr.Blocks:
    with gr.Blocks(title="prefloop: rank answers", analytics_enabled=False, fill_width=True) as page:
        ranking_widget("ranking")
    return page


def mount(app: FastAPI) -> FastAPI:
    plain = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(app, blocks(), path="/", footer_links=[], run_history=False, enable_monitoring=False,
                               show_error=False, max_file_size="1kb", allowed_paths=[], ssr_mode=False, pwa=False,
                               mcp_server=False, theme=plain, css=PAGE_CSS)
