"""The speed of ONNX graphs in a browser beside ours: ``python benchmarks/web_speed --help``."""
