"""Refinement of given masks by the colours of the image, or by SAM."""

from hipie.refinement.masks import REFINEMENTS, refine_masks
from hipie.refinement.pamr import PAMRConfig, refine_by_pixels

__all__ = ["REFINEMENTS", "PAMRConfig", "refine_by_pixels", "refine_masks"]
