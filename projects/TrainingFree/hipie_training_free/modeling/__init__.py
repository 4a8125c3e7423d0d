"""CLIP, DINO and diffusion features, and the algorithms on them."""
