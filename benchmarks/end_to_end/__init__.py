"""What GPTQ gains at the same bytes if the whole KL decides: scales trained on it, codes moved by its Hessian."""
