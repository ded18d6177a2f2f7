"""Fetch what others made from a hub: only the files that are read, none of them code."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from pythia_quant.artifacts.pull import place_file
from pythia_quant.core.errors import HubError
from pythia_quant.core.files import cache_folder, fresh_folder, target_lock
from pythia_quant.core.foreign_files import COMMIT, is_file_name
from pythia_quant.core.hub_client import check_name
from pythia_quant.core.hub_files import check_download, fetch, read_tree
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.text import printable
from pythia_quant.model.source_name import SCHEME
from pythia_quant.model.tokenizer import SETTINGS, TOKENIZER

_COMPANIONS = ("config.json", "quantize_config.json", TOKENIZER, SETTINGS)
"""The files beside the weights that are read, none of which is code."""
SINGLE_FILES = (".onnx", ".gguf")
"""The endings of files that are an artifact by themselves."""
_WEIGHTS = re.compile(r"[^/]*\.safetensors(?:\.index\.json)?|pytorch_model[^/]*\.bin(?:\.index\.json)?")


class Named(NamedTuple):
    """What ``hf://owner/name@revision/path`` names: the path is empty for the whole repository."""

    repo_id: str
    revision: str
    file: str


def parse_named(place: str) -> Named:
    """Understand ``hf://owner/name``, ``hf://owner/name@revision`` and ``hf://owner/name@revision/path/to/file``.

    As in huggingface_hub, a slash in a revision before a path is written %2F.

    Raises:
        HubError: it is no such name.
    """
    owner, _, rest = place.removeprefix(SCHEME).rstrip("/").partition("/")
    file = ""
    if "/" in rest and rest.endswith(SINGLE_FILES):
        rest, _, file = rest.partition("/")
        if not is_file_name(file):
            raise HubError("names no file of a repository", where=printable(place), hint="give hf://owner/name/file")
    name, _, revision = rest.partition("@")
    check_name(f"{owner}/{name}", place)
    return Named(f"{owner}/{name}", unquote(revision) or "main", file)


def is_kept(place: str) -> bool:
    """Say whether what others made is in the cache at the commit that a place names, so that no hub need be asked.

    Raises:
        HubError: the name is not valid.
    """
    named = parse_named(place)
    return COMMIT.fullmatch(named.revision) is not None and (_kept(named) / named.revision).is_dir()


def _kept(named: Named) -> Path:
    """Return the folder of the cache that has a folder for each commit of what is named."""
    return cache_folder("foreign") / "--".join(part.replace("/", "--") for part in (named.repo_id, named.file) if part)


def pull_foreign(place: str, progress: Progress = SILENT) -> Path:
    """Return the folder or file of what others made in the cache. If it is not there, download it first.

    Weights in safetensors or pickles, or one graph with its data, are fetched with configuration and tokenizer; nothing
    else of the repository is. The folder is complete or absent.

    Args:
        place: the name, see :func:`parse_named`.
        progress: receives how far the download is.

    Raises:
        HubError: the name is not valid, or the repository has nothing that is measured, or several such files.
        SourceError: the hub cannot be asked, or a download is damaged.
    """
    named = parse_named(place)
    kept = _kept(named)
    if is_kept(place):  # what it names never changes, so the hub need not be asked again
        return _within(kept / named.revision, named, place)
    tree = read_tree(named.repo_id, named.revision)
    chosen, _ = _chosen(named, list(tree.files), place)
    folder = kept / tree.commit
    with target_lock(folder, wait=True):
        if not folder.is_dir():
            with fresh_folder(folder) as scratch:
                for index, name in enumerate(chosen):
                    progress.step(f"downloading {name}", index, len(chosen))
                    size = tree.files[name].bytes
                    path = fetch(named.repo_id, name, tree.commit, progress=progress, size=size)
                    if path is None:
                        raise HubError(f"the file {name} is missing", where=place, hint="it was removed meanwhile")
                    check_download(path)
                    place_file(path, scratch / name)
    return _within(folder, named, place)


def _within(folder: Path, named: Named, place: str) -> Path:
    """Return the artifact in a folder of the cache: the folder, or its one file that is measured."""
    _, single = _chosen(named, [path.relative_to(folder).as_posix() for path in folder.rglob("*")], place)
    return folder / single


def _chosen(named: Named, names: list[str], place: str) -> tuple[list[str], str]:
    """Return the names of the files to fetch, and the one that is the artifact if it is a single file."""
    plain = [name for name in names if is_file_name(name)]
    weights = [name for name in plain if _WEIGHTS.fullmatch(name)]
    graphs = [name for name in plain if name.endswith(SINGLE_FILES)]
    if named.file:
        if named.file not in graphs:
            raise HubError(f"there is no {named.file}", where=place, hint=_listed(graphs))
        graphs = [named.file]
    elif weights:
        if any(name.endswith(".safetensors") for name in weights):  # the pickles beside them hold the same
            weights = [name for name in weights if ".safetensors" in name]
        return [*(name for name in _COMPANIONS if name in plain), *weights], ""
    if len(graphs) != 1:
        what = "holds several files that can be measured" if graphs else "holds nothing that is measured"
        raise HubError(what, where=place, hint=_listed(graphs))
    (graph,) = graphs
    data = [name for name in plain if name.startswith(graph) and name != graph]
    return [*(name for name in _COMPANIONS if name in plain), graph, *data], graph


def _listed(graphs: list[str]) -> str:
    if not graphs:
        return "give a repository with weights in safetensors, a graph, or a GGUF file"
    some = ", ".join(str(PurePosixPath(name)) for name in graphs[:8])
    return f"give one with its path, as hf://owner/name/{graphs[0]}; there are: {some}"
