"""Prediction heads: classes by text similarity, dynamic masks, perceptrons."""
