"""ZegCLIP: zero-shot semantic segmentation in one stage.

Zhou, Lei, Zhang, Liu, Liu, "ZegCLIP: Towards Adapting CLIP for Zero-shot Semantic Segmentation",
CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.data.held_out_classes import held_out_indices
from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import output_size, pad_images, vocabulary_of
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_loading import RANDOM_PREFIX
from hipie.modeling.open_vocabulary.sliding_window import (
    SlidingWindowConfig,
    sliding_window_inference,
)
from hipie.modeling.postprocessing.class_maps import class_scores, resize_maps, segmentation_outputs
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass, name_key
from hipie_trained_clip.checkpoint_converters import OFFICIAL_ZEGCLIP
from hipie_trained_clip.modeling.criterion import pseudo_labels, zegclip_losses
from hipie_trained_clip.modeling.relationship_decoder import RelationshipDecoder
from hipie_trained_clip.modeling.tuned_image_encoder import TunedImageEncoder, TuningConfig

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures

KEYS = "MODEL.TRAINED_CLIP.ZEGCLIP"


@META_ARCH_REGISTRY.register()
class ZegCLIP(SegmentationModel):
    """Masks of classes from CLIP's frozen encoders, trained prompts and a small decoder.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and may have
    `vocabulary`, by default the classes of `DATASETS.TEST[0]`; `height` and `width` give the size
    of the outputs. In training it has `instances`, whose `gt_classes` are positions in
    `vocabulary`, and where pixels have no label `ignored`.

    Returns a dict of losses in training; otherwise a dict for each image with `sem_seg`
    ([K, H, W], probabilities that do not exclude each other) and `panoptic_seg`, whose segments are
    the classes.

    Args:
        clip: with a ViT that has a class token.
        tuning: what is trained in the image encoder.
        decoder: options of `RelationshipDecoder`.
        templates: prompt templates.
        weights: of focal and dice loss.
        unlabelled_negative, unseen_offset: keys of `MODEL.TRAINED_CLIP.ZEGCLIP`.
        train_datasets: registered data sets whose classes were trained.
        held_out: names of classes that were left out.
        self_training_start: first iteration with pseudo labels of `held_out`; None = never.
        sliding_window: at test.
        image_format: "RGB" or "BGR".
        default_dataset: data set whose classes are used for images without a vocabulary.
        has_pretrained_weights: whether the weights of `clip` are not random.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"universal"})

    @configurable
    def __init__(
        self,
        *,
        clip: Clip,
        tuning: TuningConfig | None = None,
        decoder: dict[str, Any] | None = None,
        templates: str = "one",
        weights: tuple[float, float] = (100.0, 1.0),
        unlabelled_negative: bool = True,
        unseen_offset: float = 0.1,
        train_datasets: Sequence[str] = (),
        held_out: Sequence[str] = (),
        self_training_start: int | None = None,
        sliding_window: SlidingWindowConfig | None = None,
        image_format: str = "RGB",
        default_dataset: str = "",
        has_pretrained_weights: bool = True,
    ) -> None:
        super().__init__()
        clip.require_mask_pooling()
        self.clip = clip
        self.backbone: Any = clip.model
        self.backbone.has_pretrained_weights = has_pretrained_weights
        self.image_tuning = TunedImageEncoder(clip.visual, tuning or TuningConfig())
        options = {"layers": 3, "heads": 8, "dim_feedforward": 2048, "dropout": 0.1}
        self.decoder = RelationshipDecoder(clip.visual.output_dim, **{**options, **(decoder or {})})
        self.templates, self.weights = templates, weights
        self.unlabelled_negative, self.unseen_offset = unlabelled_negative, unseen_offset
        self.train_datasets, self.held_out = tuple(train_datasets), tuple(held_out)
        self.self_training_start = self_training_start
        self.sliding_window = sliding_window or SlidingWindowConfig()
        self.image_format, self.default_dataset = image_format, default_dataset
        mean, std = clip.visual.image_mean, clip.visual.image_std
        self.register_buffer("pixel_mean", 255 * torch.tensor(mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", 255 * torch.tensor(std).view(3, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINED_CLIP`.

        Raises:
            InputError: for heads that do not divide CLIP's joint space, or a share of the schedule
                outside 0..1.
        """
        keys, node = cfg.MODEL.TRAINED_CLIP, cfg.MODEL.TRAINED_CLIP.ZEGCLIP
        clip = Clip.from_source(keys.CLIP.MODEL, keys.CLIP.WEIGHTS)
        clip.require_mask_pooling()
        if clip.visual.output_dim % keys.DECODER.HEADS:
            raise InputError(
                f"MODEL.TRAINED_CLIP.DECODER.HEADS is {keys.DECODER.HEADS}, and does not divide "
                f"the {clip.visual.output_dim} channels of {keys.CLIP.MODEL}"
            )
        return {
            "clip": clip,
            "tuning": TuningConfig(
                kind=node.TUNING,
                num_prompts=node.NUM_PROMPTS,
                prompt_blocks=node.PROMPT_BLOCKS,
                adapter_channels=node.ADAPTER_CHANNELS,
                adapter_scale=node.ADAPTER_SCALE,
                lora_rank=node.LORA_RANK,
                lora_scale=node.LORA_SCALE,
                drop_path=node.DROP_PATH,
                last_block=node.LAST_BLOCK,
                double_class_embedding=node.DOUBLE_CLASS_EMBEDDING,
            ),
            "decoder": {
                "layers": keys.DECODER.LAYERS,
                "heads": keys.DECODER.HEADS,
                "dim_feedforward": keys.DECODER.DIM_FEEDFORWARD,
                "dropout": keys.DECODER.DROPOUT,
            },
            "templates": node.TEMPLATES,
            "weights": (node.FOCAL_WEIGHT, node.DICE_WEIGHT),
            "unlabelled_negative": node.UNLABELLED_NEGATIVE,
            "unseen_offset": node.UNSEEN_OFFSET,
            "train_datasets": tuple(cfg.DATASETS.TRAIN),
            "held_out": tuple(cfg.DATASETS.HELD_OUT_CLASSES),
            "self_training_start": _self_training_start(cfg),
            "sliding_window": SlidingWindowConfig(node.WINDOW, node.STRIDE, KEYS),
            "image_format": cfg.INPUT.FORMAT,
            "default_dataset": cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "",
            "has_pretrained_weights": not keys.CLIP.MODEL.startswith(RANDOM_PREFIX),
        }

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converter of the authors' checkpoints."""
        return (OFFICIAL_ZEGCLIP,)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """Layers of the decoder."""
        return {"decoder": list(self.decoder.layers)}

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of norms."""
        return {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if isinstance(module, nn.LayerNorm)
            for name, _ in module.named_parameters(recurse=False)
        }

    def train(self, mode: bool = True) -> Self:
        """Set training mode, without CLIP, which is frozen."""
        super().train(mode)
        self.backbone.eval()
        return self

    def mask_logits(self, pixels: Tensor, texts: Sequence[Tensor]) -> list[Tensor]:
        """Compute mask logits at the resolution of patches.

        Args:
            pixels: [B, 3, H, W] normalised, sides that are multiples of the patch size.
            texts: unit features [K_i, D] of the names of each image.

        Returns:
            [K_i, h, w] for each image.
        """
        patch_height, patch_width = self.clip.patch_size
        grid = (pixels.shape[-2] // patch_height, pixels.shape[-1] // patch_width)
        images, patches = self.image_tuning(pixels)
        return [
            self.decoder(text, image, rows).unflatten(1, grid)
            for text, image, rows in zip(texts, images, patches, strict=True)
        ]

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the weighted losses of a batch, at the resolution of the images.

        From the start of the self-training on, held-out classes are classes of every image, and
        unlabelled pixels have the held-out class that is most probable there.

        Raises:
            InputError: if an image has no `vocabulary` or `instances`, naming its file.
        """
        for item in batched_inputs:
            if "instances" not in item or not item.get("vocabulary"):
                raise InputError(
                    f"{item.get('file_name', 'an image')}: a training image needs `vocabulary` and "
                    "`instances`"
                )
        pixels, padding, _ = pad_images(
            [self._rgb(item["image"]) for item in batched_inputs],
            self.pixel_mean,
            self.pixel_std,
            self.clip.patch_size[0],
        )
        trained = [len(item["vocabulary"]) for item in batched_inputs]
        vocabularies = [item["vocabulary"] for item in batched_inputs]
        if self._self_training:
            vocabularies = [self._with_held_out(vocabulary) for vocabulary in vocabularies]
        encoded = [self._encode(vocabulary) for vocabulary in vocabularies]
        maps = self.mask_logits(pixels, [text for text, _ in encoded])
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        logits, targets, labelled = [], [], []
        for i, (item, scores, is_padding) in enumerate(
            zip(batched_inputs, maps, padding, strict=True)
        ):
            num_classes = len(vocabularies[i])
            logits.append(resize_maps(class_scores(scores, encoded[i][1], num_classes), size))
            masks, unlabelled = self._targets(item, num_classes, size)
            if num_classes > trained[i]:
                pseudo = pseudo_labels(logits[-1], trained[i], unlabelled)
                masks, unlabelled = masks | pseudo, unlabelled & ~pseudo.any(0)
            targets.append(masks)
            no_loss = torch.zeros_like(unlabelled)
            labelled.append(~(no_loss if self.unlabelled_negative else unlabelled | is_padding))
        return zegclip_losses(logits, targets, labelled, self.weights)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Segment a batch of images; see the class."""
        return [self._segment(item) for item in batched_inputs]

    def _segment(self, item: dict[str, Any]) -> dict[str, Any]:
        vocabulary = vocabulary_of(item, self.default_dataset)
        text, index = self._encode(vocabulary)
        pixels, _, ((height, width),) = pad_images(
            [self._rgb(item["image"])], self.pixel_mean, self.pixel_std, self.clip.patch_size[0]
        )
        window = self.sliding_window
        if window.window:
            patch = self.clip.patch_size[0]
            side = -(-window.window // patch) * patch
            stride = max(window.stride // patch, 1) * patch
            maps = sliding_window_inference(
                pixels, side, stride, lambda crop: self.mask_logits(crop, [text])[0].sigmoid()
            )
        else:
            maps = self.mask_logits(pixels, [text])[0].sigmoid()
        maps = resize_maps(maps, (int(pixels.shape[-2]), int(pixels.shape[-1])))[:, :height, :width]
        scores = class_scores(maps, index, len(vocabulary))
        unseen = torch.tensor(self.unseen_classes(vocabulary), device=scores.device)
        scores = (scores + self.unseen_offset * unseen[:, None, None]) / (1 + self.unseen_offset)
        return segmentation_outputs(
            resize_maps(scores, output_size(item, (height, width))), vocabulary
        )

    def unseen_classes(self, vocabulary: Vocabulary) -> list[bool]:
        """For each class of a vocabulary, whether none of its names is a class of the training.

        All are False without a data set of the training.
        """
        if not self._trained_names:
            return [False] * len(vocabulary)
        return [
            self._trained_names.isdisjoint(map(name_key, entry.phrases))
            for entry in vocabulary.classes
        ]

    @cached_property
    def _trained_names(self) -> frozenset[str]:
        names: set[str] = set()
        for dataset in self.train_datasets:
            if dataset not in MetadataCatalog.list():
                continue
            metadata = MetadataCatalog.get(dataset)
            vocabulary = metadata.get("vocabulary") or Vocabulary.from_metadata(metadata)
            removed = held_out_indices(self.held_out, vocabulary)
            unseen = set(metadata.get("unseen_classes", ()))
            for index, entry in enumerate(vocabulary.classes):
                if index not in removed and entry.name not in unseen:
                    names.update(map(name_key, entry.phrases))
        return frozenset(names)

    @property
    def _self_training(self) -> bool:
        """Whether the iteration of the running training has pseudo labels."""
        if self.self_training_start is None:
            return False
        iteration = get_event_storage().iter if has_event_storage() else 0
        return int(iteration) >= self.self_training_start

    def _with_held_out(self, vocabulary: Vocabulary) -> Vocabulary:
        """A vocabulary with the held-out classes after its own."""
        names = set(map(name_key, vocabulary.names))
        added = [entry for entry in self._held_out_classes if name_key(entry.name) not in names]
        return Vocabulary((*vocabulary.classes, *added))

    @cached_property
    def _held_out_classes(self) -> tuple[VocabularyClass, ...]:
        """Held-out classes of the data sets of the training, each once."""
        entries: dict[str, VocabularyClass] = {}
        for dataset in self.train_datasets:
            if dataset not in MetadataCatalog.list():
                continue
            metadata = MetadataCatalog.get(dataset)
            vocabulary = metadata.get("vocabulary") or Vocabulary.from_metadata(metadata)
            for index in sorted(held_out_indices(self.held_out, vocabulary)):
                entry = vocabulary.classes[index]
                entries.setdefault(name_key(entry.name), entry)
        return tuple(entries.values())

    def _encode(self, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """Unit features [N, D] of all names, and [N] the class of each."""
        pairs = [(phrase, k) for k, c in enumerate(vocabulary.classes) for phrase in c.phrases]
        if self.clip.device != self.device:
            self.backbone.to(self.device)
        text = self.clip.text_features([phrase for phrase, _ in pairs], self.templates)
        return text.to(self.device), torch.tensor([k for _, k in pairs], device=self.device)

    def _rgb(self, image: Tensor) -> Tensor:
        return image.flip(0) if self.image_format == "BGR" else image

    def _targets(
        self, item: dict[str, Any], num_classes: int, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks [K, H, W] of the classes of an image, and its unlabelled pixels [H, W]."""
        instances = item["instances"]
        height, width = item["image"].shape[-2:]
        masks = torch.zeros(num_classes, *size, dtype=torch.bool, device=self.device)
        for label, mask in zip(
            instances.gt_classes.tolist(), instances.gt_masks.tensor.to(self.device), strict=True
        ):
            masks[label, :height, :width] |= mask
        unlabelled = torch.zeros(size, dtype=torch.bool, device=self.device)
        if item.get("ignored") is not None:
            unlabelled[:height, :width] = item["ignored"].to(self.device) > 0
        return masks, unlabelled & ~masks.any(0)


def _self_training_start(cfg: CfgNode) -> int | None:
    """First iteration of the self-training; None = never.

    Raises:
        InputError: for a share of the schedule outside 0..1, or if there is no held-out class.
    """
    share = cfg.MODEL.TRAINED_CLIP.ZEGCLIP.SELF_TRAINING
    if not 0 <= share <= 1:
        raise InputError(f"{KEYS}.SELF_TRAINING is {share}; it has to be in 0..1")
    if share == 1:
        return None
    if not cfg.DATASETS.HELD_OUT_CLASSES:
        raise InputError(f"{KEYS}.SELF_TRAINING needs classes in DATASETS.HELD_OUT_CLASSES")
    return int(share * cfg.SOLVER.MAX_ITER)
