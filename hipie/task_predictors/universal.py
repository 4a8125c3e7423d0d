"""Task predictor of open-vocabulary segmentation: things, stuff and parts by class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hipie.errors import InputError, describe
from hipie.modeling.postprocessing.part_inference import InstancePart, assign_parts
from hipie.modeling.postprocessing.semantic_inference import semantic_labels
from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors.base import (
    PreparedImage,
    TaskPredictor,
    encode_with_sam,
    register_task_predictor,
)
from hipie.vocabularies.vocabulary import (
    Name,
    Names,
    Parts,
    Vocabulary,
    VocabularyClass,
    VocabularyError,
    name_key,
    read_names,
    read_parts,
    root_wholes,
)

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam, SamImage

# The best class of every pixel: the scores of all classes are not needed.
LABELS = ("sem_seg_labels",)
OUTPUTS = ("panoptic", "instances", "semantic")
# Score from which an instance is reported; the panoptic map has thresholds of its own.
DEFAULT_MIN_SCORE = {"panoptic": 0.0, "instances": 0.4, "semantic": 0.0}


@dataclass(frozen=True)
class ClassRequest:
    """Class names of a call, made into vocabularies once.

    Attributes:
        vocabulary: things, wholes of parts and stuff.
        part_vocabulary: the same without the wholes, and then the parts; None without parts.
        wholes: names of the things that have parts.
    """

    vocabulary: Vocabulary
    part_vocabulary: Vocabulary | None = None
    wholes: tuple[str, ...] = ()

    @classmethod
    def from_names(cls, things: Names, stuff: Names, parts: Parts | str | None) -> ClassRequest:
        """Build the vocabularies.

        Args:
            things: class names; a tuple is a name and its synonyms; or a text, see `read_names`.
            stuff: likewise, for classes without instances.
            parts: part names by whole, as for `Vocabulary.from_names`; wholes join the things.

        Raises:
            VocabularyError: for no class, or one that is named twice or has no letters.
        """
        things, stuff, parts = (
            read_names(things, "things"),
            read_names(stuff, "stuff"),
            read_parts(parts),
        )
        wholes = root_wholes(parts)
        named = {name_key(name): name for name in map(_first_name, things)}
        # A whole is the thing of its name in any case, and is written as that.
        spelled = {whole: named.get(name_key(whole), whole) for whole in wholes}
        if len({*spelled.values()}) < len(spelled):
            raise VocabularyError(f"the parts of a whole are given twice: {', '.join(spelled)}")
        parts = {spelled.get(whole, whole): names for whole, names in parts.items()}
        wholes = root_wholes(parts)
        for name in map(_first_name, stuff):
            if name_key(name) in map(name_key, wholes) and name_key(name) not in named:
                raise VocabularyError(
                    f'"{name}" is stuff and has parts; only things have parts, so name it in things'
                )
        added = [whole for whole in wholes if name_key(whole) not in named]
        vocabulary = Vocabulary.from_names(things=[*things, *added], stuff=stuff)
        if not any(parts.values()):
            return cls(vocabulary)
        own_classes: list[VocabularyClass] = [c for c in vocabulary.classes if c.name not in wholes]
        own_classes += Vocabulary.from_names(parts=parts).classes
        return cls(vocabulary, Vocabulary(tuple(own_classes)), wholes)

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary) -> ClassRequest:
        """Return the request of all classes of a vocabulary.

        Parts whose whole is not in it, as of a model that has learned maps of parts alone, are
        segmented like stuff, each on its own.
        """
        known = {name_key(entry.name) for entry in vocabulary.classes}
        classes = [
            VocabularyClass(entry.name, "stuff", entry.synonyms)
            if entry.kind == "part" and name_key(entry.whole or "") not in known
            else entry
            for entry in vocabulary.classes
        ]
        parts = [entry for entry in classes if entry.kind == "part"]
        if not parts:
            return cls(Vocabulary(tuple(classes)))
        part_keys = {name_key(part.name) for part in parts}
        others = {name_key(e.name): e for e in classes if e.kind != "part"}
        wholes = dict.fromkeys(
            part.whole for part in parts if part.whole and name_key(part.whole) not in part_keys
        )
        names = tuple(others[name_key(whole)].name for whole in wholes)
        own_classes = [entry for entry in others.values() if entry.name not in names]
        return cls(Vocabulary(tuple(others.values())), Vocabulary((*own_classes, *parts)), names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes: things, stuff, then parts."""
        parts = self.part_vocabulary.classes if self.part_vocabulary is not None else ()
        return (*self.vocabulary.names, *(part.name for part in parts if part.kind == "part"))


def _first_name(name: Name) -> str:
    """Name of a class without its synonyms; "" for what is not a name."""
    first = next(iter(name), "") if isinstance(name, list | tuple) else name
    return first if isinstance(first, str) else ""


@register_task_predictor("universal")
class UniversalPredictor(TaskPredictor):
    """Panoptic, instance or semantic segmentation by a vocabulary, and the parts of things."""

    model_task = "universal"

    def predict(
        self,
        images: Sequence[PreparedImage],
        *,
        classes: ClassRequest,
        output: str = "panoptic",
        min_score: float | None = None,
        min_area: int = 0,
        max_segments: int | None = None,
        consistent: bool = True,
        sam: Sam | None = None,
    ) -> list[Segmentation]:
        """Segment images by class names.

        Args:
            images: one or more.
            classes: the class names.
            output: "panoptic", "instances" or "semantic"; see `Segmenter.segment`.
            min_score: segments with a lower score are dropped; by default `DEFAULT_MIN_SCORE`.
            min_area: segments and parts with fewer pixels are dropped.
            max_segments: only so many segments (with their parts) are kept, those with the highest
                scores.
            consistent: parts end where their whole ends; see `assign_parts`.
            sam: refines masks.

        Raises:
            ValueError: for an output that does not exist, or that the model does not have.
        """
        if output not in OUTPUTS:
            raise InputError(f'output is "{output}"; it has to be {" or ".join(OUTPUTS)}')
        if output == "semantic" and sam is not None:
            raise InputError(
                'sam refines masks of objects, which output="semantic" does not have'
            ).on_command_line(
                "--sam refines masks of objects, which --output-type semantic does not have"
            )
        _require_number("min_score", min_score, 0, 1)
        _require_number("min_area", min_area, 0)
        _require_number("max_segments", max_segments, 1)
        if min_score is None:
            min_score = DEFAULT_MIN_SCORE[output]
        results = []
        for image in images:
            if classes.part_vocabulary is not None:
                image.encode()
            segments = [
                segment
                for segment in self._segments(image, classes.vocabulary, output)
                if segment.score >= min_score
            ]
            sam_image = encode_with_sam(image, sam) if sam is not None else None
            if sam_image is not None:
                segments = refine_segments(sam_image, segments, overlap=output == "instances")
            if classes.part_vocabulary is not None:
                segments = _with_parts(image, segments, classes, consistent)
            if sam_image is not None:
                segments = refine_parts_of(sam_image, segments, consistent)
            shown = of_best_scores(with_area(segments, max(min_area, 1)), max_segments)
            results.append(Segmentation(image.pixels, shown, classes.class_names))
        return results

    def best_score(self, image: PreparedImage, classes: ClassRequest) -> tuple[str, float]:
        """Class and score of what an image has most likely, below every threshold.

        Args:
            image: the image.
            classes: the class names.

        Returns:
            Of the things the highest score of an instance; without any the highest score of a pixel
            in the semantic map, at most 1.
        """
        vocabulary = classes.vocabulary
        if any(vocabulary.is_thing):
            instances = image.run(vocabulary=vocabulary, results=("instances",)).get("instances")
            if instances is not None and len(instances):
                best = int(instances.scores.argmax())
                index = int(instances.pred_classes[best])
                return vocabulary.names[index], float(instances.scores[best])
        labels = semantic_labels(image.run(vocabulary=vocabulary, results=LABELS)).cpu()
        pixel = int(labels.scores.flatten().argmax())
        score = float(labels.scores.flatten()[pixel])
        return vocabulary.names[int(labels.labels.flatten()[pixel])], min(max(score, 0.0), 1.0)

    def _segments(self, image: PreparedImage, vocabulary: Vocabulary, output: str) -> list[Segment]:
        if output == "instances":
            return self._instance_segments(image, vocabulary)
        if output == "semantic":
            return _semantic_segments(image, vocabulary)
        return _panoptic_segments(image, vocabulary)

    def _instance_segments(self, image: PreparedImage, vocabulary: Vocabulary) -> list[Segment]:
        """Every instance of a thing, most certain first; masks may overlap."""
        if not any(vocabulary.is_thing):
            raise InputError(
                'output="instances" needs things; stuff has no instances'
            ).on_command_line("--output-type instances needs --things; stuff has no instances")
        outputs = image.run(vocabulary=vocabulary, results=("instances",))
        if "instances" not in outputs:
            architecture = type(self.model).__name__
            raise InputError(f'{architecture} has no output="instances"').on_command_line(
                f"{architecture} has no --output-type instances"
            )
        instances = outputs["instances"].to("cpu")
        segments = []
        for mask, index, score in zip(
            instances.pred_masks,
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            strict=True,
        ):
            entry = vocabulary.classes[index]
            segments.append(Segment(entry.name, entry.kind, mask.numpy().astype(bool), score))
        return segments


def with_area(segments: Sequence[Segment], min_area: int) -> list[Segment]:
    """Segments and parts with at least so many pixels."""
    return [
        replace(segment, parts=with_area(segment.parts, min_area))
        for segment in segments
        if segment.area >= min_area
    ]


def of_best_scores(segments: list[Segment], count: int | None) -> list[Segment]:
    """At most `count` segments, those with the highest scores, in their order."""
    if count is None or len(segments) <= count:
        return segments
    order = sorted(range(len(segments)), key=lambda row: -segments[row].score)
    return [segments[row] for row in sorted(order[:count])]


def _require_number(name: str, value: Any, low: float, high: float = float("inf")) -> None:
    """Check an option that is a number in a range, or None.

    Raises:
        InputError: with its name and value.
    """
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if value is not None and not (is_number and low <= value <= high):
        limits = f"from {low} to {high}" if high < float("inf") else f"of at least {low}"
        raise InputError(
            f"{name} has to be a number {limits}, not {describe(value)}"
        ).on_command_line(f"--{name.replace('_', '-')} has to be a number {limits}, not {value}")


def _panoptic_segments(image: PreparedImage, vocabulary: Vocabulary) -> list[Segment]:
    """Segments of the panoptic map, without overlap."""
    outputs = image.run(vocabulary=vocabulary, results=("panoptic_seg",))
    panoptic, infos = outputs["panoptic_seg"]
    panoptic = panoptic.cpu().numpy()
    segments = []
    for info in infos:
        entry = vocabulary.classes[info["category_id"]]
        mask = panoptic == info["id"]
        segments.append(Segment(entry.name, entry.kind, mask, float(info["score"])))
    return segments


def _semantic_segments(image: PreparedImage, vocabulary: Vocabulary) -> list[Segment]:
    """One segment a class of the semantic map.

    The score is the class's share of the scores of all classes, averaged over its pixels. A pixel
    without any positive score belongs to no class.
    """
    best = semantic_labels(image.run(vocabulary=vocabulary, results=LABELS)).cpu()
    shares = best.shares()
    segments = []
    for index in best.labels.unique().tolist():
        mask = (best.labels == index) & (best.scores > 0)
        if bool(mask.any()):
            entry = vocabulary.classes[index]
            score = float(shares[mask].mean())
            segments.append(Segment(entry.name, entry.kind, mask.numpy(), score))
    return segments


def _with_parts(
    image: PreparedImage, segments: list[Segment], classes: ClassRequest, consistent: bool
) -> list[Segment]:
    """Segments whose things have their parts, from semantic scores of the part vocabulary."""
    vocabulary = classes.part_vocabulary
    rows = [
        row
        for row, segment in enumerate(segments)
        if segment.kind == "thing" and segment.label in classes.wholes
    ]
    if vocabulary is None or not rows:
        return segments
    best = semantic_labels(image.run(vocabulary=vocabulary, results=LABELS)).cpu()
    parts: dict[int, list[Segment]] = {row: [] for row in rows}
    for part in assign_parts(
        best,
        torch.from_numpy(np.stack([segments[row].mask for row in rows])),
        [segments[row].label for row in rows],
        [entry.whole for entry in vocabulary.classes],
        names=vocabulary.names,
        consistent=consistent,
    ):
        parts[rows[part.instance]].append(_part_segment(part, vocabulary))
    return [
        replace(segment, parts=tuple(parts[row])) if row in parts else segment
        for row, segment in enumerate(segments)
    ]


def _part_segment(part: InstancePart, vocabulary: Vocabulary) -> Segment:
    return Segment(
        label=vocabulary.classes[part.part].name,
        kind="part",
        mask=part.mask.numpy().astype(bool),
        score=float(part.score),
        parts=tuple(_part_segment(child, vocabulary) for child in part.parts),
    )


def refine_segments(
    sam_image: SamImage, segments: list[Segment], *, overlap: bool = False
) -> list[Segment]:
    """Replace the masks of things by SAM's masks of their boxes.

    Args:
        sam_image: the encoded image.
        segments: things and stuff.
        overlap: keep overlaps between things. Otherwise the thing with the higher score wins a
            pixel, and stuff loses the pixels of things.
    """
    from hipie.modeling.sam.refinement import refine_things_and_stuff

    if not any(segment.kind == "thing" for segment in segments):
        return segments
    refined = refine_things_and_stuff(
        sam_image,
        torch.from_numpy(np.stack([segment.mask for segment in segments])),
        torch.tensor([segment.score for segment in segments]),
        torch.tensor([segment.kind != "thing" for segment in segments]),
        overlap=overlap,
    )
    return [
        replace(segment, mask=mask)
        for segment, mask in zip(segments, refined.cpu().numpy(), strict=True)
    ]


def refine_parts_of(
    sam_image: SamImage, wholes: Sequence[Segment], consistent: bool
) -> list[Segment]:
    """Replace the masks of parts by SAM's masks inside their wholes, level by level.

    Args:
        sam_image: the encoded image.
        wholes: segments with parts.
        consistent: cut parts at the border of their whole.

    Returns:
        The wholes with refined parts; a part without any pixel left is dropped.
    """
    from hipie.modeling.sam.refinement import refine_parts

    pairs = [(whole, part) for whole in wholes for part in whole.parts]
    if not pairs:
        return list(wholes)
    inside = torch.from_numpy(np.stack([whole.mask for whole, _ in pairs]))
    masks = torch.from_numpy(np.stack([part.mask for _, part in pairs]))
    refined = refine_parts(sam_image, masks, inside, consistent).cpu().numpy()
    parts = iter(
        replace(part, mask=mask & whole.mask if consistent else mask)
        for (whole, part), mask in zip(pairs, refined, strict=True)
    )
    kept_parts = [
        [part for part in (next(parts) for _ in whole.parts) if part.mask.any()] for whole in wholes
    ]
    flat = [part for whole_parts in kept_parts for part in whole_parts]
    refined_nested = iter(refine_parts_of(sam_image, flat, consistent))
    return [
        replace(whole, parts=tuple(next(refined_nested) for _ in whole_parts))
        for whole, whole_parts in zip(wholes, kept_parts, strict=True)
    ]
