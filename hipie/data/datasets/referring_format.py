"""Registration of custom referring expressions and groups of images."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from hipie.data.datasets.annotation_kinds import EXPRESSIONS, GROUPS, require_kind
from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.mask_files import ShownClasses, load_groups, load_mask_refs
from hipie.data.datasets.refcoco import load_refcoco, read_refs
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import DatasetError

EVALUATORS = ("refer", "grefer", "refzom")
PathLike = str | os.PathLike[str]


def register_referring(
    name: str,
    refs_file: PathLike,
    instances_json: PathLike,
    image_root: PathLike,
    *,
    split: str = "",
    evaluator: str = "",
) -> None:
    """Register referring expressions under a name for `DATASETS.TRAIN` and `DATASETS.TEST`.

    The refs are read at once to see their form, the rest when the data set is first used. An entry
    of the same name is replaced.

    Args:
        name: name in the catalogs.
        refs_file: RefCOCO's `refs(*).p`, gRefCOCO's `grefs(*).json`, refs of either form as JSON or
            pickle, or a JSON list of `{image, mask, class, sentences}`.
        instances_json: the objects of the refs in COCO's format; "" for such a list.
        image_root: folder of the images, and of the masks of such a list.
        split: refs of this split only; "" = all. Not for such a list.
        evaluator: "refer" (every expression has one target), "grefer" (any number) or "refzom";
            "" = by the refs.

    Raises:
        FileNotFoundError, DatasetError: naming the file, if the refs cannot be read, or do not fit
            the other arguments.
    """
    if str(refs_file).endswith(".json"):
        require_kind(refs_file, read_json(refs_file), EXPRESSIONS)
    refs = read_refs(refs_file)
    first = next((ref for ref in refs if isinstance(ref, dict)), {})
    is_mask_list = "image" in first and "ref_id" not in first
    if evaluator and evaluator not in EVALUATORS:
        raise DatasetError(
            f'{refs_file}: the evaluator "{evaluator}" is none of {", ".join(EVALUATORS)}'
        )
    metadata: dict[str, Any]
    if is_mask_list:
        if instances_json or split:
            given = f"the instances {instances_json}" if instances_json else f'the split "{split}"'
            raise DatasetError(
                f"{refs_file}: this list of images, masks and sentences has its objects and no "
                f'splits; give "" instead of {given}'
            )
        load = partial(load_mask_refs, refs_file, image_root)
        has_class = all(
            isinstance(ref, dict) and (ref.get("class") or not ref.get("mask")) for ref in refs
        )
        metadata = {"annotations_have_classes": has_class}
    else:
        if not instances_json:
            raise DatasetError(
                f"{refs_file}: these refs name annotations of an instances JSON, which has to be "
                "given"
            )
        load = partial(load_refcoco, refs_file, instances_json, image_root, split)
        metadata = {"instances_json": str(instances_json)}
    register_dataset(
        name,
        load,
        task="referring",
        evaluator_type=evaluator or _evaluator(refs),
        image_root=str(image_root),
        **metadata,
    )


def register_groups(
    name: str,
    groups_json: PathLike,
    split: str,
    root: PathLike,
    *,
    negatives: int | None = None,
    instances: str = "",
    label_maps: str = "",
    class_names: str = "",
) -> None:
    """Register groups of images under a name for `DATASETS.TRAIN` and `DATASETS.TEST`.

    The names of the groups are read at once, the rest when the data set is first used. An entry of
    the same name is replaced.

    Args:
        name: name in the catalogs.
        groups_json: group -> split -> list of `{image, mask}`, see `load_groups`.
        split: name of the split.
        root: folder that the paths of images and masks are relative to.
        negatives: images of other groups beside those of a group; None = as many as it has.
        instances: COCO instances JSON that says what the images show; "" = none.
        label_maps: folder of label maps that say it.
        class_names: their file of class names.

    Raises:
        FileNotFoundError, DatasetError: naming the file, if there are no groups in it, or label
            maps have no class names.
    """
    content = read_json(groups_json)
    require_kind(groups_json, content, GROUPS)
    if not isinstance(content, dict):
        raise DatasetError(f"{groups_json}: expected an object group -> split -> list")
    if bool(label_maps) != bool(class_names):
        raise DatasetError(f"{groups_json}: label_maps and class_names belong together")
    is_count = isinstance(negatives, int) and not isinstance(negatives, bool) and negatives >= 0
    if negatives is not None and not is_count:
        raise DatasetError(f"{groups_json}: negatives must be a number, not {negatives!r}")
    shown = ShownClasses(instances, label_maps, class_names)
    register_dataset(
        name,
        partial(load_groups, groups_json, split, root, negatives=negatives, shown=shown),
        task="referring",
        evaluator_type="group",
        image_root=str(root),
    )


def _evaluator(refs: list[Any]) -> str:
    """Return the evaluator for refs: by their form, and by whether all have exactly one target."""
    entries = [ref for ref in refs if isinstance(ref, dict)]
    if any(ref.get("source") == "zero" for ref in entries):
        return "refzom"
    for ref in entries:
        numbers = ref.get("ann_id")
        if isinstance(numbers, list) and (len(numbers) != 1 or numbers == [-1]):
            return "grefer"
        if "image" in ref and "ref_id" not in ref and not ref.get("mask"):
            return "grefer"
    return "refer"
