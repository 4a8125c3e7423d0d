"""COCO's AP where Detectron2's evaluator stops: people's own files, things in any order."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator, coco_evaluation

from hipie.data.dataset_mappers.annotations import decode_mask


def faster_counting() -> type:
    """The class of the package faster-coco-eval that counts AP.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from faster_coco_eval import COCOeval_faster
    except ModuleNotFoundError as error:
        raise ValueError(
            "TEST.FASTER_COCO_EVAL needs the package faster-coco-eval: "
            'pip install faster-coco-eval (or "hipie[fast_evaluation]")'
        ) from error
    return COCOeval_faster


class CountingEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator` of boxes and masks, counted by one of two packages.

    Args:
        dataset_name: a registered data set with a `json_file`.
        output_folder: where predictions are written; None = nowhere.
        faster: count with faster-coco-eval instead of pycocotools.
    """

    def __init__(
        self, dataset_name: str, output_folder: str | None = None, *, faster: bool = False
    ) -> None:
        self._faster = faster_counting() if faster else None
        super().__init__(
            dataset_name, tasks=("bbox", "segm"), output_dir=output_folder, use_fast_impl=False
        )

    def evaluate(self, img_ids: list[Any] | None = None) -> dict[str, Any]:
        """The scores in percent; empty on all but the first process."""
        if self._faster is None:
            return super().evaluate(img_ids)
        usual = coco_evaluation.COCOeval_opt
        # Where Detectron2 looks for a fast implementation.
        coco_evaluation.COCOeval_opt, self._use_fast_impl = self._faster, True
        try:
            return super().evaluate(img_ids)
        finally:
            coco_evaluation.COCOeval_opt, self._use_fast_impl = usual, False


class CheckedCOCOEvaluator(CountingEvaluator):
    """Detectron2's `COCOEvaluator` over exactly the objects that the data set's reader kept.

    pycocotools fails on annotations without corners and on those without an `area`, and never
    matches the one whose id is 0; here the first are left out, as in training, the second get
    theirs counted, and all are numbered from 1. A file may have fewer categories than there are
    classes in the vocabulary, as those of ODinW have.

    Args:
        dataset_name: a registered data set with a `json_file`, whose records have `annotations`
            with `id`.
        output_folder, faster: see `CountingEvaluator`.
    """

    def __init__(
        self, dataset_name: str, output_folder: str | None = None, *, faster: bool = False
    ) -> None:
        records = DatasetCatalog.get(dataset_name)
        super().__init__(dataset_name, output_folder, faster=faster)
        kept = {one["id"]: (one, record) for record in records for one in record["annotations"]}
        content = self._coco_api.dataset
        mended = [
            _mended(annotation, *kept[annotation["id"]])
            for annotation in content["annotations"]
            if annotation["id"] in kept
        ]
        content["annotations"] = [{**one, "id": i} for i, one in enumerate(mended, 1)]
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()
        self._metadata = self._of_the_file()
        masks = all("segmentation" in one for one, _ in kept.values())
        self._tasks = ("bbox", "segm") if masks else ("bbox",)

    def _of_the_file(self) -> Metadata:
        """The metadata with names for the file's categories only, whose APs are reported."""
        contiguous = self._metadata.thing_dataset_id_to_contiguous_id
        names = self._metadata.thing_classes
        return Metadata().set(
            thing_dataset_id_to_contiguous_id=contiguous,
            thing_classes=[
                names[contiguous[number]] if number in contiguous else str(number)
                for number in sorted(self._coco_api.getCatIds())
            ],
        )


class PanopticInstancesEvaluator(CountingEvaluator):
    """Detectron2's `COCOEvaluator` on a panoptic data set whose things stand among its stuff.

    Detectron2's wants the things' classes to be the first of all; those of ADE20K are not.

    Args:
        dataset_name: a registered data set with a `json_file` and
            `thing_dataset_id_to_contiguous_id`, which may skip numbers.
        output_folder, faster: see `CountingEvaluator`.
    """

    def __init__(
        self, dataset_name: str, output_folder: str | None = None, *, faster: bool = False
    ) -> None:
        super().__init__(dataset_name, output_folder, faster=faster)
        contiguous = self._metadata.thing_dataset_id_to_contiguous_id
        self._category = {place: number for number, place in contiguous.items()}
        self._metadata = Metadata().set(thing_classes=self._metadata.thing_classes)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the things of a batch, under the ids of the annotation file."""
        start = len(self._predictions)
        super().process(inputs, outputs)
        for prediction in self._predictions[start:]:
            kept = [one for one in prediction["instances"] if one["category_id"] in self._category]
            for one in kept:
                one["category_id"] = self._category[one["category_id"]]
            prediction["instances"] = kept


def _mended(
    annotation: dict[str, Any], kept: dict[str, Any], record: dict[str, Any]
) -> dict[str, Any]:
    mended = {**annotation, "bbox": kept["bbox"], "iscrowd": kept["iscrowd"]}
    if "segmentation" in kept:
        mended["segmentation"] = kept["segmentation"]
    if "area" not in mended:
        mended["area"] = _area(kept, record)
    return mended


def _area(kept: dict[str, Any], record: dict[str, Any]) -> float:
    if "segmentation" not in kept:
        return kept["bbox"][2] * kept["bbox"][3]
    mask = decode_mask(kept["segmentation"], record["height"], record["width"])
    return float(mask.sum())
