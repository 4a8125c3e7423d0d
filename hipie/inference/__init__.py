"""What becomes of a model's answers: instances, semantic, panoptic, parts, sentences."""
