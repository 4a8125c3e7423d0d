"""The image of a record as an array that agrees with the record, and as a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hipie.data.image_io import read_image


def read_record_image(record: dict[str, Any]) -> np.ndarray:
    """The record's image, uint8 [H, W, 3] RGB, of the size the record says.

    Raises:
        ValueError: if the sizes disagree, naming the file.
    """
    image = read_image(record["file_name"])
    found, said = image.shape[:2], (record["height"], record["width"])
    if found != said:
        raise ValueError(
            f"{record['file_name']}: the image is {found[1]}x{found[0]} pixels, but its "
            f"annotations say {said[1]}x{said[0]}"
        )
    return image


def as_tensor(image: np.ndarray, image_format: str) -> torch.Tensor:
    """uint8 [3, H, W] in the order of `image_format` ("RGB" or "BGR")."""
    if image_format == "BGR":
        image = image[:, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
