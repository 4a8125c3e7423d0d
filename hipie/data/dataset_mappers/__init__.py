"""Dataset mappers: from records of Detectron2's catalog to the inputs of the models."""

from __future__ import annotations

from hipie.data.dataset_mappers.referring import ReferringDatasetMapper
from hipie.data.dataset_mappers.universal import UniversalDatasetMapper

__all__ = ["ReferringDatasetMapper", "UniversalDatasetMapper"]
