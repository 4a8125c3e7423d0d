"""HIPIE: things, stuff, parts and expressions with one model (Wang et al., NeurIPS 2023).

Things meet the words early: pixels and words attend to each other before the thing encoder. Stuff
meets them late, at the class head of its own decoder. Here the rooms of the house are tied
together; `hipie.modeling` holds the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.checkpoint.converters.hipie import OFFICIAL_HIPIE, UNINEXT
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.targets import Targets
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.build import FEATURES, assemble
from hipie.modeling.meta_arch.image_batch import (
    ImageBatch,
    build_targets,
    expression_targets,
    pad_images,
)
from hipie.modeling.meta_arch.inputs import object_pieces, output_size, require_room, vocabulary_of
from hipie.modeling.meta_arch.postprocess import Looked, image_results, wanted
from hipie.modeling.postprocessing.referring_inference import referring_inference
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.modeling.text_encoder.base import TextEncoder
from hipie.modeling.text_encoder.caption import expression_caption, vocabulary_caption
from hipie.modeling.transformer_decoder.stuff_branch import StuffBranch
from hipie.modeling.transformer_decoder.thing_branch import (
    ProjectedInputs,
    ThingBranch,
    ThingOutput,
)
from hipie.structures import RawPredictions, TextFeatures, raw_branch
from hipie.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from hipie.modeling.open_vocabulary.clip_ensemble import ClipEnsemble
    from hipie.modeling.open_vocabulary.clip_mask_scores import ClipMaskScores
    from hipie.structures import ImageFeatures

EXPRESSIONS_AT_ONCE = 16


@META_ARCH_REGISTRY.register()
class HIPIE(SegmentationModel):
    """Universal segmentation with words.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and either
    `vocabulary` (`hipie.Vocabulary`) or `expressions` (a list of expressions); with neither,
    the vocabulary of `DATASETS.TEST[0]`. `height` and `width` give the size of the results, and
    `results`, if given, names those to make.
    In training also `task` ("detection", "parts" or "referring", one for the whole batch) and
    `instances`.

    Returns in training a dict of losses; otherwise a dict an image: `instances`, `sem_seg`
    [K, H, W] and `panoptic_seg` for a vocabulary (with `part_seg` where it has classes and their
    parts), `referring` (a list of `Instances`, the best
    one of every expression) for expressions.
    """

    tasks = frozenset({"universal", "parts", "referring"})

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        text_encoder: TextEncoder,
        things: ThingBranch,
        stuff: StuffBranch | None,
        thing_criterion: ThingCriterion,
        stuff_criterion: StuffCriterion,
        settings: InferenceSettings,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 32,
        pad_at_test: bool = False,
        spread_whole_names: bool = False,
        unfused_expressions: bool = True,
        default_dataset: str = "",
        clip_ensemble: ClipEnsemble | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.text_encoder = text_encoder
        self.things = things
        self.stuff = stuff
        self.thing_criterion = thing_criterion
        self.stuff_criterion = stuff_criterion
        self.settings = settings
        self.size_divisibility = size_divisibility
        self.pad_at_test = pad_at_test
        self.spread_whole_names = spread_whole_names
        self.unfused_expressions = unfused_expressions
        self.default_dataset = default_dataset
        self.clip_ensemble = clip_ensemble
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.HIPIE` and Detectron2's keys."""
        return assemble(cfg)

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Prefix of the text encoder's weights where an installed package provides them."""
        return ("text_encoder.",) if self.text_encoder.has_external_weights() else ()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converters of the authors' HIPIE and UNINEXT checkpoints."""
        return (OFFICIAL_HIPIE, UNINEXT)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Compute the results of every image; see the class."""
        return self.predict(batched_inputs)

    # Training -------------------------------------------------------------------------------

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Every weighted loss term of a batch of one task, by name.

        Raises:
            ValueError: if the batch mixes tasks, or names one that does not exist.
        """
        tasks = {item["task"] for item in batched_inputs}
        if len(tasks) != 1:
            raise ValueError(f"a training batch must be of one task, and this one has {tasks}")
        task = tasks.pop()
        batch, features = self._see(batched_inputs, training=True)
        if task == "referring":
            return self._referring_losses(batched_inputs, batch, features)
        if task in ("detection", "parts"):
            return self._vocabulary_losses(batched_inputs, batch, features, task)
        raise ValueError(f'unknown task "{task}"; known are detection, parts and referring')

    def _vocabulary_losses(
        self, inputs: list[dict[str, Any]], batch: ImageBatch, features: list[Tensor], task: str
    ) -> dict[str, Tensor]:
        vocabularies = [item["vocabulary"] for item in inputs]
        text = self.text_encoder([vocabulary_caption(v) for v in vocabularies])
        spread = self.spread_whole_names
        targets = [
            build_targets(
                item["instances"],
                batch.canvas,
                positive_map=object_pieces(
                    text,
                    i,
                    item,
                    self.text_encoder.tokenizer if task == "parts" and spread else None,
                ),
                is_thing=vocabularies[i].is_thing if self.stuff else (True,) * len(vocabularies[i]),
                device=self.device,
            )
            for i, item in enumerate(inputs)
        ]
        projected = self.things.project(features, batch.padding_mask)
        fused = self.things.fuse(projected, text.hidden, text.mask)
        losses: dict[str, Tensor] = {}
        if task == "detection" or self.stuff is None:
            found = self.things(
                fused,
                text_for_classes=fused.fused_text,
                unfused_pooled=text.pooled(),
                targets=targets,
            )
            losses.update(self.thing_criterion(found, targets, text_mask=text.mask))
        if self.stuff is None:
            return losses
        covered = self.stuff(
            features,
            text_for_classes=fused.fused_text,
            pooled_text=text.with_hidden(fused.fused_text).pooled(),
            targets=targets,
        )
        losses.update(self.stuff_criterion(covered, targets, text_mask=text.mask))
        return losses

    def _referring_losses(
        self, inputs: list[dict[str, Any]], batch: ImageBatch, features: list[Tensor]
    ) -> dict[str, Tensor]:
        image_of = [i for i, item in enumerate(inputs) for _ in item["expressions"]]
        targets = [
            one
            for item in inputs
            for one in expression_targets(
                item["instances"], len(item["expressions"]), batch.canvas, self.device
            )
        ]
        expressions = [expression for item in inputs for expression in item["expressions"]]
        projected = self.things.project(features, batch.padding_mask)
        _, found = self._find_described(projected, expressions, image_of, targets)
        ones = torch.ones(len(expressions), 1, dtype=torch.bool, device=self.device)
        return self.thing_criterion(found, targets, text_mask=ones)

    # Inference ------------------------------------------------------------------------------

    def predict(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results of every image, in order; images with words and with expressions may mix."""
        results: list[dict[str, Any]] = [{} for _ in batched_inputs]
        expression_inputs = [i for i, item in enumerate(batched_inputs) if "expressions" in item]
        word_inputs = [i for i, item in enumerate(batched_inputs) if "expressions" not in item]
        for chosen, answer in ((word_inputs, self._segment), (expression_inputs, self._refer)):
            if chosen:
                answers = answer([batched_inputs[i] for i in chosen])
                for i, one in zip(chosen, answers, strict=True):
                    results[i] = one
        return results

    def predict_raw(
        self,
        batched_inputs: list[dict[str, Any]],
        *,
        thing_masks: Sequence[int] | Tensor | None = None,
        stuff_masks: Sequence[int] | Tensor | None = None,
    ) -> RawPredictions:
        """The networks' own numbers for images that all have words, or all have expressions.

        Args:
            batched_inputs: as for the results; (image, expression) pairs count in order.
            thing_masks, stuff_masks: the queries whose masks are made, the same for all images;
                None = all of them, [] = none.

        Raises:
            ValueError: if images with words and images with expressions are mixed, or the model
                has no stuff decoder.
        """
        said = ["expressions" in item for item in batched_inputs]
        if any(said) != all(said):
            raise ValueError(
                "raw predictions are of images with words or of images with "
                "expressions, not of both at once"
            )
        if self.stuff is None:
            raise ValueError("raw predictions need a stuff decoder (MODEL.HIPIE.STUFF.ENABLED)")
        with torch.no_grad():
            return self._raw(batched_inputs, all(said), thing_masks, stuff_masks)

    def _raw(
        self,
        inputs: list[dict[str, Any]],
        said: bool,
        thing_masks: Sequence[int] | Tensor | None,
        stuff_masks: Sequence[int] | Tensor | None,
    ) -> RawPredictions:
        batch, features = self._see(inputs)
        if said:
            pairs = [(i, one) for i, item in enumerate(inputs) for one in item["expressions"]]
            image_of = [i for i, _ in pairs]
            projected = self.things.project(features, batch.padding_mask)
            text, found = self._find_described(projected, [one for _, one in pairs], image_of)
            features = [level[image_of] for level in features]
            compared = text if self.unfused_expressions else text.with_hidden(found.fused_text)
            text_for_classes = compared.pooled()
        else:
            text, found = self._find_named(inputs, batch, features)
            text_for_classes = found.fused_text
        covered = self.stuff(
            features,
            text_for_classes=text_for_classes,
            pooled_text=text.with_hidden(found.fused_text).pooled(),
        )
        return RawPredictions(
            things=raw_branch(
                found.layers[-1],
                first_query=found.num_background,
                references=found.references[0],
                proposals=found.topk,
                masks_of=thing_masks,
            ),
            stuff=raw_branch(
                covered.layers[-1],
                first_query=0,
                references=covered.references,
                proposals=covered.topk,
                masks_of=stuff_masks,
            ),
            fused_text=found.fused_text,
            encoder_memory=found.memory,
        )

    def _segment(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.answer(inputs, self.look(inputs), [self.clip_scores(item) for item in inputs])

    def look(self, inputs: list[dict[str, Any]]) -> Looked:
        """What both branches say of images with words, before it becomes results."""
        maps = [item for item in inputs if wanted(item, self.settings).semantic_on]
        classes = max((len(self._vocabulary(item)) for item in maps), default=0)
        require_room(inputs, classes, self.things.width, self.device)
        batch, features = self._see(inputs)
        text, found = self._find_named(inputs, batch, features)
        covered = None
        if self.stuff is not None:
            covered = self.stuff(
                features,
                text_for_classes=found.fused_text,
                pooled_text=text.with_hidden(found.fused_text).pooled(),
            ).layers[-1]
        return Looked(batch.sizes, text.token_spans, found, covered)

    def answer(
        self,
        inputs: list[dict[str, Any]],
        looked: Looked,
        clip_scores: Sequence[ClipMaskScores | None],
    ) -> list[dict[str, Any]]:
        """Results of images, from what `look` returned and the CLIP scores of each."""
        return [
            image_results(looked, i, item, self._vocabulary(item), self.settings, clip_scores[i])
            for i, item in enumerate(inputs)
        ]

    def _refer(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        require_room(inputs, 0, self.things.width, self.device)
        batch, features = self._see(inputs)
        pairs = [(i, s) for i, item in enumerate(inputs) for s in item["expressions"]]
        projected = self.things.project(features, batch.padding_mask)
        results: list[dict[str, Any]] = [{"referring": []} for _ in inputs]
        for start in range(0, len(pairs), EXPRESSIONS_AT_ONCE):
            part = pairs[start : start + EXPRESSIONS_AT_ONCE]
            image_of = [i for i, _ in part]
            _, found = self._find_described(projected, [s for _, s in part], image_of)
            for row, i in enumerate(image_of):
                best = referring_inference(
                    found.layers[-1],
                    pair=row,
                    num_background=found.num_background,
                    input_size=batch.sizes[i],
                    output_size=output_size(inputs[i], batch.sizes[i]),
                )
                results[i]["referring"].append(best)
        return results

    # Both -----------------------------------------------------------------------------------

    def _see(
        self, inputs: list[dict[str, Any]], *, training: bool = False
    ) -> tuple[ImageBatch, list[Tensor]]:
        """Images on one canvas, and the backbone's three feature maps of them."""
        batch = pad_images(
            [item["image"] for item in inputs],
            self.pixel_mean,
            self.pixel_std,
            self.size_divisibility if training or self.pad_at_test else 0,
        )
        features = self.backbone(batch.pixels)
        return batch, [features[name] for name in FEATURES]

    def _find_named(
        self, inputs: list[dict[str, Any]], batch: ImageBatch, features: list[Tensor]
    ) -> tuple[TextFeatures, ThingOutput]:
        """The thing branch over images with a vocabulary each, and the words unfused."""
        text = self.text_encoder([vocabulary_caption(self._vocabulary(one)) for one in inputs])
        projected = self.things.project(features, batch.padding_mask)
        fused = self.things.fuse(projected, text.hidden, text.mask)
        found = self.things(
            fused, text_for_classes=fused.fused_text, unfused_pooled=text.pooled(), targets=None
        )
        return text, found

    def _find_described(
        self,
        projected: ProjectedInputs,
        expressions: list[str],
        image_of: list[int],
        targets: list[Targets] | None = None,
    ) -> tuple[TextFeatures, ThingOutput]:
        """The thing branch over (image, expression) pairs, one class a pair; words unfused."""
        text = self.text_encoder([expression_caption(expression) for expression in expressions])
        unfused = self.unfused_expressions and targets is None
        rows = torch.tensor(image_of, device=self.device)
        fused = self.things.fuse(projected, text.hidden, text.mask, rows)
        found = self.things(
            fused,
            text_for_classes=(text if unfused else text.with_hidden(fused.fused_text)).pooled(),
            unfused_pooled=text.pooled(),
            targets=targets,
        )
        return text, found

    def _vocabulary(self, item: dict[str, Any]) -> Vocabulary:
        return vocabulary_of(item, self.default_dataset)

    def clip_scores(self, item: dict[str, Any]) -> ClipMaskScores | None:
        """CLIP scores of an image's masks; None if CLIP is disabled."""
        if self.clip_ensemble is None:
            return None
        step = self.size_divisibility if self.pad_at_test else 0
        return self.clip_ensemble.of(item["image"], self.pixel_mean, self._vocabulary(item), step)
