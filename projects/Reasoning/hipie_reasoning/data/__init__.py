"""Data of reasoning segmentation."""
