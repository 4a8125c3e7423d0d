"""Networks of reasoning segmentation."""
