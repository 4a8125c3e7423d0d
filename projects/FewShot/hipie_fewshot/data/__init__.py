"""Data sets as few-shot episodes."""
