"""Base class of the architectures that run networks of other groups."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor, nn

from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import (
    IMAGE_CHANNELS,
    named_inference_size,
    output_size,
    vocabulary_of,
)
from hipie.structures import InferenceSize
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_peers.error import PeerError
from hipie_peers.loading import NetworkType, load_network
from hipie_peers.outputs import Size, requested_outputs

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures

_SHARES = ("THRESHOLD", "MASK_THRESHOLD", "INSTANCE_THRESHOLD", "OVERLAP", "NMS")


@dataclass(frozen=True)
class PeerConfig:
    """Thresholds and inputs; see `MODEL.PEERS`.

    Attributes:
        threshold, mask_threshold, instance_threshold, overlap, nms: keys of `MODEL.PEERS`.
        beams, max_tokens: likewise, of Florence-2.
        image_format: "RGB" or "BGR".
        default_dataset: data set whose classes are used for images without a vocabulary.
    """

    threshold: float = 0.5
    mask_threshold: float = 0.5
    instance_threshold: float = 0.05
    overlap: float = 0.8
    nms: float = 0.8
    beams: int = 3
    max_tokens: int = 1024
    image_format: str = "RGB"
    default_dataset: str = ""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> PeerConfig:
        """Read `MODEL.PEERS` and Detectron2's keys.

        Raises:
            PeerError: naming a key whose value is outside its range.
        """
        keys = cfg.MODEL.PEERS
        for name in _SHARES:
            if not 0 <= keys[name] <= 1:
                raise PeerError(f"MODEL.PEERS.{name} is {keys[name]}; it has to be in 0..1")
        for name in ("BEAMS", "MAX_TOKENS"):
            if keys[name] < 1:
                raise PeerError(f"MODEL.PEERS.{name} is {keys[name]}; it has to be at least 1")
        return cls(
            keys.THRESHOLD,
            keys.MASK_THRESHOLD,
            keys.INSTANCE_THRESHOLD,
            keys.OVERLAP,
            keys.NMS,
            keys.BEAMS,
            keys.MAX_TOKENS,
            cfg.INPUT.FORMAT,
            cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "",
        )


class Peer(SegmentationModel):
    """Network of transformers behind the interface of this package's architectures.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255), and `vocabulary`
    or `expressions`; without either it has the classes of `DATASETS.TEST[0]`. `height` and `width`
    give the size of the outputs. Images are processed one by one, so that results do not depend
    on the batch.

    Args:
        network: of transformers.
        processor: prepares its inputs.
        config: thresholds and inputs.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"universal"})
    kind: ClassVar[NetworkType]

    def __init__(
        self, *, network: nn.Module, processor: Any, config: PeerConfig | None = None
    ) -> None:
        super().__init__()
        self.network: Any = network.eval().requires_grad_(False)
        self.processor = processor
        self.config = config or PeerConfig()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.PEERS`."""
        config = PeerConfig.from_config(cfg)
        network, processor = load_network(cfg.MODEL.PEERS.SOURCE, cls.kind)
        return {"network": network, "processor": processor, "config": config}

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: the network of `MODEL.PEERS.SOURCE` has its weights."""
        return False

    def train(self, mode: bool = True) -> Peer:
        """Set the mode; the network stays in evaluation mode."""
        super().train(mode)
        self.network.train(False)
        return self

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Raise an error, since networks of other groups are not trained here.

        Raises:
            PeerError: always.
        """
        raise PeerError(f"{type(self).__name__} is not trained here; use --eval-only")

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Segment a batch of images; see the class."""
        return [self._predict(item) for item in batched_inputs]

    @abstractmethod
    def segment(
        self, image: NDArray[np.uint8], vocabulary: Vocabulary, size: Size, requested: set[str]
    ) -> dict[str, Any]:
        """Segment one image by class names.

        Args:
            image: [H, W, 3] RGB.
            vocabulary: K classes.
            size: (height, width) of the outputs.
            requested: some of "instances", "panoptic_seg" and "sem_seg".

        Returns:
            The requested outputs that the network has.
        """

    def refer(
        self, image: NDArray[np.uint8], expressions: Sequence[str], size: Size
    ) -> list[Instances]:
        """Segment what expressions describe: at most one instance for each of them.

        Args:
            image: [H, W, 3] RGB.
            expressions: one or more.
            size: (height, width) of the outputs.
        """
        raise PeerError(f"{type(self).__name__} takes class names, not `expressions`")

    def inference_size(self, batched_inputs: Sequence[dict[str, Any]]) -> InferenceSize:
        """Sizes that determine the memory of inference; see `SegmentationModel`."""
        return named_inference_size(batched_inputs, self.config.default_dataset)

    def _predict(self, item: dict[str, Any]) -> dict[str, Any]:
        image = self._rgb_image(item)
        size = output_size(item, (image.shape[0], image.shape[1]))
        expressions = item.get("expressions")
        if expressions is not None:
            if "referring" not in self.tasks:
                raise PeerError(f"{type(self).__name__} takes class names, not `expressions`")
            return {"referring": self.refer(image, list(expressions), size)}
        if "universal" not in self.tasks:
            raise PeerError(f"{type(self).__name__} takes `expressions`, not class names")
        vocabulary = vocabulary_of(item, self.config.default_dataset)
        return self.segment(image, vocabulary, size, requested_outputs(item))

    def _rgb_image(self, item: dict[str, Any]) -> NDArray[np.uint8]:
        """Return the image of an input as [H, W, 3] RGB bytes.

        Raises:
            PeerError: for another shape, naming the file.
        """
        image = item["image"]
        if image.ndim != 3 or image.shape[0] != IMAGE_CHANNELS or 0 in image.shape:
            file = item.get("file_name", "an image")
            raise PeerError(f"{file}: images have to be [3, H, W], and this is {list(image.shape)}")
        if image.is_floating_point():
            image = image.round().clamp(0, 255)
        array = image.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(
            array[..., ::-1] if self.config.image_format == "BGR" else array
        )

    def to_network(self, inputs: Any) -> dict[str, Any]:
        """Move the tensors of a processor to the network's device."""
        return {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
