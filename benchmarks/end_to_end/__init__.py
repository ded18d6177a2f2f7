"""What GPTQ gains at the same bytes if its scales and biases are trained on the KL of the whole model."""
