"""Interactive segmentation by clicks, boxes, scribbles and polygons, with Segment Anything (SAM).

Kirillov et al., "Segment Anything", ICCV 2023; the simulated user and NoC as in Sofiiuk et al.,
"Reviving Iterative Training with Mask Guidance for Interactive Segmentation", ICIP 2022. Importing
the package registers the architecture `InteractiveSAM`, the evaluator `interactive`, the mapper
`interactive_targets` and the task predictor of `Segmenter.prompt`.
"""

from hipie_interactive.config import add_hipie_interactive_config
from hipie_interactive.data.dataset import TargetsMapper
from hipie_interactive.evaluation import InteractiveEvaluator
from hipie_interactive.meta_arch import InteractiveSAM
from hipie_interactive.modeling.prompts import Prompt, PromptError, Scribble
from hipie_interactive.session import Session, segment
from hipie_interactive.task_predictor import InteractivePredictor

__all__ = [
    "InteractiveEvaluator",
    "InteractivePredictor",
    "InteractiveSAM",
    "Prompt",
    "PromptError",
    "Scribble",
    "Session",
    "TargetsMapper",
    "add_hipie_interactive_config",
    "segment",
]
