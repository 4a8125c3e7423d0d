"""Segment Anything: prompts to masks, refinement of masks, automatic masks."""
