"""llama.cpp's C interface, from the shared object of the wheel ``xllamacpp``, in the one version that was tested.

The wheel offers Python only a server, but its shared object exports all of ``include/llama.h``. C passes parameters
in structures by value, and nothing but a comparison can tell whether they are laid out as they are here: so another
version is refused, and so are structures whose defaults are not where they were.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import ArtifactError

PACKAGE, TESTED = "xllamacpp", "2026.10.11549"
"""The wheel and its tested version. The last part of the version is the number of llama.cpp's build."""
BUILD = f"b{TESTED.rpartition('.')[2]}"
_TESTED_NAME = "0.6.0-dev"  # of llama_version()
_INSTALL = f"pip install {PACKAGE}=={TESTED}"

MEMORY_MAPPED, F16 = 1, 1  # of the enums llama_load_mode and ggml_type
_ERROR, _CONTINUED = 4, 5  # of the enum ggml_log_level
_LINES = 4


class ModelParams(ctypes.Structure):
    """How a model is loaded: ``llama_model_params``."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParams(ctypes.Structure):
    """How a model is run: ``llama_context_params``."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("pointers", c_void_p * 3),  # the callbacks that may stop a run: none is set
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    """The tokens of one call: ``llama_batch``. Without positions they follow those before, in sequence 0."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


_MODEL_DEFAULTS = ModelParams(n_gpu_layers=-1, split_mode=1, load_mode=-1, lazy_mode=1, use_extra_bufts=True)
_CONTEXT_DEFAULTS = ContextParams(
    n_ctx=512,
    n_batch=2048,
    n_ubatch=512,
    n_seq_max=1,
    n_outputs_max_per_seq=1,
    n_threads=4,
    n_threads_batch=4,
    rope_scaling_type=-1,
    pooling_type=-1,
    attention_type=-1,
    flash_attn_type=-1,
    yarn_ext_factor=-1,
    yarn_attn_factor=-1,
    yarn_beta_fast=-1,
    yarn_beta_slow=-1,
    defrag_thold=-1,
    type_k=F16,
    type_v=F16,
    offload_kqv=True,
    no_perf=True,
    op_offload=True,
    swa_full=True,
)

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_version": (c_char_p, []),
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [c_void_p, c_void_p]),
    "ggml_set_abort_callback": (c_void_p, [c_void_p]),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_model_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_model_n_ctx_train": (c_int32, [c_void_p]),
    "llama_model_n_embd": (c_int32, [c_void_p]),
    "llama_model_n_layer": (c_int32, [c_void_p]),
    "llama_model_n_head": (c_int32, [c_void_p]),
    "llama_model_meta_val_str": (c_int32, [c_void_p, c_char_p, c_char_p, c_size_t]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
    "llama_n_batch": (c_uint32, [c_void_p]),
    "llama_n_ubatch": (c_uint32, [c_void_p]),
    "llama_n_threads": (c_int32, [c_void_p]),
    "llama_n_threads_batch": (c_int32, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (c_void_p, [c_void_p]),
}


class _Messages:
    """What llama.cpp has last said of errors; nothing is printed."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._level, self._lock = 0, threading.Lock()

    def take(self) -> str:
        """Return the last errors in one line, and forget them."""
        with self._lock:
            said = "; ".join(line.strip() for line in self._lines if line.strip())
            self._lines.clear()
        return said or "it does not say why"

    def add(self, level: int, text: bytes | None) -> None:
        """Keep a message, or what continues one, if it is an error."""
        with self._lock:
            line = (text or b"").decode(errors="replace")
            if level != _CONTINUED:
                self._level = level
                if level == _ERROR:
                    self._lines.append(line)
            elif self._level == _ERROR and self._lines:
                self._lines[-1] += line


MESSAGES = _Messages()


def _keep_line(level: int, text: bytes | None, _: int | None) -> None:
    MESSAGES.add(level, text)


def _say_line(text: bytes | None) -> None:
    """Write the one line that llama.cpp ends the process with; it would start a debugger to show where it was."""
    os.write(2, (text or b"llama.cpp ends the process").strip() + b"\n")


# C calls them for as long as the library is loaded.
_keep = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)(_keep_line)
_say_why = ctypes.CFUNCTYPE(None, c_char_p)(_say_line)


@cache
def library() -> ctypes.CDLL:
    """Load llama.cpp; it takes 30 ms, and no model yet.

    Raises:
        ArtifactError: it is not installed, or not in the tested version, or its structures are not those of here.
    """
    path = _shared_object()
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # read when it is loaded
    try:
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:  # the second: a name that it does not export
        raise _refusal(f"llama.cpp cannot be loaded ({error})", path) from error
    named = (loaded.llama_version() or b"").decode(errors="replace")
    if named != _TESTED_NAME:
        raise _refusal(f"it is llama.cpp {named}; this program is tested with {_TESTED_NAME}", path)
    check_layout(loaded.llama_model_default_params(), _MODEL_DEFAULTS, path)
    check_layout(loaded.llama_context_default_params(), _CONTEXT_DEFAULTS, path)
    loaded.llama_log_set(ctypes.cast(_keep, c_void_p), None)
    loaded.ggml_set_abort_callback(ctypes.cast(_say_why, c_void_p))
    loaded.llama_backend_init()
    return loaded


def check_layout(defaults: ctypes.Structure, tested: ctypes.Structure, path: Path) -> None:
    """Refuse a library whose default parameters are not those of the tested version, field by field.

    Raises:
        ArtifactError: a field differs, so that it would be another field there.
    """
    for name, _ in type(tested)._fields_:  # type: ignore[misc]
        found, expected = (_plain(getattr(params, name)) for params in (defaults, tested))
        if found != expected:
            raise _refusal(f"its parameters are laid out in another way ({name} is {found}, not {expected})", path)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, ctypes.Array) else value


def _shared_object() -> Path:
    """Return the wheel's shared object; the package itself is not imported, which would start its server's threads."""
    spec = find_spec(PACKAGE)
    try:
        installed = version(PACKAGE)
    except PackageNotFoundError:
        installed = ""
    if spec is None or not installed:
        raise ArtifactError(f"GGUF files run in llama.cpp, of {PACKAGE}: not installed here", hint=_INSTALL)
    if installed != TESTED:
        raise ArtifactError(
            f"{PACKAGE} {installed} is installed; this program calls llama.cpp's C interface as it is in {TESTED}",
            hint=_INSTALL,
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = [path for folder in folders for path in sorted(folder.glob(f"{PACKAGE}*.so"))]
    if not found:
        raise ArtifactError(f"{PACKAGE} {installed} has no shared object for this platform", hint=_INSTALL)
    return found[0]


def _refusal(what: str, path: Path) -> ArtifactError:
    return ArtifactError(what, where=str(path), hint=f"{_INSTALL} (--force-reinstall)")
