"""Reasoning segmentation: a multimodal language model answers with masks.

Lai et al., "LISA: Reasoning Segmentation via Large Language Model", and Xia et al., "GSVA:
Generalized Segmentation via Multimodal Large Language Models", both CVPR 2024. Importing the
package registers the architecture `ReasoningSeg`, the mapper and the evaluator `reasoning`, data
sets with questions, and the task predictors of `Segmenter.reason`.
"""

from hipie_reasoning.chat_model import ChatModel, TransformersChatModel
from hipie_reasoning.config import add_hipie_reasoning_config
from hipie_reasoning.data.dataset_mapper import ReasoningDatasetMapper
from hipie_reasoning.data.datasets import register_reasoning_datasets
from hipie_reasoning.evaluation import ReasoningEvaluator
from hipie_reasoning.meta_arch import ReasonedAnswer, ReasoningSeg
from hipie_reasoning.task_predictor import ReasoningPredictor

__all__ = [
    "ChatModel",
    "ReasonedAnswer",
    "ReasoningDatasetMapper",
    "ReasoningEvaluator",
    "ReasoningPredictor",
    "ReasoningSeg",
    "TransformersChatModel",
    "add_hipie_reasoning_config",
]

register_reasoning_datasets()
