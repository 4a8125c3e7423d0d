"""Few-shot segmentation: segment in query images the object masked in support examples.

Prototypes of DINOv2 features; PerSAM and PerSAM-F (Zhang et al., "Personalize Segment Anything
Model with One Shot", ICLR 2024); Matcher (Liu et al., "Matcher: Segment Anything with One Shot
Using All-Purpose Feature Matching", ICLR 2024). Importing the package registers the architecture
`FewShot`, the evaluator `few_shot`, the mapper `few_shot_episodes` and the task predictor of
`Segmenter.like`.
"""

from hipie_fewshot.config import add_hipie_fewshot_config
from hipie_fewshot.data.episodes import EpisodeMapper
from hipie_fewshot.evaluation import FewShotEvaluator
from hipie_fewshot.meta_arch import FewShot
from hipie_fewshot.support_set import Example, ExampleError
from hipie_fewshot.task_predictor import FewShotPredictor

__all__ = [
    "EpisodeMapper",
    "Example",
    "ExampleError",
    "FewShot",
    "FewShotEvaluator",
    "FewShotPredictor",
    "add_hipie_fewshot_config",
]
