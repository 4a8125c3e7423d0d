"""Conversion of published checkpoints to our parameter names."""
