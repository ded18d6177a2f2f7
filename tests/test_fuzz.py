"""What the fuzzer made up (``make fuzz``) and whole examples are read, or refused as a user sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import corpus
from fuzz.readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses_all_that_a_fuzzer_made_up(tmp_path: Path, name: str) -> None:
    read = READERS[name].in_folder(tmp_path)
    for content in corpus.load(name):
        read(content)
    for content in READERS[name].examples(tmp_path):
        assert read(content) or name == "gptq"  # whose weights are looked for last
