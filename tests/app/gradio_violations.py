"""Serious violations of accessibility rules that gradio's own components have.

Selectors of the elements, by the rule of axe-core; nothing that the page adds is among them.
"""

KNOWN: dict[str, tuple[str, ...]] = {
    # The image of a component that is not for uploads is in a button without a name.
    "button-name": (".image-container > button",),
    # The button that adds files has the file field in it.
    "nested-interactive": ('button.icon-button[aria-label="common.upload"]',),
    "aria-prohibited-attr": ('div.empty[aria-label="Empty value"]',),
    # Names of buttons are not the texts in them.
    "label-content-name-mismatch": (
        'button[aria-label="Click to upload or drop files"]',
        'button[aria-label="Drop an image file here to upload"]',
        "button.thumbnail-item",
    ),
}
