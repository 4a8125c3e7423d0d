"""Losses, matching, optimiser groups and the trainer."""
