"""What the page is to people: axe-core finds nothing wrong in any state, and a keyboard is enough."""

from __future__ import annotations

import base64
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from site_server import ASSETS, served

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.web.site import write_site

AXE = "axe-core-4.14.1"
AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
FOUND = "(axeFound.violations.map((one) => [one.id, ...one.nodes.map((node) => node.html.slice(0, 150))]))"
"""Of the tarball in base64, as npm writes it. `make web-test` fetches it; it is never part of a site."""


@pytest.fixture(scope="module")
def axe() -> str:
    tarball = ASSETS / f"{AXE}.tgz"
    if not tarball.is_file():
        pytest.skip(f"{tarball} is missing: `make web-test` fetches it")
    assert base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode() == AXE_SHA512
    with tarfile.open(tarball) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file
        return file.read().decode()


@pytest.fixture(scope="module")
def address(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not ASSETS.is_dir():
        pytest.skip(f"the page's packages are not in {ASSETS}: `make web-test` fetches them")
    artifact = open_artifact(next(converted.rglob("onnx-int8/pythia_quant.json")).parent)
    site = write_site([artifact, artifact], tmp_path_factory.mktemp("two") / "site", assets=ASSETS)
    with served(site.folder) as opened:
        yield opened


def complaints(browser: Browser, axe: str) -> list[list[str]]:
    """Return the rules that axe-core finds broken, each with the elements."""
    browser.run(f"{axe}; window.axeFound = null; axe.run().then((found) => {{ window.axeFound = found; }}); 0")
    browser.wait("window.axeFound !== null")
    assert browser.run("axeFound.passes.length") > 10, "axe-core looked at nothing"
    found: list[list[str]] = browser.run(FOUND)
    return found


def generate(browser: Browser) -> None:
    browser.run("document.getElementById('go').click()")
    browser.wait("!document.body.classList.contains('busy')")
    assert browser.run("document.getElementById('trouble').hidden")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(browser: Browser, address: str, axe: str, dark: bool) -> None:
    browser.open(address, 1000, dark=dark)
    browser.wait("document.body.dataset.state === 'ready'")
    assert complaints(browser, axe) == []
    browser.run("document.getElementById('prompt').value = 'import os'; document.getElementById('count').value = 8")
    generate(browser)
    assert complaints(browser, axe) == []
    browser.run("document.getElementById('other').value = '1'")
    browser.run("document.getElementById('other').dispatchEvent(new Event('change'))")
    generate(browser)
    assert browser.run("document.querySelectorAll('.pane').length") == 2
    assert complaints(browser, axe) == []


def test_axe_finds_nothing_where_the_page_failed(browser: Browser, address: str, axe: str) -> None:
    browser.open(address.replace("index.html", "index.html?"), 390)
    browser.wait("document.body.dataset.state === 'ready'")
    browser.run(
        "document.getElementById('count').value = 1; document.getElementById('prompt').value = 'a '.repeat(5000)"
    )
    browser.run("document.getElementById('go').click()")
    browser.wait("!document.body.classList.contains('busy')")
    assert not browser.run("document.getElementById('trouble').hidden")
    assert complaints(browser, axe) == []


def test_a_keyboard_is_enough(browser: Browser, address: str) -> None:
    browser.open(address, 1000)
    browser.wait("document.body.dataset.state === 'ready'")
    reached = []
    for _ in range(14):
        browser.press("Tab", 9)
        reached.append(browser.run("document.activeElement.id || document.activeElement.className"))
    assert reached[:11] == [
        "skip", "model", "other", "device", "prompt", "count", "temperature", "top-k", "seed", "go", reached[10],
    ]  # fmt: skip
    browser.run("document.getElementById('count').value = 6; document.getElementById('go').focus()")
    browser.press("Enter", 13)
    browser.wait("document.querySelectorAll('.token').length > 0 && !document.body.classList.contains('busy')")
    assert browser.run("document.activeElement.id") == "go"
    browser.run("document.getElementById('place').focus()")
    browser.press("ArrowLeft", 37)
    assert browser.run("document.getElementById('place-number').textContent") == "5"
