"""Criteria of both decoders: matching, loss terms and their normalisation."""
