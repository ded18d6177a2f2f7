"""A site as a static Space of a hub: its files, all of them checked, and a card made from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from pythia_quant.core.errors import ArgumentError, storing
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.foreign_files import read_object
from pythia_quant.core.hub_files import Content, Tree
from pythia_quant.publishing.base_model import CARD
from pythia_quant.publishing.foreign_markdown import code, quoted
from pythia_quant.publishing.project import this_project
from pythia_quant.publishing.publication import Target, refuse_others
from pythia_quant.web.model_files import MODEL
from pythia_quant.web.packages import pins
from pythia_quant.web.site import LICENSES, MODELS, SITE, VENDOR, is_site

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_OURS = (f"{MODELS}/", f"{VENDOR}/", "js/")


@dataclass(frozen=True)
class SpacePublication:
    """A site as a Space will have it; see :class:`~pythia_quant.publishing.plan.Shipment`.

    Attributes:
        folder: the site.
        target: the Space.
        site_files: the content of the site's files, by their paths.
        names: the names of its models.
        card: the README.md of the Space.
    """

    folder: Path
    target: Target
    site_files: dict[str, Content]
    names: list[str]
    card: str
    repo_type: Literal["model", "space"] = "space"

    @property
    def files(self) -> dict[str, Content]:
        """The site's files, and the card."""
        return self.site_files | {CARD: Content.from_bytes(self.card.encode())}

    @property
    def title(self) -> str:
        """The title of the commit."""
        return f"Publish {', '.join(self.names)}"[:200]

    @property
    def despite(self) -> list[str]:
        """Nothing: a site has no gates."""
        return []

    @property
    def unknown(self) -> list[str]:
        """Nothing: the hub is asked for nothing."""
        return []

    def earlier_files(self, tree: Tree) -> set[str]:
        """Return the files of the site that is in a Space now.

        Raises:
            HubError: the Space holds something else.
        """
        if SITE not in tree.files:
            refuse_others(self.target.repo_id, tree)
        return {path for path in tree.files if path.startswith(_OURS)}


def prepare_space(folder: Path, repo_id: str) -> SpacePublication:
    """Check every file of a site. No hub is asked.

    Args:
        folder: a site that this version of the program wrote.
        repo_id: the Space, ``owner/name``.

    Raises:
        ArgumentError: the folder is no site of ours; a file is missing, altered, or no part of a site.
        StorageError: it cannot be read.
    """
    with storing(folder):
        if not (folder.is_dir() and is_site(folder)):
            hint = "`pythia-quant web ARTIFACT --out DIR` makes one"
            raise ArgumentError("is no site of ours", where=str(folder), hint=hint)
        there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
        if link := next((name for name, path in there.items() if path.is_symlink() or not path.is_file()), None):
            raise _damaged(folder, f"{link} is no ordinary file")
        site = _object(folder, SITE)
        names = site.get("models")
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise _damaged(folder, f"{SITE} names no models")
        _check_page(there, folder)
        _check_vendor(there, folder)
        models = [_checked_model(name, there, folder) for name in names]
        known = {SITE, f"{VENDOR}/{LICENSES}", *_page(), *(f"{VENDOR}/{name}" for name in _vendored())}
        known |= {f"{MODELS}/{model['name']}/{name}" for model in models for name in (MODEL, *model["files"])}
        if missing := sorted(known - set(there)):
            raise _damaged(folder, f"{missing[0]} is missing")
        if foreign := sorted(set(there) - known):
            raise ArgumentError(f"holds {foreign[0]}, which is no part of a site", where=str(folder), hint="remove it")
        contents = {name: Content(path, path.stat().st_size, sha256(path)) for name, path in sorted(there.items())}
    try:
        card = _card(models)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _damaged(folder, f"a {MODEL} is damaged") from None
    return SpacePublication(folder, Target(repo_id), contents, names, card)


def _damaged(folder: Path, what: str) -> ArgumentError:
    return ArgumentError(what, where=str(folder), hint="make the site again with `pythia-quant web`")


def _object(folder: Path, name: str) -> dict[str, Any]:
    return read_object(folder / name, ArgumentError, "make the site again with `pythia-quant web`")


def _page() -> dict[str, bytes]:
    """Return the files of the page, by their paths in a site."""
    page = files(__package__).joinpath("page")
    return {path.name: path.read_bytes() for path in page.iterdir() if path.is_file()} | {
        f"js/{path.name}": path.read_bytes() for path in page.joinpath("js").iterdir() if path.is_file()
    }


def _vendored() -> list[str]:
    return [name for name, file in pins()[1].items() if file.path != "LICENSE"]


def _check_page(there: dict[str, Path], folder: Path) -> None:
    for name, content in _page().items():
        if name in there and there[name].read_bytes() != content:
            raise _damaged(folder, f"{name} was altered, or is of another version of this program")


def _check_vendor(there: dict[str, Path], folder: Path) -> None:
    for name in _vendored():
        path = there.get(f"{VENDOR}/{name}")
        if path and not pins()[1][name].is_content(path.read_bytes()):
            raise _damaged(folder, f"{VENDOR}/{name} is not the file of the recorded package")


def _checked_model(name: str, there: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Compare a model's files with what its ``model.json`` says; return that."""
    if not _NAME.fullmatch(name) or f"{MODELS}/{name}/{MODEL}" not in there:
        raise _damaged(folder, f"{SITE} names a model that is not there")
    record = _object(folder, f"{MODELS}/{name}/{MODEL}")
    listed = record.get("files")
    if record.get("name") != name or not isinstance(listed, dict) or not all(map(_NAME.fullmatch, listed)):
        raise _damaged(folder, f"{MODELS}/{name}/{MODEL} is damaged")
    for file, entry in listed.items():
        path = there.get(f"{MODELS}/{name}/{file}")
        if path is None:
            raise _damaged(folder, f"{MODELS}/{name}/{file} is missing")
        if not isinstance(entry, dict) or sha256(path) != entry.get("sha256"):
            raise _damaged(folder, f"{MODELS}/{name}/{file} has other content than when the site was made")
    return record


def _card(models: list[dict[str, Any]]) -> str:
    """Return the card: front matter of a static Space, the models, and what they are not for.

    The headers let a browser use several threads; the hub's documentation of a Space's configuration names them.
    """
    front = {
        "title": ", ".join(model["name"] for model in models)[:100],
        "sdk": "static",
        "pinned": False,
        "tags": ["pythia", "onnx", "pythia-quant"],
        "custom_headers": {
            "cross-origin-embedder-policy": "require-corp",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "cross-origin",
        },
    }
    sources = sorted({model["source"]["model"] for model in models if model["source"].get("commit")})
    front |= {"models": sources} if sources else {}
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", "",
        "# A quantized Pythia, in a web page", "",
        "The models run in the visitor's browser; what is typed does not leave it.", "",
        "| model | source | bits a weight | MB |", "|---|---|---|---|",
        *(_line(model) for model in models), "",
    ]  # fmt: skip
    for text in dict.fromkeys(map(_notice, models)):
        lines += ["## What it is not for", "", text, ""]
    project = this_project()
    tool = f"[{project.name}]({project.url})" if project.url else project.name
    lines += [f"Made with {tool}. The licences of what it runs on are in `{VENDOR}/{LICENSES}`.", ""]
    return "\n".join(lines)


def _line(model: dict[str, Any]) -> str:
    source = model["source"]
    origin = code(f"{source['model']} {source['revision'] or ''}").replace("|", "\\|")
    return f"| {model['name']} | {origin} | {float(model['bits_per_weight']):.2f} | {int(model['bytes']) / 1e6:,.1f} |"


def _notice(model: dict[str, Any]) -> str:
    notice = model["notice"]
    parts = [("- " if part["kind"] == "item" else "") + part["text"] for part in notice["parts"]]
    return quoted("\n\n".join([f"As {notice['origin']} says:", *parts] if parts else [notice["missing"]]))
