"""Projection of hidden states of the language model to prompts of a mask decoder."""

from __future__ import annotations

from torch import nn


def build_prompt_projection(width: int, prompt_width: int) -> nn.Sequential:
    """Build LISA's projection: linear, ReLU, linear.

    Args:
        width: channels of a hidden state.
        prompt_width: channels of a prompt.
    """
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt_width))
