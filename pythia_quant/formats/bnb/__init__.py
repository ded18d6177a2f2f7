"""bitsandbytes 4-bit: what ``AutoModelForCausalLM.from_pretrained`` loads without our package."""
