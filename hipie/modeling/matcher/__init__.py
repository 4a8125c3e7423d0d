"""Matching of queries with ground-truth objects."""
