"""From decoder outputs to instances, semantic maps, panoptic maps and parts."""
