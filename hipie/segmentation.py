"""Results of a `Segmenter`: labelled masks of one image, drawn, saved and converted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from hipie import __version__
from hipie.errors import InputError
from hipie.result_files import (
    is_same_file,
    require_no_file_of_the_user,
    write_drawing,
    write_json,
)
from hipie.visualizer import MIN_LEGEND_AREA, Overlay, draw_overlay, paint_segments

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam


@dataclass(frozen=True, eq=False)
class Segment:
    """A labelled mask: a thing, a stuff region, a part, or the object of an expression.

    Attributes:
        label: class name or expression.
        kind: "thing", "stuff", "part" or "expression".
        mask: [H, W] bool.
        score: confidence in 0..1.
        parts: parts of a thing; a part may have parts of its own. Kept as a tuple.
    """

    label: str
    kind: str
    mask: NDArray[Any]
    score: float
    parts: Sequence[Segment] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segment):
            return NotImplemented
        return (
            (self.label, self.kind, self.score) == (other.label, other.kind, other.score)
            and np.array_equal(self.mask, other.mask)
            and self.parts == other.parts
        )

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box (x1, y1, x2, y2) in pixels; zeros for an empty mask."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return (0.0, 0.0, 0.0, 0.0)
        return (
            float(columns[0]),
            float(rows[0]),
            float(columns[-1] + 1),
            float(rows[-1] + 1),
        )

    @cached_property
    def rle(self) -> dict[str, Any]:
        """The mask as COCO's compressed RLE: `size` (height, width) and `counts`, a string."""
        rle = coco_mask.encode(np.asfortranarray(self.mask.astype(np.uint8)))
        return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


class RleSegment(Segment):
    """A segment whose mask is kept as COCO's compressed RLE, and decoded by every use of `mask`.

    Args:
        label: see `Segment`.
        kind: likewise.
        mask: [H, W] bool, which is encoded, or an RLE with `counts` as bytes or text.
        score: likewise.
        parts: likewise.
    """

    def __init__(
        self,
        label: str,
        kind: str,
        mask: NDArray[Any] | Mapping[str, Any],
        score: float,
        parts: Sequence[Segment] = (),
    ) -> None:
        if isinstance(mask, Mapping):
            counts = mask["counts"]
            counts = counts.encode("ascii") if isinstance(counts, str) else counts
            encoded: dict[str, Any] = {"size": list(mask["size"]), "counts": counts}
        else:
            encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        values = {"label": label, "kind": kind, "_rle": encoded, "score": score, "parts": parts}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    @property
    def mask(self) -> NDArray[Any]:
        """[H, W] bool, a new array."""
        rle: dict[str, Any] = vars(self)["_rle"]
        return np.ascontiguousarray(coco_mask.decode(rle).view(bool))

    @cached_property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return int(coco_mask.area(vars(self)["_rle"]))

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box (x1, y1, x2, y2) in pixels; zeros for an empty mask."""
        if not self.area:
            return (0.0, 0.0, 0.0, 0.0)
        x, y, width, height = coco_mask.toBbox(vars(self)["_rle"]).tolist()
        return (x, y, x + width, y + height)

    @cached_property
    def rle(self) -> dict[str, Any]:
        """The mask as COCO's compressed RLE: `size` (height, width) and `counts`, a string."""
        encoded: dict[str, Any] = vars(self)["_rle"]
        return {
            "size": [int(side) for side in encoded["size"]],
            "counts": encoded["counts"].decode(),
        }


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """Similarity of every position of an image with an expression and with images of its group.

    Attributes:
        language: [h, w] float32 in -1..1, with the expression.
        visual: [K, h, w] likewise, with the prototypes of K images, the most reliable first; K may
            be 0.
        sources: index in the group of the image of each prototype; empty where one heatmap is the
            mean of several.
    """

    language: NDArray[Any]
    visual: NDArray[Any]
    sources: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The answer to a question about an image.

    Attributes:
        question: the question.
        text: its answer; of a model with the token [SEG], with it for each segment.
        segments: positions of its segments in the result.
    """

    question: str
    text: str
    segments: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segments of one image.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        segments: N segments; an expression that describes nothing has an empty mask. Kept as a
            tuple.
        class_names: names in the order of the vocabulary; by default the labels in order of
            appearance, those of parts last. Category ids of `to_instances`, `to_panoptic` and
            `to_dict` are positions in it.
        file_name: the image file; "" for an image that comes from no file. Equality ignores it.
        heatmaps: of an image of a group, where they were requested. Equality ignores them.
        answers: to questions about the image. Equality ignores them.
    """

    image: NDArray[Any]
    segments: Sequence[Segment]
    class_names: Sequence[str] = ()
    file_name: str = ""
    heatmaps: Heatmaps | None = None
    answers: Sequence[Answer] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        names = self.class_names or dict.fromkeys(segment.label for segment in self.segments)
        object.__setattr__(self, "class_names", tuple(names))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segmentation):
            return NotImplemented
        return (
            self.class_names == other.class_names
            and np.array_equal(self.image, other.image)
            and self.segments == other.segments
        )

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    @property
    def answer(self) -> str:
        """The texts of the answers, a line each; "" without one."""
        return "\n".join(answer.text for answer in self.answers)

    @cached_property
    def masks(self) -> NDArray[Any]:
        """[N, H, W] bool."""
        if not self.segments:
            return np.zeros((0, *self.image.shape[:2]), bool)
        return np.stack([segment.mask for segment in self.segments])

    @cached_property
    def areas(self) -> NDArray[Any]:
        """[N] int64, pixels of each mask."""
        return np.array([segment.area for segment in self.segments], np.int64)

    @cached_property
    def boxes(self) -> NDArray[Any]:
        """[N, 4] float32 (x1, y1, x2, y2) in pixels."""
        return np.array([segment.box for segment in self.segments], np.float32).reshape(-1, 4)

    @cached_property
    def scores(self) -> NDArray[Any]:
        """[N] float32 in 0..1."""
        return np.array([segment.score for segment in self.segments], np.float32)

    @cached_property
    def labels(self) -> list[str]:
        """N class names or expressions."""
        return [segment.label for segment in self.segments]

    @cached_property
    def parts(self) -> dict[str, list[Segment]]:
        """All parts by the label of their whole; parts of parts by that part's label."""
        by_whole: dict[str, list[Segment]] = {}
        for _, segment in self.walk():
            if segment.parts:
                by_whole.setdefault(segment.label, []).extend(segment.parts)
        return by_whole

    def walk(self) -> Iterator[tuple[int, Segment]]:
        """Iterate over (depth, segment) of the tree of segments and parts, wholes first."""
        yield from _walk(self.segments, 0)

    @property
    def tree(self) -> str:
        """An indented list of the segments and parts, one a line, with scores and areas."""
        return "\n".join(
            f"{'  ' * depth}{segment.label} {segment.score:.2f} ({segment.area} pixels)"
            for depth, segment in self.walk()
        )

    @property
    def consistency(self) -> float:
        """Fraction of the parts' pixels that are inside their whole; 1 without any part."""
        inside = total = 0
        for _, whole in self.walk():
            for part in whole.parts:
                inside += int((part.mask & whole.mask).sum())
                total += part.area
        return inside / total if total else 1.0

    def refine(self, method: str, *, sam: Sam | None = None) -> Segmentation:
        """Refine the masks by the colours of the image or by SAM; labels and scores stay.

        The parts of a whole are refined among themselves, and stay inside their whole.

        Args:
            method: "crf" (dense CRF; needs pydensecrf2), "pamr" or "sam"; see
                `hipie.refinement.refine_masks`.
            sam: the model of "sam", `hipie.modeling.sam.predictor.Sam.from_source(type, weights)`.

        Returns:
            A new result. Empty masks stay empty; one that would become empty is kept, but for parts
            that lie outside their refined whole.

        Raises:
            InputError: for an unknown method, or "sam" without a model.
            MissingPackageError: for "crf" without pydensecrf2.
        """
        from hipie.refinement.masks import require_refinement

        require_refinement(method, sam is not None)
        segments = _refine_segments(self.image, self.segments, method, sam, None)
        return replace(self, segments=segments)

    @cached_property
    def overlay(self) -> Overlay:
        """The image with its masks painted over it, and the rows of the legend."""
        return paint_segments(self.image, self.segments)

    def draw(self, title: str = "", *, min_area: int = MIN_LEGEND_AREA) -> Image.Image:
        """Draw the masks over the image, with a legend beside it.

        Args:
            title: a line above the legend.
            min_area: segments of fewer pixels are painted and have no row in the legend.
        """
        return draw_overlay(self.overlay, title, min_area=min_area)

    def save(
        self,
        path: str | Path,
        title: str = "",
        settings: Mapping[str, Any] | None = None,
        *,
        min_area: int = MIN_LEGEND_AREA,
        overwrite: bool = False,
    ) -> Path:
        """Write `draw(title)` to an image file, or `to_dict(settings)` if the name ends in .json.

        A result of this package with this name is replaced; any other file with `overwrite` only,
        a link as well: what it points to stays. Results are known by the program's name in PNG,
        JPEG and JSON files.

        Args:
            path: the file; its folder is made.
            title: a line above the legend.
            settings: see `to_dict`; the file also has the program's name and version.
            min_area: see `draw`.
            overwrite: replace a file that is not a result of this package.

        Returns:
            The file.

        Raises:
            InputError: if it is the image that was segmented, a file that is not replaced, or a
                format that cannot be written.
        """
        path = Path(path)
        if self.file_name and is_same_file(path, self.file_name):
            raise InputError(f"{path} is the image that was segmented; save under another name")
        if not overwrite:
            require_no_file_of_the_user(path)
        if path.suffix.lower() == ".json":
            program = {"program": "hipie", "version": __version__}
            return write_json(path, self.to_dict(program | dict(settings or {})))
        return write_drawing(path, self.draw(title, min_area=min_area))

    def to_dict(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Convert to a dict that JSON can hold, the content of result files.

        Args:
            settings: what the result was made with, for the file's readers.

        Returns:
            `image` (`file`, or None; `width`, `height`), `settings`, and `segments`, each with `id`
            (from 1, in the order of `walk`), `category` (class name or expression), `category_id`
            (its position in `class_names`, as in `to_instances`), `kind`, `score`, `bbox` (x, y,
            width, height), `area` and `segmentation` (COCO's compressed RLE); and `parts`,
            likewise, where a segment has parts; and, where there are answers, `answers`, each with
            `question`, `answer` and `segments`, the ids of its segments.
        """
        height, width = self.image.shape[:2]
        labels = (segment.label for _, segment in self.walk())
        names = dict.fromkeys((*self.class_names, *labels))
        ids = {name: position for position, name in enumerate(names)}
        numbers = count(1)
        entries = [_to_dict(segment, numbers, ids) for segment in self.segments]
        answers = [
            {
                "question": answer.question,
                "answer": answer.text,
                "segments": [entries[position]["id"] for position in answer.segments],
            }
            for answer in self.answers
        ]
        return {
            "image": {"file": self.file_name or None, "width": width, "height": height},
            "settings": dict(settings or {}),
            "segments": entries,
            **({"answers": answers} if answers else {}),
        }

    def to_coco(
        self, image_id: int | None = None, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Convert to the results format of COCO, one dict a segment.

        Every dict has `label`, `kind`, `score`, `bbox` (x, y, width, height), `area` and
        `segmentation` (compressed RLE). With both arguments the list is a valid results file of
        COCO, as `pycocotools.coco.COCO.loadRes` reads it. Parts are in `parts` of their whole.

        Args:
            image_id: added to every dict.
            category_ids: dataset category ids by label; added as `category_id`. Parts may be
                absent from it.

        Raises:
            ValueError: for a label without a category id.
        """
        return [_to_coco(segment, image_id, category_ids) for segment in self.segments]

    def to_instances(self, category_ids: Mapping[str, int] | None = None) -> Instances:
        """Convert things and expressions to Detectron2's `Instances`, without empty masks.

        Args:
            category_ids: contiguous ids by label; by default positions in `class_names`.

        Returns:
            `pred_masks` [N, H, W] bool, `pred_boxes`, `scores` [N] and `pred_classes` [N] on the
            CPU, as Detectron2's `Visualizer` and `COCOEvaluator` take them.

        Raises:
            ValueError: for a label without a category id.
        """
        segments = [
            segment for segment in self.segments if segment.kind != "stuff" and segment.area
        ]
        instances = Instances(self.image.shape[:2])
        masks = [torch.from_numpy(segment.mask) for segment in segments]
        empty = torch.zeros((0, *self.image.shape[:2]), dtype=torch.bool)
        instances.pred_masks = torch.stack(masks) if masks else empty
        boxes = torch.tensor([segment.box for segment in segments], dtype=torch.float32)
        instances.pred_boxes = Boxes(boxes.reshape(-1, 4))
        instances.scores = torch.tensor(
            [segment.score for segment in segments], dtype=torch.float32
        )
        ids = self._category_ids(category_ids)
        classes = [_category_id(segment.label, ids) for segment in segments]
        instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
        return instances

    def to_panoptic(
        self, category_ids: Mapping[str, int] | None = None
    ) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """Convert to Detectron2's `panoptic_seg`.

        Where segments overlap, the one with the higher score keeps the pixel; a segment without
        any pixel left is dropped.

        Args:
            category_ids: contiguous ids by label; by default positions in `class_names`.

        Returns:
            A map [H, W] int32 of segment ids, 0 for unlabelled pixels, and a dict a segment with
            `id`, `isthing`, `category_id`, `score` and `area`, as Detectron2's `Visualizer` and
            `COCOPanopticEvaluator` take them.

        Raises:
            ValueError: for a label without a category id.
        """
        ids = self._category_ids(category_ids)
        panoptic = np.zeros(self.image.shape[:2], np.int32)
        by_score = np.argsort(self.scores, kind="stable")
        for position in by_score.tolist():
            panoptic[self.segments[position].mask] = position + 1
        areas = np.bincount(panoptic.ravel(), minlength=len(self.segments) + 1)
        infos = [
            {
                "id": number,
                "isthing": segment.kind != "stuff",
                "category_id": _category_id(segment.label, ids),
                "score": float(segment.score),
                "area": int(areas[number]),
            }
            for number, segment in enumerate(self.segments, 1)
            if areas[number]
        ]
        return torch.from_numpy(panoptic), infos

    def _category_ids(self, category_ids: Mapping[str, int] | None) -> Mapping[str, int]:
        if category_ids is not None:
            return category_ids
        return {name: position for position, name in enumerate(self.class_names)}


def group_to_dicts(images: Sequence[str], results: Sequence[Segmentation]) -> list[dict[str, Any]]:
    """Convert the results of a group to dicts with `image`, `shown` and `segments`.

    See `Segmentation.to_dict`; an image without the described object has no segment.
    """
    converted = []
    for name, result in zip(images, results, strict=True):
        shown = any(segment.area for segment in result)
        entry = result.to_dict()
        converted.append(
            {
                "image": entry["image"] | {"file": name},
                "shown": shown,
                "segments": entry["segments"] if shown else [],
            }
        )
    return converted


def _refine_segments(
    image: NDArray[Any],
    segments: Sequence[Segment],
    method: str,
    sam: Sam | None,
    whole: NDArray[Any] | None,
) -> tuple[Segment, ...]:
    """Refine segments together, inside their whole, and then the parts of each."""
    from hipie.refinement.masks import refine_masks

    if not segments:
        return ()
    masks = refine_masks(
        image,
        np.stack([segment.mask for segment in segments]),
        method,
        is_stuff=[segment.kind == "stuff" for segment in segments],
        scores=[segment.score for segment in segments],
        sam=sam,
    )
    if whole is not None:
        masks &= whole
    return tuple(
        Segment(
            segment.label,
            segment.kind,
            mask,
            segment.score,
            _refine_segments(image, segment.parts, method, sam, mask),
        )
        for segment, mask in zip(segments, masks, strict=True)
    )


def _walk(segments: Sequence[Segment], depth: int) -> Iterator[tuple[int, Segment]]:
    for segment in segments:
        yield depth, segment
        yield from _walk(segment.parts, depth + 1)


def _category_id(label: str, category_ids: Mapping[str, int]) -> int:
    if label not in category_ids:
        raise InputError(f'"{label}" has no category id; known are {", ".join(category_ids)}')
    return int(category_ids[label])


def _to_dict(
    segment: Segment, numbers: Iterator[int], category_ids: Mapping[str, int]
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "id": next(numbers),
        "category": segment.label,
        "category_id": category_ids[segment.label],
    }
    converted = _to_coco(replace(segment, parts=()), None, None)
    result |= {name: value for name, value in converted.items() if name != "label"}
    if segment.parts:
        result["parts"] = [_to_dict(part, numbers, category_ids) for part in segment.parts]
    return result


def _to_coco(
    segment: Segment, image_id: int | None, category_ids: Mapping[str, int] | None
) -> dict[str, Any]:
    x1, y1, x2, y2 = segment.box
    result: dict[str, Any] = {}
    if image_id is not None:
        result["image_id"] = image_id
    if category_ids is not None and (segment.kind != "part" or segment.label in category_ids):
        result["category_id"] = _category_id(segment.label, category_ids)
    result |= {
        "label": segment.label,
        "kind": segment.kind,
        "score": round(float(segment.score), 4),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": segment.area,
        "segmentation": segment.rle,
    }
    if segment.parts:
        result["parts"] = [_to_coco(part, image_id, category_ids) for part in segment.parts]
    return result
