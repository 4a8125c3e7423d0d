"""Conversion of published checkpoints to the parameter names of this package."""
