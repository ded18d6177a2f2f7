"""The protocol to run a model, and transformers as one that follows it."""
