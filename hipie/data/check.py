"""Check of a data set by the rules of training: what is used, what is left out, what is invalid.

Objects are read by the dataset mapper of training. The command is `hipie data check`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.data.catalog import Metadata
from detectron2.data.transforms import NoOpTransform
from numpy.typing import NDArray

from hipie.data.annotation_maps import (
    read_class_map,
    read_panoptic_map,
    require_class_values,
    require_segments,
)
from hipie.data.annotation_view import background_of, dataset_vocabulary, read_annotation
from hipie.data.broken_images import READING_RULES
from hipie.data.dataset_mappers import UniversalDatasetMapper
from hipie.data.dataset_mappers.annotations import decode_mask
from hipie.data.expressions import has_word
from hipie.data.image_io import distinct_values, read_image, require_map_size, require_size
from hipie.data.io.reading_rules import read_by
from hipie.data.label_values import ignore_label
from hipie.errors import MAX_MESSAGE, InputError, printable
from hipie.vocabularies.vocabulary import Vocabulary

MAX_LISTED = 10
MAX_BAR_LENGTH = 40
MIN_PART_AREA = 100
# Reasons in `DatasetReport.left_out`.
NO_PIXEL = "object without a pixel"
NO_OBJECT = "image without an object"
NO_EXPRESSION = "image without an expression"
NO_WORD = "expression without a word"
NOT_ONE_TARGET = "expression without a target or with several"
UNREADABLE = "image that cannot be used"
UNKNOWN_CLASS = "objects"
EVALUATION_ONLY = "panoptic part maps (pan_part_file_name) are read by evaluation only"


@dataclass
class DatasetReport:
    """Counts and faults of a data set.

    Attributes:
        images: number of images.
        objects: number of objects that training uses by class name, with an entry for every class
            of the data set; of referring data sets, those that an expression of training describes.
        crowd: number of crowd annotations, which training ignores.
        left_out: number of objects, expressions and images that training does not use, by reason.
        expressions: number of referring expressions.
        without_target: number of expressions without a target.
        images_without_objects: paths of the images without any object.
        empty: messages about objects without a pixel and expressions without a word.
        invalid: messages about entries that cannot be read or contradict each other.
        warnings: sentences about what is probably not intended.
        training_faults: why training would end, besides `invalid`.
        evaluation_faults: why evaluation would end, besides `invalid`.
        skip_broken: whether images that cannot be used are left out.
    """

    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    expressions: int = 0
    without_target: int = 0
    images_without_objects: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    training_faults: list[str] = field(default_factory=list)
    evaluation_faults: list[str] = field(default_factory=list)
    skip_broken: bool = False

    @property
    def trainable(self) -> bool:
        """Whether a training on this data set starts and does not end by it."""
        usable = self.skip_broken or not self.invalid
        return usable and not self.training_faults and self.objects.total() > 0

    @property
    def evaluable(self) -> bool:
        """Whether a model can be evaluated on this data set."""
        usable = self.skip_broken or not self.invalid
        has_truth = self.objects.total() > 0 or self.expressions > 0
        return usable and not self.evaluation_faults and has_truth

    def as_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON has."""
        return {
            "images": self.images,
            "objects": self.objects.total(),
            "crowd": self.crowd,
            "left_out": dict(self.left_out),
            "trainable": self.trainable,
            "evaluable": self.evaluable,
            "expressions": self.expressions,
            "without_target": self.without_target,
            "objects_by_class": dict(self.objects),
            "warnings": self.warnings,
            "errors": list(
                dict.fromkeys([*self.invalid, *self.training_faults, *self.evaluation_faults])
            ),
        }


def check_records(
    records: Iterable[dict[str, Any]],
    metadata: Metadata,
    *,
    min_part_area: int = MIN_PART_AREA,
    generalized: bool = False,
    skip_broken: bool = False,
) -> DatasetReport:
    """Read every image with its annotation.

    Args:
        records: records of the data set; their `left_out`, a dict of numbers by reason, counts
            what the reader dropped.
        metadata: metadata of the data set, with its reading rules if they are not the default.
        min_part_area: INPUT.MIN_PART_AREA.
        generalized: INPUT.GENERALIZED_EXPRESSIONS.
        skip_broken: DATALOADER.SKIP_BROKEN.

    Returns:
        The report, without faults of evaluators.
    """
    report = DatasetReport(skip_broken=skip_broken)
    vocabulary = dataset_vocabulary(metadata)
    names = vocabulary.names if vocabulary else ()
    background = metadata.get("background_class")
    report.objects.update({name: 0 for name in names if name != background})
    checker = _Checker(report, vocabulary, metadata, min_part_area, generalized)
    with read_by(metadata.get(READING_RULES)):
        for record in records:
            report.images += 1
            report.left_out.update(record.get("left_out", {}))
            try:
                checker.check(record)
            except (ValueError, OSError) as error:
                report.invalid.append(str(error))
                report.left_out[UNREADABLE] += 1
    checker.finish()
    return report


class _Checker:
    """Check of the records of one data set, which fills a report."""

    def __init__(
        self,
        report: DatasetReport,
        vocabulary: Vocabulary | None,
        metadata: Metadata,
        min_part_area: int,
        generalized: bool,
    ) -> None:
        self._report = report
        self._vocabulary = vocabulary
        self._metadata = metadata
        self._generalized = generalized
        self._ignore_label = ignore_label(metadata)
        self._name = metadata.get("name", "")
        self._mapper: UniversalDatasetMapper | None = None
        if vocabulary is not None:
            self._mapper = UniversalDatasetMapper(
                vocabulary,
                training=True,
                min_sizes=(1,),
                max_size=1,
                min_part_area=min_part_area,
                ignore_label=self._ignore_label,
                background=background_of(metadata),
                part_ignore_label=metadata.get("part_ignore_label"),
            )
        # Panoptic maps, and those whose segments have an area that was compared with their pixels.
        self._maps = self._measured_maps = 0
        # Values of all class maps, and the first of them.
        self._values: set[int] = set()
        self._first_map = ""

    def check(self, record: dict[str, Any]) -> None:
        """Check a record, and count what training uses of it.

        Raises:
            ValueError, OSError: naming the file that cannot be used.
        """
        if "file_name" not in record:
            raise InputError("records of groups of images are not supported")
        path = record["file_name"]
        image = read_image(path)
        size = (image.shape[0], image.shape[1])
        require_size(path, size, (record.get("height", size[0]), record.get("width", size[1])))
        record = {**record, "height": size[0], "width": size[1]}
        entries = record.get("annotations", record.get("segments_info", ()))
        self._report.crowd += sum(bool(entry.get("iscrowd", 0)) for entry in entries)
        if "expressions" in record:
            self._check_expressions(record)
        elif self._mapper is None:
            raise InputError(f"{path}: the data set has no class names")
        elif "pan_part_file_name" in record and "part_seg_file_name" not in record:
            self._count_parts(record)
        else:
            self._check_map(record)
            masks, classes = self._mapper.read_objects(record, NoOpTransform())
            named = classes != self._mapper.background
            self._count_objects(path, masks[named], classes[named])

    def finish(self) -> None:
        """Add the sentences about the whole data set."""
        report = self._report
        name = f"the data set {self._name}" if self._name else "the data set"
        if self._vocabulary is not None:
            try:
                require_class_values(
                    self._first_map, self._values, len(self._vocabulary), self._ignore_label
                )
            except InputError as error:
                report.training_faults.append(str(error))
                report.evaluation_faults.append(str(error))
        if 0 < self._measured_maps < self._maps:
            report.warnings.append(
                f'the "area" of segments was compared with {self._measured_maps} of {self._maps} '
                "panoptic maps; training and evaluation do not read it, and count pixels"
            )
        if not report.images:
            report.training_faults.append(f"{name} has no image")
            report.evaluation_faults.append(f"{name} has no image")
        elif not report.objects.total() and not report.invalid:
            crowds = f"; all of its {report.crowd} annotations are crowds" if report.crowd else ""
            report.training_faults.append(f"{name} has no object to learn from{crowds}")

    def _check_map(self, record: dict[str, Any]) -> None:
        """Check the values of a map where the mapper does not."""
        size = (record["height"], record["width"])
        if "part_seg_file_name" in record:
            return
        if "pan_seg_file_name" in record:
            path = record["pan_seg_file_name"]
            colours = read_panoptic_map(path)
            require_map_size(path, colours.shape[:2], size)
            require_segments(path, colours, record["segments_info"])
            self._maps += 1
            self._measured_maps += all("area" in entry for entry in record["segments_info"])
        elif "annotations" not in record and "sem_seg_file_name" in record:
            path = record["sem_seg_file_name"]
            self._values.update(distinct_values(read_class_map(path)))
            self._first_map = self._first_map or path

    def _count_objects(self, path: str, masks: NDArray[Any], classes: NDArray[Any]) -> None:
        assert self._vocabulary is not None
        report = self._report
        if not len(masks):
            report.images_without_objects.append(path)
            report.left_out[NO_OBJECT] += 1
        for number, (mask, index) in enumerate(zip(masks, classes, strict=True), 1):
            name = self._vocabulary.classes[index].name
            if mask.any():
                report.objects[name] += 1
            else:
                report.left_out[NO_PIXEL] += 1
                report.empty.append(f"{path}: object {number} ({name}) has no pixel")

    def _count_parts(self, record: dict[str, Any]) -> None:
        """Count the objects and parts of a panoptic parts map, which only evaluation reads."""
        labels = [segment.label for segment in read_annotation(record, self._metadata).segments]
        self._report.objects.update(labels)
        if EVALUATION_ONLY not in self._report.training_faults:
            self._report.training_faults.append(EVALUATION_ONLY)

    def _check_expressions(self, record: dict[str, Any]) -> None:
        report, path = self._report, record["file_name"]
        annotations, described = record["annotations"], set()
        if not record["expressions"]:
            report.left_out[NO_EXPRESSION] += 1
            report.images_without_objects.append(path)
            return
        for entry in record["expressions"]:
            text, targets = entry["expression"], entry["targets"]
            report.expressions += 1
            report.without_target += not targets
            if any(not 0 <= target < len(annotations) for target in targets):
                report.invalid.append(
                    f'{path}: the expression "{text}" has a target that does not exist'
                )
            elif not has_word(text):
                ref = f" of ref {entry['ref_id']}" if "ref_id" in entry else ""
                message = f'{path}: the expression "{text}"{ref} has no word'
                report.left_out[NO_WORD] += 1
                report.empty.append(message)
                if not report.skip_broken:
                    report.invalid.append(message)
            elif self._generalized or len(targets) == 1:
                described.update(targets)
            else:
                report.left_out[NOT_ONE_TARGET] += 1
        if not described:
            report.images_without_objects.append(path)
        size = (record["height"], record["width"])
        for target in sorted(described):
            if decode_mask(annotations[target]["segmentation"], *size).any():
                report.objects[UNKNOWN_CLASS] += 1
            else:
                report.left_out[NO_PIXEL] += 1
                report.empty.append(f"{path}: object {target + 1} has no pixel")


def format_report(report: DatasetReport) -> str:
    """Format a report as text: counts, histogram of the classes, lists of at most ten entries."""
    absent = [name for name, count in report.objects.items() if count == 0]
    lines = [f"{report.images} images, {report.objects.total()} objects"]
    if report.expressions:
        lines.append(f"{report.expressions} expressions, {report.without_target} without a target")
    if report.crowd:
        lines.append(f"{report.crowd} crowds, which training ignores")
    largest = max(report.objects.values(), default=0)
    width = max((len(printable(name)) for name in report.objects), default=0)
    for name, count in report.objects.most_common():
        if count:
            bar = "#" * max(1, round(MAX_BAR_LENGTH * count / largest))
            lines.append(f"  {printable(name):{width}} {count:8,} {bar}")
    reasons = [f"{reason}: {count}" for reason, count in report.left_out.most_common()]
    lines += [f"left out: {report.left_out.total()}", *[f"  {reason}" for reason in reasons]]
    lines += _format_list("classes without an object", absent)
    lines += _format_list("images without an object", report.images_without_objects)
    lines += _format_list("empty", report.empty)
    lines += _format_list("warnings", report.warnings)
    lines += _format_list("invalid", report.invalid)
    lines += _verdict("training", report.trainable, report.training_faults)
    lines += _verdict("evaluation", report.evaluable, report.evaluation_faults)
    return "\n".join(printable(line, MAX_MESSAGE) for line in lines)


def _verdict(what: str, possible: bool, faults: Sequence[str]) -> list[str]:
    return [f"{what}: {'possible' if possible else 'not possible'}", *[f"  {x}" for x in faults]]


def _format_list(title: str, entries: Sequence[str]) -> list[str]:
    more = len(entries) - MAX_LISTED
    listed = [f"  {entry}" for entry in entries[:MAX_LISTED]]
    return [f"{title}: {len(entries)}", *listed, *([f"  and {more} more"] if more > 0 else [])]
