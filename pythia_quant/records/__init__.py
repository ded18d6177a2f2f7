"""What is written down: the manifest of an artifact, and the results of a benchmark."""
