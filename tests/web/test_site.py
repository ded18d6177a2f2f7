"""A site: in Chromium it generates what Python does; what is wrong with its input is one error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from site_server import ASSETS, served

from pythia_quant.artifacts.artifact import Artifact, open_artifact
from pythia_quant.artifacts.generate import continue_text
from pythia_quant.artifacts.pieces import Wish
from pythia_quant.core.errors import ArgumentError, ArtifactError
from pythia_quant.web.model_files import check_model
from pythia_quant.web.packages import pins, vendor_contents
from pythia_quant.web.site import check_out, write_site

TOKENS = "[...document.querySelectorAll('.token')].flatMap((one) => one.dataset.tokens.split(' ').map(Number))"
PROMPT = "import os"


@pytest.fixture(scope="module")
def tiny(converted: Path) -> Artifact:
    return open_artifact(next(converted.rglob("onnx-int8/pythia_quant.json")).parent)


@pytest.fixture(scope="module")
def site(tiny: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not ASSETS.is_dir():
        pytest.skip(f"the page's packages are not in {ASSETS}: `make web-test` fetches them")
    return write_site([tiny], tmp_path_factory.mktemp("site") / "site", assets=ASSETS).folder


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    with served(site) as opened:
        yield opened


def test_the_page_generates_what_python_does(browser: Browser, address: str, tiny: Artifact) -> None:
    browser.open(address, 390)
    browser.wait("document.body.dataset.state === 'ready'")
    browser.run(f"document.getElementById('prompt').value = '{PROMPT}'; document.getElementById('count').value = 20")
    browser.run("document.getElementById('go').click()")
    browser.wait("!document.body.classList.contains('busy')")
    assert browser.run(TOKENS) == continue_text(tiny, PROMPT, Wish(20)).tokens
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert all(request.startswith(address.removesuffix("index.html")) for request in browser.requests)


def test_a_missing_file_is_named(browser: Browser, address: str, site: Path) -> None:
    moved = (site / "site.json").rename(site / "other.json")
    try:
        browser.open(address, 390)
        browser.wait("document.body.dataset.state === 'failed'")
        assert "site.json is missing" in browser.run("document.getElementById('trouble').innerText")
    finally:
        moved.rename(site / "site.json")


def test_another_format_is_refused(converted: Path) -> None:
    with pytest.raises(ArtifactError, match="only ONNX artifacts"):
        check_model(open_artifact(next(converted.rglob("gptq*/pythia_quant.json")).parent))


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("x")
    with pytest.raises(ArgumentError, match="no site of ours"):
        check_out(tmp_path)


def test_a_tampered_package_is_refused(tmp_path: Path) -> None:
    first = next(iter(pins()[1].values()))
    (tmp_path / first.name).write_bytes(bytes(first.bytes))
    with pytest.raises(ArgumentError, match="SHA-512 differs"):
        next(vendor_contents(tmp_path))
