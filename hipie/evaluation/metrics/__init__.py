"""Metrics as functions of arrays and counts."""
