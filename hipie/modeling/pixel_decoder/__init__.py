"""Encoders of multi-scale image features."""
