"""The environments of the ONNX artifacts' peers."""

from __future__ import annotations

from pathlib import Path

from peers.environments import TORCH, Environment

TRANSFORMERS = "transformers==4.57.6"
LLAMA_CPP = "llama-cpp-python==0.3.36"

# Options of llama.cpp's build, by the flag in /proc/cpuinfo that says that the processor has the instruction set. AMX
# is left out: llama.cpp built with gcc 12 crashes in it.
_CMAKE_FLAGS = {
    "sse4_2": "GGML_SSE42",
    "avx": "GGML_AVX",
    "avx2": "GGML_AVX2",
    "fma": "GGML_FMA",
    "f16c": "GGML_F16C",
    "bmi2": "GGML_BMI2",
    "avx512f": "GGML_AVX512",
    "avx512vbmi": "GGML_AVX512_VBMI",
    "avx512_vnni": "GGML_AVX512_VNNI",
    "avx512_bf16": "GGML_AVX512_BF16",
    "avx_vnni": "GGML_AVX_VNNI",
}


def cpu_flags() -> set[str]:
    """Return the instruction sets that Linux lists for the first processor; an empty set on other systems."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def llama_cpp_options() -> str:
    """Return the build options of llama.cpp for this processor."""
    flags = cpu_flags()
    chosen = [f"-D{option}=ON" for flag, option in _CMAKE_FLAGS.items() if flag in flags]
    # If no flag is listed, as on ARM, the compiler finds out what this processor can do.
    return " ".join(["-DGGML_NATIVE=OFF", *chosen] if chosen else ["-DGGML_NATIVE=ON"])


ENVIRONMENTS = {
    "usual": Environment(((TORCH,), ("optimum-onnx==0.1.0", "onnxruntime==1.31.1", "onnx==1.23.2", TRANSFORMERS))),
    "llama.cpp": Environment(
        ((TORCH,), (TRANSFORMERS, "sentencepiece", "safetensors", "pyyaml")), LLAMA_CPP, llama_cpp_options
    ),
    # Later releases need torchvision, which brings a torch of its own, with CUDA.
    "openvino": Environment(((TORCH,), ("openvino==2026.4.1", "optimum-intel[openvino]==1.27.0", TRANSFORMERS))),
    "ctranslate2": Environment(((TORCH,), ("ctranslate2==4.8.5", TRANSFORMERS))),
}
