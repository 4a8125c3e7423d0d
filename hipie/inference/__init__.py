"""From a decoder's answers to instances, semantic and panoptic maps, parts and referred things."""
