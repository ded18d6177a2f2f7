"""The tokenizer as llama.cpp reads it: tokens, their kinds and merges from ``tokenizer.json``.

llama.cpp splits a text by the rule called ``gpt-2``, which is that of the pre-tokenizer ByteLevel, before it merges.
Other rules are refused, because a text would become other tokens without a word. It does not bring a text into
Unicode's form NFC first, as the tokenizer of Pythia does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import QuantizationError
from pythia_quant.core.foreign_files import read_object

MODEL, SPLIT = "gpt2", "gpt-2"
"""llama.cpp's names for byte-level BPE, and for the rule by which ByteLevel splits a text."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # llama_token_type in llama.h
_NO_MERGE = ["<none> <none>"]  # llama.cpp wants a merge; symbols of several signs only come of merges, so never this
_HINT = "Pythia's tokenizer has this form; the other formats store any tokenizer"


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of the tokenizer.

    Attributes:
        tokens: the text of each token, by its id; those beyond the tokenizer's are named for their ids.
        kinds: llama.cpp's kind of each token.
        merges: the merges in their order, each as two tokens with a blank between them.
    """

    tokens: list[str]
    kinds: list[int]
    merges: list[str]


def read_vocabulary(path: Path, size: int) -> Vocabulary:
    """Read a ``tokenizer.json`` for a model with `size` tokens.

    Raises:
        QuantizationError: llama.cpp has no such tokenizer.
    """
    fields = read_object(path, QuantizationError)
    model = fields.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise _unlike(path, "is no BPE tokenizer")
    _check_steps(path, fields, model)
    tokens, kinds = [f"[PAD{number}]" for number in range(size)], [_UNUSED] * size

    def put(content: Any, number: Any, kind: int) -> None:
        if not isinstance(content, str) or type(number) is not int or not 0 <= number < size:
            raise _unlike(path, f"has the token {content!r:.60} with the number {number!r:.20}")
        tokens[number], kinds[number] = content, kind

    for content, number in model["vocab"].items():
        put(content, number, _NORMAL)
    for token in fields.get("added_tokens") or ():
        for key in ("lstrip", "rstrip", "single_word"):
            if token.get(key):
                raise _unlike(path, f"has the token {token.get('content')!r:.60} with {key}")
        put(token.get("content"), token.get("id"), _CONTROL if token.get("special") else _USER_DEFINED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", ())]
    return Vocabulary(tokens, kinds, merges or _NO_MERGE)


def _check_steps(path: Path, fields: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse a tokenizer that treats a text otherwise than llama.cpp will.

    Raises:
        QuantizationError: it does.
    """
    normalizer, split = fields.get("normalizer"), fields.get("pre_tokenizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise _unlike(path, f"has the normalizer {normalizer!s:.80}")
    if not isinstance(split, dict) or split.get("type") != "ByteLevel":
        raise _unlike(path, f"has the pre_tokenizer {split!s:.80}")
    if split.get("add_prefix_space") or split.get("use_regex") is False:
        raise _unlike(path, "puts a blank in front of a text, or does not split it")
    if added := _added_to_a_text(fields.get("post_processor")):
        raise _unlike(path, f"has a post_processor that adds {added}, which the file tells llama.cpp not to do")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(key):
            raise _unlike(path, f"has model.{key}: {model[key]!s:.40}")


def _added_to_a_text(step: Any) -> str:
    """Return what a post-processor adds to a text, in words; empty if it adds nothing.

    ByteLevel only moves offsets. A TemplateProcessing adds nothing to one text if its template is the text alone. Of
    all others it is not known.
    """
    if step is None:
        return ""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "ByteLevel":
        return ""
    if kind == "Sequence" and isinstance(step.get("processors"), list):
        return next(filter(None, map(_added_to_a_text, step["processors"])), "")
    if kind == "TemplateProcessing" and isinstance(step.get("single"), list):
        pieces = [piece for piece in step["single"] if not (isinstance(piece, dict) and "Sequence" in piece)]
        return "" if len(step["single"]) == 1 and not pieces else f"{pieces or step['single']!s:.80}"
    return f"tokens by {step!s:.80}"


def _unlike(path: Path, what: str) -> QuantizationError:
    return QuantizationError(f"{what}: llama.cpp would tokenize otherwise", where=str(path), hint=_HINT)
