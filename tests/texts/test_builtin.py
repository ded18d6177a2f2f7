from pathlib import Path

import numpy as np
import pytest
from tiny import byte_tokenizer
from tokenizers import Tokenizer

from pythia_quant.core.files import cache_folder
from pythia_quant.model.source import open_source
from pythia_quant.model.source_name import DEMO
from pythia_quant.texts import builtin
from pythia_quant.texts.builtin import Document, documents, held_out_text
from pythia_quant.texts.windows import encode, shared


def test_documents_are_held_out_by_their_name_alone() -> None:
    found = documents()
    names = [document.name for document in found]
    assert names == sorted(set(names))
    assert {"json/decoder.py", "topics/assert", "builtins/str"} <= set(names)
    assert Document("json/decoder.py", "").held_out == Document("json/decoder.py", "other text").held_out
    share = sum(document.held_out for document in found) / len(found)
    assert 0.10 < share < 0.20


def test_paragraphs_that_share_13_tokens_with_the_training_text_are_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHIA_QUANT_CACHE", str(tmp_path))
    kept, dropped = "a paragraph only here", "this one is in both"
    names = iter(f"document {i}" for i in range(1000))
    held_out = next(name for name in names if Document(name, "").held_out)
    training = next(name for name in names if not Document(name, "").held_out)
    texts = [Document(held_out, f"{kept}\n\n{dropped} x\n\nand a third"), Document(training, f"long ago, {dropped} y")]
    monkeypatch.setattr(builtin, "documents", lambda: texts)
    right = f"{kept}\n\nand a third"
    assert held_out_text(byte_tokenizer()) == right
    (file,) = cache_folder("texts").iterdir()
    content = file.read_bytes()
    assert held_out_text(byte_tokenizer()) == right
    file.write_bytes(content.replace(b"only", b"lost"))
    assert held_out_text(byte_tokenizer()) == right, "what was damaged is found again"
    assert file.read_bytes() == content


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_source(DEMO).tokenizer


def test_this_python_gives_the_demo_enough_text_without_overlap(tokenizer: Tokenizer) -> None:
    held_out = encode(tokenizer, held_out_text(tokenizer))
    training = encode(tokenizer, builtin.training_text())
    assert len(held_out) >= 120 * 512
    assert len(training) >= 128 * 512
    assert not shared(held_out, training).any()
    assert held_out.dtype == np.int64


def test_the_held_out_names_that_ship_with_the_model_follow_the_rule() -> None:
    import json

    record = json.loads((open_source(DEMO).folder / "training.json").read_text())
    assert len(record["held_out_documents"]) > 50
    assert all(Document(name, "").held_out for name in record["held_out_documents"])
