"""Dataset mapper of images and their referring expressions, without masks."""

from __future__ import annotations

from detectron2.config import CfgNode

from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset, referring


@DATASET_MAPPER_REGISTRY.register()
def expressions_without_masks(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build the referring mapper without masks, whose annotations need no `segmentation`.

    Args:
        cfg: reads INPUT.*, as `referring` does.
        dataset_name: a registered data set whose records have `expressions`.
        training: whether expressions are sampled and images augmented.
    """
    return referring(cfg, dataset_name, training, with_masks=False)
