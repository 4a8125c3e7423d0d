"""The architecture `FewShot`: Detectron2's dicts with examples in, masks out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.segmentation import Segment, Segmentation
from hipie_fewshot.build import Method, build_method
from hipie_fewshot.data.episodes import few_shot_episodes
from hipie_fewshot.evaluation import few_shot
from hipie_fewshot.support_set import Example, Picture, read_picture, require_examples


@META_ARCH_REGISTRY.register()
class FewShot(SegmentationModel):
    """Finds what examples show.

    Takes Detectron2's list of dicts. A dict has `image` ([3, H, W] RGB, 0..255, as it is on disk)
    and `examples` (a list of `Example`, all of one thing). Returns a dict an image with
    `few_shot`, a `Found`.

    Args:
        method: see `hipie_fewshot.build`; its models' weights are not this module's to load.
    """

    tasks = frozenset({"few_shot"})

    @configurable
    def __init__(self, *, method: Method) -> None:
        super().__init__()
        self.method = method
        models = (getattr(method, name, None) for name in ("sam", "dino"))
        self.networks = nn.ModuleList([one.model for one in models if one is not None])

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.FEWSHOT`."""
        return {"method": build_method(cfg)}

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str:
        """Episodes, of any data set with instances."""
        return few_shot_episodes.__name__

    @classmethod
    def evaluator(cls, cfg: CfgNode, dataset_name: str) -> str:
        """IoU of episodes, of any data set with instances."""
        return few_shot.__name__

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: the pre-trained networks have weights of their own."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the models live."""
        return next(self.networks.parameters()).device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See the class.

        Raises:
            ValueError: for a dict without `examples`, naming the file.
        """
        return [self._answer(item) for item in batched_inputs]

    def segment_like(
        self, image: Picture, examples: Sequence[Example | tuple[Any, ...]]
    ) -> Segmentation:
        """What examples show, in an image: a segment for each of their labels.

        Args:
            image: a path, a PIL image or an RGB array [H, W, 3].
            examples: in the order of their labels' first appearance; tuples are what
                `Example.read` takes.

        Raises:
            ExampleError: without examples, or for one whose mask does not fit.
        """
        require_examples(examples)
        pixels = read_picture(image)
        by_label: dict[str, list[Example]] = {}
        for given in examples:
            one = given if isinstance(given, Example) else Example.read(*given)
            by_label.setdefault(one.label, []).append(one)
        segments = []
        for label, shown in by_label.items():
            found = self._find(pixels, shown)
            segments.append(Segment(label, "thing", found.mask, found.score))
        return Segmentation(pixels, segments)

    def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        if not item.get("examples"):
            where = item.get("file_name", "an image")
            raise ValueError(f"{where}: FewShot needs `examples`, images with masks")
        pixels = item["image"].permute(1, 2, 0).to("cpu", torch.uint8).numpy()
        return {"few_shot": self._find(np.ascontiguousarray(pixels), item["examples"])}

    def _find(self, pixels: np.ndarray, examples: Sequence[Example]) -> Any:
        with torch.no_grad():
            return self.method.find(pixels, examples)
