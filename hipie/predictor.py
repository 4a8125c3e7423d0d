"""The API for people who only want masks.

from hipie import Segmenter

segmenter = Segmenter.from_config("nano/hipie_nano_picturebook.yaml")
page = segmenter.segment("page.jpg", things=["car", "dog"], stuff=["grass", "sky"])
page.save("masks.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

from hipie import model_zoo
from hipie.checkpoint import Checkpointer
from hipie.checkpoint.report import LoadReport
from hipie.config.loading import check
from hipie.data.dataset_mappers.transforms import plain_resize
from hipie.data.image_io import as_rgb, read_image
from hipie.engine.malloc import keep_freed_memory
from hipie.modeling.meta_arch.base import meta_architecture
from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.postprocessing.mask_labelling import classify_masks, non_overlapping_segments
from hipie.modeling.postprocessing.part_inference import InstancePart, assign_parts
from hipie.segmentation import Segment, Segmentation
from hipie.vocabularies.vocabulary import Parts, Vocabulary, root_wholes

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam, SamImage

# With few names the softmax over classes is sure of any query, and the panoptic map fills with
# noise; the published threshold is meant for COCO's 133 classes.
MIN_SOFTMAX_CLASSES = 133

Name = str | Sequence[str]
Picture = str | Path | Image.Image | np.ndarray


class Segmenter:
    """Segments images by words; images of any size, one at a time.

    Args:
        model: a meta-architecture of this package.
        cfg: the configuration it was built from.
    """

    def __init__(self, model: torch.nn.Module, cfg: CfgNode) -> None:
        self.model = model.eval()
        self.cfg = cfg

    @classmethod
    def from_config(
        cls,
        config_file: str | Path,
        weights: str | Path | None = None,
        device: str | None = None,
        opts: Sequence[Any] = (),
        keep_memory: bool = True,
    ) -> Segmenter:
        """Build a model and load its weights.

        Args:
            config_file: a name of the model zoo, or a file.
            weights: a file or address; by default the configuration's `MODEL.WEIGHTS`, else the
                weights that the package carries for it.
            device: "cpu" or "cuda"; by default CUDA where there is one.
            opts: keys and values that override the configuration, in turn. Unless they
                name it, `MODEL.HIPIE.TEST.MIN_SOFTMAX_CLASSES` is 133, so that with one or two names only
                what the model is sure of gets a segment.
            keep_memory: on the CPU, have the process reuse freed memory instead of returning it to
                the system (`keep_freed_memory`), which is a quarter quicker for large images.

        Raises:
            ValueError: for an unknown configuration, key or value, or if there are no weights for
                the configuration, and its architecture does not bring them, or they are of a model
                of other sizes.
        """
        own = ("MODEL.HIPIE.TEST.MIN_SOFTMAX_CLASSES", MIN_SOFTMAX_CLASSES)
        cfg = model_zoo.get_config(str(config_file), [*own, *opts])
        cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
        check(cfg)
        if keep_memory and cfg.MODEL.DEVICE == "cpu":
            keep_freed_memory()
        found = weights or cfg.MODEL.WEIGHTS or model_zoo.get_weights(str(config_file))
        architecture = meta_architecture(cfg)
        if not found and (architecture is None or architecture.requires_checkpoint()):
            raise ValueError(
                f"{config_file}: there are no weights for this configuration in the package; "
                "pass weights=FILE"
            )
        model = build_model(cfg)
        checkpointer = Checkpointer(model)
        checkpointer.load(str(found or ""))
        _require_fit(checkpointer.report, found)
        return cls(model, cfg)

    def segment(
        self,
        image: Picture,
        things: Sequence[Name] = (),
        stuff: Sequence[Name] = (),
        parts: Parts | None = None,
        *,
        consistent: bool = True,
        sam: Sam | None = None,
    ) -> Segmentation:
        """Every thing and stretch of stuff that is named, and the parts of the things.

        Args:
            image: a path, a PIL image or an RGB array [H, W, 3].
            things: class names; a tuple is a name and its synonyms.
            stuff: likewise, for what has no instances.
            parts: part names by the name of their whole, which joins the things; parts of parts
                as `Vocabulary.from_names` takes them.
            consistent: parts end where their whole ends; see `assign_parts`.
            sam: makes masks finer: of things by their boxes, of parts inside their wholes.
        """
        self._require("universal", "segment")
        pixels = self._read(image)
        named = {_first(thing) for thing in things}
        wholes = [whole for whole in root_wholes(parts or {}) if whole not in named]
        vocabulary = Vocabulary.from_names(things=[*things, *wholes], stuff=stuff)
        result = self._run(pixels, {"vocabulary": vocabulary, "results": ("panoptic_seg",)})
        panoptic, infos = result["panoptic_seg"]
        panoptic = panoptic.cpu().numpy()
        segments = []
        for info in infos:
            entry = vocabulary.classes[info["category_id"]]
            mask = panoptic == info["id"]
            segments.append(Segment(entry.name, entry.kind, mask, float(info["score"])))
        seen = sam.encode(pixels) if sam is not None else None
        if seen is not None:
            _refine_things(seen, segments)
        if parts:
            self._find_parts(pixels, segments, vocabulary, parts, consistent)
        if seen is not None:
            _refine_parts(seen, segments, consistent)
        return Segmentation(pixels, [one for one in segments if one.mask.any()])

    def label(
        self,
        image: Picture,
        masks: np.ndarray | torch.Tensor,
        things: Sequence[Name] = (),
        stuff: Sequence[Name] = (),
    ) -> Segmentation:
        """Names for masks that came from elsewhere; small masks lie over large ones.

        A mask is of the class whose semantic score, summed over its pixels, is largest. Masks of
        one stuff class become one segment.

        Args:
            image, things, stuff: as for `segment`.
            masks: [N, H, W] bool.

        Raises:
            ValueError: if there is no mask, one is empty, or they are of another size.
        """
        self._require("universal", "label")
        pixels = self._read(image)
        masks = torch.as_tensor(masks).bool()
        _require_masks(masks, pixels.shape[:2])
        vocabulary = Vocabulary.from_names(things=things, stuff=stuff)
        asked = {"vocabulary": vocabulary, "results": ("sem_seg",)}
        scores = self._run(pixels, asked)["sem_seg"].cpu()
        classes, shares = classify_masks(masks, scores)
        segments = []
        for place, score, mask in non_overlapping_segments(
            masks, classes, shares, vocabulary.is_thing
        ):
            one = vocabulary.classes[place]
            segments.append(Segment(one.name, one.kind, mask.numpy(), score))
        return Segmentation(pixels, segments)

    def segment_everything(
        self,
        image: Picture,
        sam: Sam,
        things: Sequence[Name] = (),
        stuff: Sequence[Name] = (),
        **options: float,
    ) -> Segmentation:
        """SAM's automatic masks with names; empty where SAM finds nothing it is sure of.

        Args:
            image, things, stuff: as for `segment`.
            sam: finds the masks.
            options: see `hipie.modeling.sam.automatic_masks.automatic_masks`.
        """
        from hipie.modeling.sam.automatic_masks import automatic_masks

        pixels = self._read(image)
        masks, _ = automatic_masks(sam, pixels, **options)
        return self.label(pixels, masks, things, stuff) if len(masks) else Segmentation(pixels, [])

    def refer(self, image: Picture, expressions: str | Sequence[str]) -> Segmentation:
        """The one thing that each expression describes, in the order of the expressions."""
        self._require("referring", "refer")
        pixels = self._read(image)
        expressions = [expressions] if isinstance(expressions, str) else list(expressions)
        if not expressions:
            raise ValueError("refer needs at least one sentence")
        found = self._run(pixels, {"expressions": expressions})["referring"]
        empty = np.zeros(pixels.shape[:2], bool)
        segments = []
        for expression, best in zip(expressions, found, strict=True):
            mask = best.pred_masks[0].cpu().numpy().astype(bool) if len(best) else empty
            score = float(best.scores[0]) if len(best) else 0.0
            segments.append(Segment(expression, "expression", mask, score))
        return Segmentation(pixels, segments)

    def refer_group(self, images: Sequence[Picture], expression: str) -> list[Segmentation]:
        """The thing that an expression describes in each of several images.

        A model with the task `group` looks at all images together and gives those that do not
        show it an empty mask; any other model answers image by image.

        Raises:
            ValueError: if there is no image, or one that cannot be read.
        """
        if isinstance(images, str | Path) or not len(images):
            raise ValueError("refer_group needs a list of images, with at least one in it")
        if "group" in self.model.tasks:
            return self._run_group([self._read(image) for image in images], expression)
        return [self.refer(image, expression) for image in images]

    def prompt(self, image: Picture, prompts: Sequence[Any]) -> Segmentation:
        """The object that clicks, boxes, scribbles or a polygon point at, a segment a prompt.

        Args:
            image: as for `segment`.
            prompts: each a dict with some of `inside`, `outside` (points), `box`, `scribbles`,
                `polygon` and `label`, in pixels; see `hipie_interactive.Prompt`.
        """
        self._require("interactive", "prompt")
        return self.model.segment_prompts(image, prompts)

    def like(self, image: Picture, examples: Sequence[Any]) -> Segmentation:
        """What examples show, found again: a segment for each of their labels.

        Args:
            image: as for `segment`.
            examples: each a (image, mask) or (image, mask, label), as files, PIL images or
                arrays; see `hipie_fewshot.Example`.
        """
        self._require("few_shot", "like")
        return self.model.segment_like(image, examples)

    def _find_parts(
        self,
        pixels: np.ndarray,
        segments: list[Segment],
        vocabulary: Vocabulary,
        parts: Parts,
        consistent: bool,
    ) -> None:
        """A second look at the image with the parts' names, shared out among the things."""
        roots = root_wholes(parts)
        others = [c for c in vocabulary.classes if c.name not in roots]
        named = Vocabulary.from_names(
            things=[c.name for c in others if c.kind == "thing"],
            stuff=[c.name for c in others if c.kind == "stuff"],
            parts=parts,
        )
        scores = self._run(pixels, {"vocabulary": named, "results": ("sem_seg",)})["sem_seg"]
        wholes = [s for s in segments if s.kind == "thing" and s.label in roots]
        masks = torch.from_numpy(np.stack([s.mask for s in wholes])) if wholes else None
        if masks is None:
            return
        for found in assign_parts(
            scores.cpu(),
            masks,
            [s.label for s in wholes],
            [c.whole for c in named.classes],
            names=named.names,
            consistent=consistent,
        ):
            wholes[found.instance].parts.append(_part_segment(found, named))

    def _read(self, image: Picture) -> np.ndarray:
        return read_image(image) if isinstance(image, str | Path) else as_rgb(image)

    def _run(self, pixels: np.ndarray, asked: dict[str, Any]) -> dict[str, Any]:
        return self.model([self._item(pixels) | asked])[0]

    def _run_group(self, pictures: list[np.ndarray], expression: str) -> list[Segmentation]:
        items = [self._item(pixels) for pixels in pictures]
        group = {**items[0], "images": items, "expression": expression}
        answers = self.model([group])[0]
        return [
            Segmentation(
                pixels,
                [
                    Segment(
                        expression,
                        "expression",
                        (answer["sem_seg"][0] >= 0.5).cpu().numpy(),
                        float(answer["score"]),
                    )
                ],
            )
            for pixels, answer in zip(pictures, answers, strict=True)
        ]

    def _item(self, pixels: np.ndarray) -> dict[str, Any]:
        """One image as Detectron2's dict, resized the way the model is tested."""
        shortest, longest = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        square = self.cfg.INPUT.SQUARE_SIZE
        resized = plain_resize(*pixels.shape[:2], shortest, longest, square).apply_image(pixels)
        if self.cfg.INPUT.FORMAT == "BGR":
            resized = resized[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": tensor, "height": pixels.shape[0], "width": pixels.shape[1]}

    def _require(self, task: str, call: str) -> None:
        if task in self.model.tasks:
            return
        able = ", ".join(model_zoo.configs_for_task(task)) or "none that is installed"
        raise ValueError(
            f"{type(self.model).__name__} cannot {call}(): "
            f"configurations whose model can are {able}"
        )


def _require_fit(report: LoadReport | None, weights: str | Path | None) -> None:
    """Refuse weights of which some tensors had no place for their shape."""
    if report is not None and report.mismatched:
        raise ValueError(
            f'{weights}: "{report.mismatched[0]}" has another shape than in this configuration, '
            "whose sizes must be those that the weights were made with"
        )


def _part_segment(found: InstancePart, named: Vocabulary) -> Segment:
    inside = [_part_segment(one, named) for one in found.parts]
    label, mask = named.classes[found.part].name, found.mask.numpy().astype(bool)
    return Segment(label, "part", mask, float(found.score), inside)


def _refine_things(seen: SamImage, segments: list[Segment]) -> None:
    """SAM's masks of the things; where two meet the surer one wins, and stuff gives way."""
    from hipie.modeling.sam.refinement import refine_things, without_overlap

    things = [one for one in segments if one.kind == "thing"]
    if not things:
        return
    masks = refine_things(seen, torch.from_numpy(np.stack([one.mask for one in things])))
    masks = without_overlap(masks, torch.tensor([one.score for one in things])).cpu().numpy()
    covered = masks.any(0)
    for one in segments:
        one.mask = one.mask & ~covered
    for one, mask in zip(things, masks, strict=True):
        one.mask = mask


def _refine_parts(seen: SamImage, wholes: list[Segment], consistent: bool) -> None:
    """SAM's masks of the parts in their wholes, then of their own parts in them."""
    from hipie.modeling.sam.refinement import refine_parts

    pairs = [(whole, part) for whole in wholes for part in whole.parts]
    if not pairs:
        return
    inside = torch.from_numpy(np.stack([whole.mask for whole, _ in pairs]))
    masks = torch.from_numpy(np.stack([part.mask for _, part in pairs]))
    masks = refine_parts(seen, masks, inside, consistent).cpu().numpy()
    for (whole, part), mask in zip(pairs, masks, strict=True):
        part.mask = mask & whole.mask if consistent else mask
    for whole in wholes:
        whole.parts = [part for part in whole.parts if part.mask.any()]
    _refine_parts(seen, [part for whole in wholes for part in whole.parts], consistent)


def _require_masks(masks: torch.Tensor, size: tuple[int, int]) -> None:
    if masks.ndim != 3 or tuple(masks.shape[1:]) != tuple(size):
        raise OpenVocabularyError(
            f"the masks are {list(masks.shape)}, and the image needs [N, {size[0]}, {size[1]}]"
        )
    if not len(masks):
        raise OpenVocabularyError("there is no mask that could be given a name")
    empty = (~masks.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise OpenVocabularyError(f"mask {empty[0]} is empty, so it cannot be given a name")


def _first(name: Name) -> str:
    return name if isinstance(name, str) else name[0]
