"""The page: heading, state of the models, tabs, and how it looks."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.result_view import PRIVATE, message
from hipie.app.tabs import click, compare, example, group, refer, segment

TABS = {
    "Segment": segment.build,
    "Refer": refer.build,
    "Group": group.build,
    "Click": click.build,
    "Example": example.build,
    "Compare": compare.build,
}
# Fonts of the system: none is loaded from another host.
FONTS = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
MONOSPACED = ["ui-monospace", "Consolas", "monospace"]
# gradio puts its own classes before the selectors inside of @media, so that these begin below them.
CSS = """
.hipie-alert { color: #b00020; font-weight: 600; }
.dark .hipie-alert { color: #ff8a95; }
.hipie-status, .hipie-alert { min-height: 1.5em; margin: 0; overflow-wrap: anywhere; }
.hipie-style { display: none; }
.hipie-examples {
  display: grid !important; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 8px;
}
.hipie-examples > button { height: 100%; }
.gradio-container .gallery-container .grid-wrap {
  min-height: 0; max-height: none !important; padding-top: 36px;
}
.gradio-container .gallery-container .caption-label {
  max-width: 100%; right: 0; bottom: 0; white-space: normal; overflow-wrap: anywhere;
}
:focus-visible { outline: 3px solid #0a6ed1 !important; outline-offset: 1px; }
.dark :focus-visible { outline-color: #7cc0ff !important; }
.tab-container > button.selected { color: #0b57b7; }
.dark .tab-container > button.selected { color: #8ec5ff; }
.gradio-container > .main { padding: 16px clamp(8px, 2.5vw, 32px) !important; }
#example-editor .empty.wrap > div { color: #27364b !important; background: #ffffff; }
@media (max-width: 640px) {
  h1 { font-size: 1.2rem !important; }
  .tab-container > button { padding: 0 4px !important; font-size: 0.85rem !important; }
  .gallery-container .grid-container {
    grid-template-columns: repeat(2, minmax(0, 1fr));
  }
}
"""


def theme() -> Any:
    """The look: fonts of the system, and texts with a contrast of at least 4.5."""
    return gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONOSPACED
    ).set(
        body_text_color="#16202e",
        body_text_color_dark="#f1f5f9",
        body_text_color_subdued="#46546a",
        body_text_color_subdued_dark="#c4cfdd",
        block_label_text_color="#27364b",
        block_label_text_color_dark="#e2e8f0",
        block_title_text_color="#27364b",
        block_title_text_color_dark="#e2e8f0",
        block_info_text_color="#46546a",
        block_info_text_color_dark="#c4cfdd",
        input_placeholder_color="#5b6a80",
        input_placeholder_color_dark="#aab7c8",
        button_primary_background_fill="#0b57b7",
        button_primary_background_fill_hover="#08458f",
        button_primary_background_fill_dark="#0b57b7",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_text_color="#16202e",
        button_secondary_text_color_dark="#f1f5f9",
    )


def build(context: Context) -> Any:
    """Make the page.

    Args:
        context: models, worker and files; `watch` is set here.

    Returns:
        The `gradio.Blocks`.
    """
    watched: list[Any] = []
    context.watch = watched.append
    with gr.Blocks(title="hipie", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML("<h1>hipie: segment by names, expressions, clicks and examples</h1>")
        state = gr.HTML(message(_state(context)[0]), elem_id="model-status")
        timer = gr.Timer(1.0)
        with gr.Tabs():
            for label, build_tab in TABS.items():
                with gr.Tab(label, id=label.lower(), elem_id=f"tab-{label.lower()}"):
                    build_tab(context)

        def tick() -> tuple[str, Any]:
            text, is_final = _state(context)
            return message(text), gr.Timer(active=not is_final)

        def load(name: str) -> Any:
            context.pool.start(name)
            return gr.Timer(active=True)

        timer.tick(tick, None, [state, timer], **PRIVATE)
        for choice in watched:
            choice.change(load, choice, timer, **PRIVATE)
        page.load(lambda: gr.Timer(active=True), None, timer, **PRIVATE)
    return page


def _state(context: Context) -> tuple[str, bool]:
    """Describe the models that load or are ready, and say whether nothing will change."""
    states = [(name, *context.pool.status(name)) for name in context.pool.names]
    shown = [text for name, text, _ in states if not text.endswith("is not loaded")]
    return "; ".join(shown), all(final for _, _, final in states)
