"""Scores of masks from encoders of whole phrases, and how they join the model's own."""
