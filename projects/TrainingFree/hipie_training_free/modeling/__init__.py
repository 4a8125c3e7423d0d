"""CLIP, DINO and diffusion features, and algorithms on them."""
