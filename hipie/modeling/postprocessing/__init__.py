"""Instance, semantic, panoptic, part and referring inference from decoder outputs."""
