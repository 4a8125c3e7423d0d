"""Export of whole models with their class names to ONNX, OpenVINO and `torch.export`."""
