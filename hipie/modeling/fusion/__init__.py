"""Early fusion of image and text features."""
