"""What a user asks for: a recipe file with its variants and its way of measuring."""
