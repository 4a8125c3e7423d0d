"""Meta-architecture of interactive segmentation with SAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances

from hipie.box_ops import masks_to_boxes
from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.sam.predictor import Sam, SamImage
from hipie_interactive.modeling.interactions import CLICKS, check_interactions
from hipie_interactive.modeling.predict import predict_masks
from hipie_interactive.modeling.prompts import Prompt, to_sam_prompt
from hipie_interactive.modeling.simulated_user import simulate_clicks

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures


@META_ARCH_REGISTRY.register()
class InteractiveSAM(SegmentationModel):
    """SAM with the prompts of a user, or with simulated clicks on ground-truth objects.

    Inputs are Detectron2's dicts with `image` ([3, H, W] RGB, 0..255, at its original size) and
    either `prompts` (a list of `Prompt`) or `targets` ([N, H, W] bool, ground-truth masks). Outputs
    are dicts: for prompts with `instances` (`pred_masks`, `pred_boxes` and `scores`, one row a
    prompt), for targets with `interactive`, a `SimulatedClicks` an object.

    Args:
        sam: the model, pre-trained and frozen.
        clicks: number of prompts of the simulated user on each object.
        kind: of these prompts, "clicks", "scribbles", "boxes" or "polygons".
        jitter: of boxes, see `box_around`.
        vertices: largest number of a polygon's vertices.
    """

    tasks = frozenset({"interactive"})

    @configurable
    def __init__(
        self,
        *,
        sam: Sam,
        clicks: int = 20,
        kind: str = CLICKS,
        jitter: float = 0.1,
        vertices: int = 8,
    ) -> None:
        super().__init__()
        check_interactions(kind, jitter, vertices)
        self.kind, self.jitter, self.vertices = kind, jitter, vertices
        self.sam = sam
        self.network = sam.model
        self.clicks = clicks

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.INTERACTIVE`."""
        node = cfg.MODEL.INTERACTIVE
        if node.CLICKS < 1:
            raise InputError(f"MODEL.INTERACTIVE.CLICKS is {node.CLICKS}; it has to be at least 1")
        check_interactions(node.PROMPTS, node.BOX_JITTER, node.POLYGON_VERTICES)
        return {
            "sam": Sam.from_source(node.SAM, node.WEIGHTS),
            "clicks": node.CLICKS,
            "kind": node.PROMPTS,
            "jitter": node.BOX_JITTER,
            "vertices": node.POLYGON_VERTICES,
        }

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str:
        """Return the name of the mapper to ground-truth masks, for any data set with instances."""
        return "interactive_targets"

    @classmethod
    def evaluator(cls, cfg: CfgNode, dataset_name: str) -> str:
        """Return the name of the evaluator of simulated clicks."""
        return "interactive"

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: weights come with `MODEL.INTERACTIVE.WEIGHTS`."""
        return False

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Predict the masks of prompts, or simulate clicks, input by input.

        Raises:
            ValueError: for an input with neither `prompts` nor `targets`, naming the file, or an
                invalid prompt.
        """
        return [self._predict_input(item) for item in batched_inputs]

    def _predict_input(self, item: dict[str, Any]) -> dict[str, Any]:
        if "prompts" not in item and "targets" not in item:
            name = item.get("file_name", "an image")
            raise InputError(f"{name}: InteractiveSAM needs `prompts` or `targets`")
        if "prompts" not in item and not len(item["targets"]):
            return {"interactive": []}
        pixels = item["image"].permute(1, 2, 0).to("cpu", torch.uint8).numpy()
        image = self.sam.encode(np.ascontiguousarray(pixels))
        if "prompts" in item:
            return {"instances": _predict_instances(image, item["prompts"])}
        targets = np.asarray(item["targets"], bool)
        simulated = simulate_clicks(
            image, targets, self.clicks, self.kind, self.jitter, self.vertices
        )
        return {"interactive": simulated}


def _predict_instances(image: SamImage, prompts: Sequence[Prompt | Mapping[str, Any]]) -> Instances:
    sam_prompts = [to_sam_prompt(Prompt.parse(prompt), image.size) for prompt in prompts]
    predictions = predict_masks(image, sam_prompts)
    instances = Instances(image.size)
    masks = [prediction.mask for prediction in predictions]
    no_masks = torch.zeros(0, *image.size, dtype=torch.bool)
    instances.pred_masks = torch.stack(masks) if masks else no_masks
    instances.pred_boxes = Boxes(masks_to_boxes(instances.pred_masks))
    instances.scores = torch.tensor([prediction.score for prediction in predictions])
    return instances
