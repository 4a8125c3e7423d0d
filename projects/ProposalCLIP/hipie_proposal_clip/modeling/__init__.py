"""Networks and functions of tensors of mask classification with CLIP."""
