"""GPT-NeoX: the Pythia suite, configuration, weights at rest, and the forward pass in fp32."""
