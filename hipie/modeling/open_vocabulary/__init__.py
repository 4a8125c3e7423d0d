"""CLIP: mask classification and the ensemble of its scores with the decoder's."""
