"""Prompts, their masks by SAM, and the simulated user."""
