"""A site becomes a Space in one commit; what is not a whole site of ours is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hub_user import Client
from loopback import Hub
from site_server import ASSETS

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.web.site import write_site

SPACE = "spaces/me/page"


@pytest.fixture(scope="module")
def whole(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not ASSETS.is_dir():
        pytest.skip(f"the page's packages are not in {ASSETS}: `make web-test` fetches them")
    artifact = open_artifact(next(converted.rglob("onnx-int8/pythia_quant.json")).parent)
    return write_site([artifact], tmp_path_factory.mktemp("space") / "site", assets=ASSETS).folder


@pytest.fixture
def site(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "site"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_site_becomes_a_private_static_space_in_one_commit(client: Client, hub: Hub, site: Path) -> None:
    said = client.succeed("publish", site, "--space", "--repo-id", "me/page", "--yes")
    assert "read back and compared" in said
    repo, there = hub.repos[SPACE], hub.files(SPACE)
    assert (repo.private, repo.sdk, len(hub.commits(SPACE))) == (True, "static", 2)
    card = there.pop("README.md").decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["sdk"] == "static"
    assert front["custom_headers"]["cross-origin-opener-policy"] == "same-origin"
    assert "Everything else." in card or "has no card" in card or "could not be read" in card
    del there[".gitattributes"]
    assert there == content(site)


def test_a_second_upload_sends_what_changed_and_removes_what_is_gone(client: Client, hub: Hub, site: Path) -> None:
    hub.put(SPACE, "main", content(site) | {"models/old/model.json": b"{}", "theirs.txt": b"x", ".gitattributes": b""})
    hub.repos[SPACE].private = True
    client.succeed("publish", site, "--space", "--repo-id", "me/page", "--yes")
    there = hub.files(SPACE)
    assert "models/old/model.json" not in there
    assert there["theirs.txt"] == b"x"
    assert not [line for line in hub.writes if line.startswith("PUT")]
    assert "was there already" in client.succeed("publish", site, "--space", "--repo-id", "me/page", "--yes")


def test_a_public_space_is_made_only_when_asked_for(client: Client, hub: Hub, site: Path) -> None:
    client.succeed("publish", site, "--space", "--public", "--repo-id", "me/page", "--yes")
    assert not hub.repos[SPACE].private
    assert "is public" in client.refuse("publish", site, "--space", "--repo-id", "me/page", "--yes")


def test_a_dry_run_writes_nothing(client: Client, hub: Hub, site: Path) -> None:
    (plan,) = json.loads(client.succeed("publish", site, "--space", "--repo-id", "me/page", "--dry-run", "--json"))
    assert (plan["private"], plan["create_repo"]) == (True, True)
    assert not [line for line in hub.writes if "/commit/" in line or "create" in line]


@pytest.mark.parametrize("damage", ["page", "weights", "vendor", "foreign", "link", "model", "gone"])
def test_what_is_not_a_whole_site_is_refused(client: Client, hub: Hub, site: Path, damage: str) -> None:
    model = next(site.glob("models/*/model.json"))
    record = json.loads(model.read_text())
    expected = {
        "page": "js/app.js was altered",
        "weights": "has other content",
        "vendor": "is not the file of the recorded package",
        "foreign": "holds secret.txt, which is no part of a site",
        "link": "no ordinary file",
        "model": "model.json is damaged",
        "gone": "is missing",
    }[damage]
    data = model.parent / record["data"]
    if damage == "page":
        (site / "js/app.js").write_text("alert(1)")
    elif damage == "weights":
        data.write_bytes(b"\0" + data.read_bytes()[1:])
    elif damage == "vendor":
        (site / "vendor/tokenizers.js").write_text("alert(1)")
    elif damage == "foreign":
        (site / "secret.txt").write_text("x")
    elif damage == "link":
        (site / "secret.txt").symlink_to("/etc/passwd")
    elif damage == "model":
        model.write_text(json.dumps(record | {"notice": 3}))
    else:
        data.unlink()
    said = client.refuse("publish", site, "--space", "--repo-id", "me/page", "--yes")
    assert expected in said
    assert len(said.strip().splitlines()) <= 3
    assert not hub.writes


def test_an_artifact_or_another_folder_is_no_site(client: Client, tmp_path: Path) -> None:
    said = client.refuse("publish", tmp_path, "--space", "--repo-id", "me/page", "--yes")
    assert "is no site of ours" in said
