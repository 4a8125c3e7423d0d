"""The part of a tab that shows a result: message, image, legend, opacity and downloads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.drawing import entries_of, paint, swatches
from hipie.app.requests import UPLOADS_VARIABLE
from hipie.app.work import Progress
from hipie.data.image_io import read_image_size
from hipie.error_report import as_hipie_errors
from hipie.errors import HipieError
from hipie.segmentation import Segmentation

ALL = "All"
OPACITY = 0.5
# Events are for the page alone, not an interface for programs; that is `hipie serve`.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def message(text: str, is_error: bool = False) -> str:
    """HTML of a message that screen readers announce."""
    role = "alert" if is_error else "status"
    return f'<p class="hipie-{role}" role="{role}">{escape(_without_folders(text))}</p>'


def _without_folders(text: str) -> str:
    """Remove the folders of uploads from a text, so that files have their users' names."""
    uploads = re.escape(os.environ.get(UPLOADS_VARIABLE, ""))
    return re.sub(rf"{uploads}/[0-9a-f]{{16,}}/", "", text) if uploads else text


def announce_image(image: Any, status: Any, max_pixels: int) -> None:
    """Say at once why an uploaded image cannot be used.

    Args:
        image: the component.
        status: that of the messages.
        max_pixels: of an image.
    """

    def check(file: str | None, shown: str) -> Any:
        try:
            with as_hipie_errors():
                if file:
                    read_image_size(file, max_pixels, decode=False)
        except HipieError as error:
            return message(str(error), True)
        return message("") if file and 'role="alert"' in shown else gr.skip()

    image.change(check, [image, status], status, **PRIVATE)


def upload_image(label: str, name: str) -> gr.Image:
    """Return a component that takes an image file as it is.

    The file is opened by the reader of this package, which checks its format and size first.
    """
    image = gr.Image(label=label, type="filepath", sources=["upload", "clipboard"], elem_id=name)
    untyped: Any = image
    untyped.preprocess = lambda payload: payload and payload.path
    return image


class ResultView:
    """Components of a result, and their events.

    Args:
        context: of the page.
        name: prefix of the ids of the elements.
    """

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.name = name
        self.status = gr.HTML(message(""), elem_id=f"{name}-status")
        self.image = gr.Image(
            label="Result", interactive=False, format="png", elem_id=f"{name}-result", buttons=[]
        )
        self.legend = gr.Radio(
            [ALL], value=ALL, label="Show all masks or one alone", elem_id=f"{name}-legend"
        )
        self.style = gr.HTML("", elem_classes="hipie-style")
        self.opacity = gr.Slider(
            0, 1, OPACITY, step=0.05, label="Opacity of the masks", elem_id=f"{name}-opacity"
        )
        with gr.Row():
            self.drawing = gr.DownloadButton(
                "Download PNG", interactive=False, elem_id=f"{name}-png"
            )
            self.dataset = gr.DownloadButton(
                "Download COCO JSON", interactive=False, elem_id=f"{name}-json"
            )
        self.state = gr.State()
        repaint: dict[str, Any] = {
            "inputs": [self.state, self.legend, self.opacity],
            "outputs": self.image,
        }
        self.legend.change(self._repaint, **repaint, **PRIVATE)
        # Not `release`, which the keyboard does not trigger.
        self.opacity.change(self._repaint, **repaint, trigger_mode="always_last", **PRIVATE)

    @property
    def outputs(self) -> list[Any]:
        """Components that `run` updates."""
        return [
            *(self.status, self.image, self.legend, self.style),
            *(self.drawing, self.dataset, self.state),
        ]

    def run(
        self,
        work: Callable[[Progress], tuple[str, Segmentation]],
        settings: Mapping[str, Any],
        opacity: float,
        owner: str,
        decorate: Callable[[Any], Any] = lambda image: image,
    ) -> Iterator[dict[Any, Any]]:
        """Run work, and show its messages and its result.

        Args:
            work: see `Worker.run`.
            settings: for the downloaded file.
            opacity: of the masks.
            owner: see `owner_of`.
            decorate: draws more on the painted image.
        """
        for update in self.context.worker.run(work, owner):
            if update.result is None:
                yield {self.status: message(update.message, update.is_error)}
                continue
            result = update.result
            entries = entries_of(result)
            drawing, dataset = self.context.downloads.write(result, settings)
            choices = [ALL, *(entry.text for entry in entries)]
            yield {
                self.status: message(update.message),
                self.image: decorate(paint(result.image, entries, opacity)),
                self.legend: gr.Radio(choices, value=ALL),
                self.style: swatches(entries, f"{self.name}-legend"),
                self.drawing: gr.DownloadButton(value=drawing, interactive=True),
                self.dataset: gr.DownloadButton(value=dataset, interactive=True),
                self.state: result,
            }

    @staticmethod
    def _repaint(result: Segmentation | None, only: str, opacity: float) -> Any:
        if result is None:
            return gr.skip()
        entries = entries_of(result)
        return paint(result.image, entries, opacity, "" if only == ALL else only)


def owner_of(name: str, request: gr.Request) -> str:
    """Return what the work of a tab in a browser is cancelled by."""
    return f"{name} {request.session_hash}"


def add_cancel(context: Context, name: str, button: Any, status: Any) -> None:
    """Let a button cancel the work of a tab, which then says so itself."""

    def cancel(request: gr.Request) -> Any:
        is_told = context.worker.cancel(owner_of(name, request))
        return gr.skip() if is_told else message("There is nothing to cancel")

    button.click(cancel, None, status, queue=False, **PRIVATE)


def run_buttons(label: str, name: str) -> tuple[gr.Button, gr.Button]:
    """Return the buttons that begin and cancel work."""
    with gr.Row():
        return (
            gr.Button(label, variant="primary", elem_id=f"{name}-run"),
            gr.Button("Cancel", elem_id=f"{name}-cancel"),
        )


def model_choice(context: Context, name: str, default: str = "", label: str = "Model") -> Any:
    """Return the choice of a model, which is loaded when it is chosen."""
    choice = gr.Dropdown(
        context.text_models,
        value=default or context.text_models[0],
        label=label,
        elem_id=f"{name}-model",
    )
    context.watch(choice)
    return choice
