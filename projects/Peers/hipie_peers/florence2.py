"""Florence-2: the polygons of an expression as generated text.

Xiao et al., "Florence-2: Advancing a Unified Representation for a Variety of Vision Tasks",
CVPR 2024; the task "referring expression segmentation".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from detectron2.structures.masks import polygons_to_bitmask
from numpy.typing import NDArray

from hipie.vocabularies.vocabulary import Vocabulary
from hipie_peers.error import PeerError
from hipie_peers.loading import FLORENCE2, NetworkType
from hipie_peers.meta_arch import Peer
from hipie_peers.outputs import Size, mask_instance

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"
# Numbers of a polygon with an area: three corners.
MIN_POLYGON = 6


@META_ARCH_REGISTRY.register()
class TransformersFlorence2(Peer):
    """Florence-2 of transformers, for expressions.

    The score of a mask is the exponential of the mean logarithm of the generated tokens'
    probabilities. Text without a polygon is an empty mask.

    Args:
        arguments: see `Peer`.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"referring"})
    kind: ClassVar[NetworkType] = FLORENCE2

    @configurable
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

    def segment(
        self, image: NDArray[np.uint8], vocabulary: Vocabulary, size: Size, requested: set[str]
    ) -> dict[str, Any]:
        """Raise an error, since a vocabulary is not supported.

        Raises:
            PeerError: always.
        """
        raise PeerError("TransformersFlorence2 takes `expressions`, not class names")

    def refer(
        self, image: NDArray[np.uint8], expressions: Sequence[str], size: Size
    ) -> list[Instances]:
        """Segment expressions; see the class."""
        return [self._refer_one(image, expression, size) for expression in expressions]

    def _refer_one(self, image: NDArray[np.uint8], expression: str, size: Size) -> Instances:
        inputs = self.processor(images=image, text=f"{TASK}{expression}", return_tensors="pt")
        generated = self.network.generate(
            **self.to_network(inputs),
            max_new_tokens=self.config.max_tokens,
            num_beams=self.config.beams,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        (text,) = self.processor.batch_decode(generated.sequences, skip_special_tokens=False)
        parsed = self.processor.post_process_generation(
            text=text, task=TASK, image_size=(size[1], size[0])
        )[TASK]
        mask = rasterize(parsed["polygons"], size)
        steps = self.network.compute_transition_scores(
            generated.sequences,
            generated.scores,
            getattr(generated, "beam_indices", None),
            normalize_logits=self.config.beams == 1,
        )[0]
        finite = steps[torch.isfinite(steps) & (steps != 0)]
        score = finite.mean().exp() if len(finite) else steps.new_zeros(())
        return mask_instance(torch.from_numpy(mask).to(self.device), score.float())


def rasterize(polygons: Sequence[Sequence[Sequence[float]]], size: Size) -> NDArray[np.bool_]:
    """Return the mask [H, W] of the pixels inside any polygon of any object.

    Args:
        polygons: by object, its polygons, each x1, y1, x2, y2, ... in pixels.
        size: (height, width).
    """
    flat = [np.asarray(polygon, float) for group in polygons for polygon in group]
    valid = [polygon[: len(polygon) // 2 * 2] for polygon in flat if len(polygon) >= MIN_POLYGON]
    if not valid:
        return np.zeros(size, bool)
    return np.asarray(polygons_to_bitmask(valid, *size))
