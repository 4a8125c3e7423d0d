"""Losses of the thing decoder and of the stuff decoder."""
