"""The masks of co-saliency sets."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hipie.data.image_io import DAMAGED

WHITE = 128
"""Values of a mask above this belong to the object, as `pysodmetrics` has it."""


def read_saliency(path: str) -> np.ndarray:
    """A mask, bool [H, W]; of one bit, grey, coloured or with a palette.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert("L")) > WHITE
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: this mask cannot be read ({error})") from error
