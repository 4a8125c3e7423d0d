"""Inputs of learning without labels."""
