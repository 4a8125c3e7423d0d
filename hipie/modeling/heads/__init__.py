"""Prediction heads of queries: classes, masks, boxes and IoU."""
