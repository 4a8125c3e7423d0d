"""Dataset mapper of reasoning segmentation: images with questions, answers and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import TransformList
from torch import Tensor

from hipie.data.build import (
    DATASET_MAPPER_REGISTRY,
    MappedDataset,
    expression_flip_prob,
    image_options,
)
from hipie.data.dataset_mappers.text_image import TextImageMapper, augmented_text
from hipie.data.label_values import ignore_label
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_reasoning.data.object_masks import ObjectMaskReader
from hipie_reasoning.question_templates import (
    DatasetQuestion,
    QueriedObject,
    inference_question,
    join_questions,
    sample_dialogue,
)


class ReasoningDatasetMapper(TextImageMapper):
    """Map a record with questions, expressions or classes to the input dict of `ReasoningSeg`.

    Expressions and names of classes are put into the sentences of `question_templates`. At test
    `expressions` stay as they are, for the evaluators of referring segmentation.

    Args:
        questions_per_image: largest number of questions of a training item.
        objects_per_question: largest number of names or expressions that a question joins.
        explanation_prob: see `sample_dialogue`.
        absent: also train with what the image does not show, answered by [REJ].
        class_names: names of the classes of records that have classes only.
        ignore_label: value of semantic maps without a class.
        flip_prob, options: of `TextImageMapper`.
    """

    def __init__(
        self,
        *,
        questions_per_image: int = 3,
        objects_per_question: int = 1,
        explanation_prob: float = 0.0,
        absent: bool = False,
        class_names: Sequence[str] = (),
        ignore_label: int = 255,
        flip_prob: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(flip_prob=flip_prob, **options)
        self.questions_per_image = questions_per_image
        self.objects_per_question = objects_per_question
        self.explanation_prob = explanation_prob
        self.absent = absent
        self.class_names = tuple(class_names)
        self.ignore_label = ignore_label

    def __call__(self, record: dict[str, Any], seed: Sequence[int] = (0,)) -> dict[str, Any]:
        """Read and map one image.

        Args:
            record: an entry of the data set; it is not changed.
            seed: determines all random numbers.

        Returns:
            `file_name`, `height`, `width`, `image_id`, `image` (uint8 [3, h, w]) and `questions`
            or `expressions` (lists of str); in training also `answers` (list of str) and `targets`
            (for each question bool [n, h, w], a mask for each [SEG]).

        Raises:
            ValueError: naming the file, if the image cannot be read, or (in training) nothing can
                be asked about it.
        """
        image, item = self.read(record)
        if not self.training:
            item["image"] = self.resized(image)
            if "questions" in record:
                item["questions"] = [inference_question(each) for each in record["questions"]]
            else:
                item["expressions"] = [e["expression"] for e in record.get("expressions", ())]
            return item
        rng = np.random.default_rng(list(seed))
        reader = ObjectMaskReader(record)
        questions = self._sample_questions(rng, record)
        item["image"], augmentation = self.augmented(rng, image)
        dialogues = [sample_dialogue(each, rng, self.explanation_prob) for each in questions]
        item["questions"], item["answers"] = (
            [augmented_text(text, augmentation) for text in texts]
            for texts in zip(*dialogues, strict=True)
        )
        item["targets"] = [
            _target_masks(reader, each, augmentation.transform) for each in questions
        ]
        return item

    def _sample_questions(
        self, rng: np.random.Generator, record: dict[str, Any]
    ) -> list[DatasetQuestion]:
        usable = [
            each
            for each in self._questions(rng, record)
            if self.absent or all(queried.targets for queried in each.objects)
        ]
        if not usable:
            raise InputError(f"{record['file_name']}: there is nothing to ask about it")
        count = self.questions_per_image * self.objects_per_question
        chosen = [usable[index] for index in rng.permutation(len(usable))[:count]]
        if self.objects_per_question == 1:
            return chosen
        whole = [each for each in chosen if each.is_question]
        named = [each for each in chosen if not each.is_question]
        step = self.objects_per_question
        joined = [
            join_questions(named[start : start + step]) for start in range(0, len(named), step)
        ]
        return (whole + joined)[: self.questions_per_image]

    def _questions(self, rng: np.random.Generator, record: dict[str, Any]) -> list[DatasetQuestion]:
        if "questions" in record:
            return list(record["questions"])
        if "expressions" in record:
            return [
                _named_question(entry["expression"], entry["targets"])
                for entry in record["expressions"]
            ]
        present = self._targets_by_class(record)
        questions = [
            _named_question(self.class_names[index], targets) for index, targets in present.items()
        ]
        others = [index for index in range(len(self.class_names)) if index not in present]
        count = len(present) if self.absent else 0
        absent = rng.permutation(np.array(others, np.int64))[:count].tolist()
        return questions + [_named_question(self.class_names[index], ()) for index in absent]

    def _targets_by_class(self, record: dict[str, Any]) -> dict[int, list[int]]:
        targets: dict[int, list[int]] = {}
        if "pan_seg_file_name" in record:
            pairs = [(each["category_id"], each["id"]) for each in record["segments_info"]]
        elif "annotations" in record:
            pairs = [
                (each["category_id"], position)
                for position, each in enumerate(record["annotations"])
                if not each.get("iscrowd", 0)
            ]
        else:
            reader = ObjectMaskReader(record)
            pairs = [
                (index, index)
                for index in reader.values()
                if index != self.ignore_label and index < len(self.class_names)
            ]
        for index, target in pairs:
            targets.setdefault(int(index), []).append(int(target))
        return targets


def _named_question(name: str, targets: Sequence[int]) -> DatasetQuestion:
    return DatasetQuestion(name, False, (QueriedObject(name, tuple(targets)),))


def _target_masks(
    reader: ObjectMaskReader, question: DatasetQuestion, transform: TransformList
) -> Tensor:
    """Masks [n, h, w] bool, one for each object that the image shows."""
    masks = [
        transform.apply_segmentation(reader.union(each.targets).astype(np.uint8)).astype(bool)
        for each in question.objects
        if each.targets
    ]
    if masks:
        return torch.from_numpy(np.ascontiguousarray(np.stack(masks)))
    shape = transform.apply_segmentation(reader.union(()).astype(np.uint8)).shape
    return torch.zeros(0, *shape, dtype=torch.bool)


@DATASET_MAPPER_REGISTRY.register()
def reasoning(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build the mapper to questions for a data set with questions, expressions or classes.

    Args:
        cfg: reads INPUT.* and MODEL.REASONING.DATA.
        dataset_name: a registered data set.
        training: whether answers and masks are needed.

    Raises:
        InputError: at test for a data set without questions and expressions.
    """
    records = read_records(dataset_name)
    first = records[0] if len(records) else {}
    has_texts = "questions" in first or "expressions" in first
    if not training and not has_texts:
        raise InputError(
            f"the data set {dataset_name} has neither questions nor expressions, which "
            "ReasoningSeg is evaluated on"
        )
    metadata = MetadataCatalog.get(dataset_name)
    names: Sequence[str] = ()
    if not has_texts:
        names = (metadata.get("vocabulary") or Vocabulary.from_metadata(metadata)).names
    data = cfg.MODEL.REASONING.DATA
    mapper = ReasoningDatasetMapper(
        **image_options(cfg, training),
        square_size=cfg.INPUT.SQUARE_SIZE,
        flip_prob=expression_flip_prob(cfg),
        questions_per_image=data.QUESTIONS_PER_IMAGE,
        objects_per_question=data.OBJECTS_PER_QUESTION,
        explanation_prob=data.EXPLANATION_PROB,
        absent=cfg.INPUT.GENERALIZED_EXPRESSIONS,
        class_names=names,
        ignore_label=ignore_label(metadata),
    )
    return MappedDataset(records, mapper)
