"""Masks from clicks, boxes, scribbles and polygons, on the Segment Anything Model.

Kirillov et al., "Segment Anything", ICCV 2023; the simulated user and NoC as in Sofiiuk et al.,
"Reviving Iterative Training with Mask Guidance for Interactive Segmentation", ICIP 2022. Importing
the package registers the architecture `InteractiveSAM`.
"""

from hipie_interactive.config import add_hipie_interactive_config
from hipie_interactive.meta_arch import InteractiveSAM
from hipie_interactive.prompts import Prompt, PromptError, Scribble
from hipie_interactive.session import Session, segment
from hipie_interactive.task_predictor import InteractivePredictor

__all__ = [
    "InteractivePredictor",
    "InteractiveSAM",
    "Prompt",
    "PromptError",
    "Scribble",
    "Session",
    "add_hipie_interactive_config",
    "segment",
]
