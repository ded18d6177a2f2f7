"""The model's process generates what the artifact does; when it ends, requests are refused until it runs again."""

from __future__ import annotations

import os
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from serving import running
from shared import linked

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.artifacts.generator import Generator
from pythia_quant.artifacts.pieces import Wish
from pythia_quant.core.errors import ArtifactError
from pythia_quant.serve import engine as engine_module
from pythia_quant.serve import model as model_module
from pythia_quant.serve.model import ModelProcess


def test_a_file_that_is_cut_off_ends_requests_and_not_the_server(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(model_module, "RETRY_SECONDS", 0.1)
    artifact = open_artifact(linked(converted / "out/tiny/local/onnx-fp32", tmp_path / "tiny"))
    weights = max(artifact.folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = weights.read_bytes()
    weights.unlink()  # it is a link to the file of all tests
    weights.write_bytes(content)
    here, wish = Generator(artifact), Wish(9, alternatives=2)
    ids = here.encode("abc")
    with closing(ModelProcess(artifact)) as model:
        with closing(model.stream(ids, wish)) as pieces:
            begun = list(islice(pieces, 2))
        assert list(model.stream(ids, wish)) == list(here.stream(ids, wish))
        assert begun == list(here.stream(ids, wish))[:2]
        assert model.scores(ids, 2) == here.scores(ids, 2)
        assert model.reused == len(ids)
        with pytest.raises(ArtifactError, match="exceed the context"):
            list(model.stream(ids, Wish(100)))
        with running(artifact.folder, model=model) as server:
            expected = server.complete("abc", max_tokens=9).data["choices"][0]["text"]
            os.truncate(weights, 0)
            refused = server.complete("abcd", max_tokens=9)
            assert (refused.status, refused.data["error"]["code"]) == (503, "model_lost")
            assert "cut off or written over" in refused.data["error"]["message"]
            refused = server.complete("abc", max_tokens=9)
            assert (refused.status, refused.data["error"]["code"]) == (503, "model_unavailable")
            assert f"{weights.name} has 0 bytes, not {len(content)}" in refused.data["error"]["message"]
            assert server.ask("/health").status == 503
            weights.write_bytes(content)
            end = time.monotonic() + 60
            while server.ask("/health").status == 503:
                assert time.monotonic() < end
                time.sleep(0.05)
            assert server.complete("abc", max_tokens=9).data["choices"][0]["text"] == expected
