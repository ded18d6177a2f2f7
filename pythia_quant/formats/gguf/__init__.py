"""GGUF, the files that llama.cpp and what is built on it read: their writer, their reader, and llama.cpp itself."""
