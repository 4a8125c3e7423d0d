"""The architecture `InteractiveSAM`: Detectron2's dicts in, masks or simulated clicks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances

from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.sam.predictor import Sam
from hipie.segmentation import Segmentation
from hipie_interactive.data.dataset import interactive_targets
from hipie_interactive.evaluation import interactive
from hipie_interactive.predict import answer_all
from hipie_interactive.prompts import Prompt, told
from hipie_interactive.session import Image, as_prompt, segment
from hipie_interactive.simulated_user import simulate


@META_ARCH_REGISTRY.register()
class InteractiveSAM(SegmentationModel):
    """SAM, asked by a user or by a simulated one.

    Takes Detectron2's list of dicts. A dict has `image` ([3, H, W] RGB, 0..255, as it is on disk)
    and either `prompts` (a list of `Prompt`) or `targets` ([N, H, W] bool, the objects that a
    simulated user wants). Returns a dict an image: for prompts `instances` (`pred_masks`,
    `pred_boxes`, `scores`, a row a prompt), for targets `interactive`, a `Clicked` an object.

    Args:
        sam: the model; its weights are not this module's to load.
        clicks: of the simulated user, on each object.
    """

    tasks = frozenset({"interactive"})

    @configurable
    def __init__(self, *, sam: Sam, clicks: int = 20) -> None:
        super().__init__()
        self.sam = sam
        self.network = sam.model
        self.clicks = clicks

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.INTERACTIVE`."""
        keys = cfg.MODEL.INTERACTIVE
        if keys.CLICKS < 1:
            raise ValueError(f"MODEL.INTERACTIVE.CLICKS is {keys.CLICKS}; it has to be at least 1")
        return {"sam": Sam.from_source(keys.SAM, keys.WEIGHTS), "clicks": keys.CLICKS}

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str:
        """Images with the masks of their objects, of any data set with instances."""
        return interactive_targets.__name__

    @classmethod
    def evaluator(cls, cfg: CfgNode, dataset_name: str) -> str:
        """Simulated clicks, of any data set with instances."""
        return interactive.__name__

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: the pre-trained networks have weights of their own."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.sam.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See the class.

        Raises:
            ValueError: for a dict with neither `prompts` nor `targets`, or prompts that cannot be
                meant, naming the file.
        """
        return [self._answer(item) for item in batched_inputs]

    def segment_prompts(
        self, image: Image, prompts: Sequence[Prompt | Mapping[str, Any]]
    ) -> Segmentation:
        """Masks of one image; see `hipie_interactive.segment`."""
        return segment(self.sam, image, prompts)

    def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        if "prompts" not in item and "targets" not in item:
            where = item.get("file_name", "an image")
            raise ValueError(f"{where}: InteractiveSAM needs `prompts` or `targets`")
        pixels = item["image"].permute(1, 2, 0).to("cpu", torch.uint8).numpy()
        if "prompts" not in item and not len(item["targets"]):
            return {"interactive": []}
        picture = self.sam.encode(np.ascontiguousarray(pixels))
        if "prompts" not in item:
            targets = np.asarray(item["targets"], bool)
            return {"interactive": simulate(picture, targets, self.clicks)}
        said = [told(as_prompt(one), picture.size) for one in item["prompts"]]
        answers = answer_all(picture, said)
        found = Instances(picture.size)
        empty = torch.zeros(0, *picture.size, dtype=torch.bool)
        found.pred_masks = torch.stack([one.mask for one in answers]) if answers else empty
        found.pred_boxes = BitMasks(found.pred_masks).get_bounding_boxes()
        found.scores = torch.tensor([one.score for one in answers])
        return {"instances": found}
