"""Fully connected conditional random field over the pixels of an image.

Kraehenbuehl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NeurIPS 2011. The unary potentials are -log of probabilities; the pairwise ones are a Potts model
weighted by two Gaussian kernels, of position, and of position and colour (equation 3). Mean-field
inference (algorithm 1) is that of the package pydensecrf2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.errors import InputError, MissingPackageError

MIN_PROBABILITY = 1e-6


@dataclass(frozen=True)
class DenseCRFConfig:
    """Parameters of the field; the defaults are those of the authors' example.

    Attributes:
        iterations: mean-field iterations.
        position_std: standard deviation of the kernel of positions, pixels.
        position_weight: weight of that kernel.
        bilateral_std: standard deviation of positions in the kernel with colours, pixels.
        color_std: standard deviation of colours in it, of 0..255.
        bilateral_weight: its weight.
    """

    iterations: int = 5
    position_std: float = 3.0
    position_weight: float = 3.0
    bilateral_std: float = 80.0
    color_std: float = 13.0
    bilateral_weight: float = 10.0

    def __post_init__(self) -> None:
        scales = (self.position_std, self.bilateral_std, self.color_std)
        if self.iterations < 1 or min(scales) <= 0:
            raise InputError(
                "a dense CRF needs at least one iteration and standard deviations above 0, and not "
                f"{self.iterations} with {scales}"
            )


def refine_probabilities(
    probabilities: NDArray[Any],
    image: NDArray[np.uint8],
    config: DenseCRFConfig | None = None,
) -> NDArray[np.float32]:
    """Compute the marginals of a dense CRF.

    Args:
        probabilities: [N, H, W], of each of N labels, N at least 2.
        image: [H, W, 3] uint8 RGB.
        config: parameters.

    Returns:
        [N, H, W] float32, which sum to 1 over the labels.

    Raises:
        InputError: for maps of another size than the image, or fewer than two labels.
        MissingPackageError: without pydensecrf2.
    """
    config = config or DenseCRFConfig()
    count, height, width = probabilities.shape
    if (height, width) != image.shape[:2] or count < 2:
        raise InputError(
            "a dense CRF needs two or more maps of the image's size "
            f"{image.shape[1]}x{image.shape[0]}, and these are {count} of {width}x{height}"
        )
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise MissingPackageError(
            "refinement by a dense CRF needs the package pydensecrf2: pip install pydensecrf2 "
            '(or "hipie[crf]")'
        ) from error
    unary = -np.log(np.clip(probabilities, MIN_PROBABILITY, 1.0)).reshape(count, -1)
    field = DenseCRF2D(width, height, count)
    field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    field.addPairwiseGaussian(sxy=config.position_std, compat=config.position_weight)
    field.addPairwiseBilateral(
        sxy=config.bilateral_std,
        srgb=config.color_std,
        rgbim=np.ascontiguousarray(image),
        compat=config.bilateral_weight,
    )
    marginals = np.asarray(field.inference(config.iterations), dtype=np.float32)
    return marginals.reshape(count, height, width)
