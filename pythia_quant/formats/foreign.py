"""What others made: the class that each kind of such artifacts implements, and what is found when one is opened.

A foreign artifact may come from anybody. Whatever reads one executes none of its code, reads no pickle with anything
but tensors, opens no file outside its folder, and checks shapes before native code sees a tensor.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import own_file
from pythia_quant.formats.format import Opener
from pythia_quant.model.architecture import Architecture

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# ruff: noqa: PLC0415 - the table of kinds is read without torch and tokenizers, which only opening an artifact needs

Encode = Callable[[str], list[int]]
"""A function from a text to its tokens, without special tokens around it."""


@dataclass(frozen=True)
class Finding:
    """What a foreign artifact is. It is JSON data, to come from another process.

    Attributes:
        stored: how its weights are stored, for people, such as ``GPTQ, 4 bits in groups of 128``.
        quantized: whether a weight has fewer than 16 bits.
        files: the names of the files that hold weights, relative to the artifact's root, see :func:`root_of`.
        memory_bytes: about the bytes that the weights take in the runtime's memory.
        notes: sentences that a reader of its numbers should know.
    """

    stored: str
    quantized: bool
    files: list[str]
    memory_bytes: int
    notes: list[str] = field(default_factory=list)


class ForeignKind(Opener):
    """One kind of artifact that others make. In :class:`Opener`'s methods, `folder` may be a single file.

    Attributes:
        name: the kind's name in the table of kinds and in result files.
        like: the format of ours that takes about as long, for estimates.
        normalizes: whether its tokenizer can bring a text into NFC; if not, tokenizers are compared on texts in NFC.
    """

    name: ClassVar[str]
    like: ClassVar[str]
    normalizes: ClassVar[bool] = True

    @abstractmethod
    def recognizes(self, path: Path) -> bool:
        """Say whether a folder or file is of this kind, by names and by what ``config.json`` says.

        Raises:
            ArtifactError: it is of this kind, but damaged, or names code to run.
        """

    @abstractmethod
    def inspect(self, path: Path, source: Architecture) -> Finding:
        """Check everything that can be checked without running the artifact, and say what it is.

        Args:
            path: the folder or file.
            source: the shape of the source that it is said to be made of.

        Raises:
            ArtifactError: a file is missing or damaged, or the shape is not the source's.
            SourceError: ``config.json`` is not that of a GPT-NeoX.
        """

    def encoder(self, path: Path, vocabulary: int) -> Encode | None:
        """Return the artifact's own tokenizer; None if it has none. By default it is the ``tokenizer.json`` beside it.

        Raises:
            ArtifactError: the tokenizer is damaged, or has tokens beyond the vocabulary.
        """
        from pythia_quant.model.tokenizer import TOKENIZER, open_tokenizer

        file = own_file(root_of(path), TOKENIZER, ArtifactError)
        return None if file is None else encode_with(open_tokenizer(file, vocabulary, ArtifactError))


def encode_with(tokenizer: Tokenizer) -> Encode:
    """Return the function that encodes with a tokenizer of the package ``tokenizers``."""
    from pythia_quant.model.tokenizer import tokenize

    return lambda text: list(tokenize(tokenizer, text).ids)


_SUBFOLDER = "onnx"
"""The folder in which exporters put graphs below the one with the configuration."""


def root_of(path: Path) -> Path:
    """Return the folder that holds an artifact's configuration and tokenizer, if it has any.

    It is the artifact itself, or the folder of a file. Exporters of ONNX put files into a folder below it.
    """
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == _SUBFOLDER else path.parent


_COMPARED = {
    "layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads",
    "mlp_width": "intermediate_size", "vocabulary": "vocab_size", "context": "max_position_embeddings",
    "rotary_size": "rotary_pct, in dimensions,", "rotary_base": "rotary_emb_base", "norm_epsilon": "layer_norm_eps",
    "parallel_residual": "use_parallel_residual", "activation": "hidden_act", "rope_scaling": "rope_scaling",
}  # fmt: skip


def check_shape(theirs: Architecture, source: Architecture, where: str) -> None:
    """Refuse an artifact of another shape than the source's.

    Whether matrices are tied and biases are there is no part of the shape: quantizers store both in any case.

    Raises:
        ArtifactError: a field differs; the message names it with both values.
    """
    for name, key in _COMPARED.items():
        found, expected = getattr(theirs, name), getattr(source, name)
        if found != expected:
            raise ArtifactError(
                f"{key} is {found}, the source's is {expected}: it was not made from this source",
                where=where,
                hint="name with --source the model that it was made from",
            )
