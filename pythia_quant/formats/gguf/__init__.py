"""GGUF: one file with weights and tokenizer, which llama.cpp and the programs around it run."""
