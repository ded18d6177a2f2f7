"""Publish a plan: upload its files in one commit, report how far the upload is, and read the commit back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO, cast

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard, constants
from huggingface_hub import errors as hub_errors

from pythia_quant.core.errors import HubError, PythiaQuantError
from pythia_quant.core.hub_answers import commit_id
from pythia_quant.core.hub_client import FAILURES, api, ask, explained, passing, status_of
from pythia_quant.core.hub_files import Content, head, read_tree
from pythia_quant.core.interrupt import interrupted
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.text import redacted
from pythia_quant.publishing.plan import Plan, RepoType, Shipment


def uploads(files: Sequence[tuple[str, Content]], progress: Progress) -> list[CommitOperationAdd]:
    """Return the operations that add files to a commit; progress receives the MB of all files that have been read.

    Args:
        files: the path of each file in the repository, and its content.
        progress: receives how far the upload is.
    """
    upload = _Upload(sum(content.bytes for _, content in files), progress)
    return [_addition(path, content, upload) for path, content in files]


class _Upload:
    """Counts the bytes that several threads have read of all files."""

    def __init__(self, total_bytes: int, progress: Progress) -> None:
        self._megabytes, self._progress = max(1, total_bytes // 1_000_000), progress
        self._positions: dict[str, int] = {}
        self._lock = Lock()

    def read_to(self, path: str, position: int) -> None:
        """Record that a file has been read up to a byte."""
        with self._lock:
            self._positions[path] = position
            done = min(sum(self._positions.values()) // 1_000_000, self._megabytes - 1)
        self._progress.step("uploading, MB", done, self._megabytes)


def _addition(path: str, content: Content, upload: _Upload) -> CommitOperationAdd:
    addition = _Addition(path_in_repo=path, path_or_fileobj=content.data)
    addition.upload = upload
    addition.upload_info.sha256 = bytes.fromhex(content.sha256)  # else the client would read the file to hash it
    return addition


class _Addition(CommitOperationAdd):
    upload: _Upload

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:  # noqa: ARG002 - our own progress instead
        if isinstance(self.path_or_fileobj, bytes):
            yield io.BytesIO(self.path_or_fileobj)
        else:
            with _Reader(io.FileIO(Path(cast(str, self.path_or_fileobj)))) as file:
                file.path, file.upload = self.path_in_repo, self.upload
                yield cast(BinaryIO, file)


class _Reader(io.BufferedReader):
    path: str
    upload: _Upload

    def read(self, size: int | None = -1) -> bytes:
        if interrupted.is_set():  # else Ctrl-C would wait in the main thread until everything is sent
            raise InterruptedError
        content = super().read(size)
        self.upload.read_to(self.path, self.tell())
        return content


_BUSY, _OVERTAKEN = (409, 423), 412
"""Statuses of a refused commit: the hub is busy with another commit; the branch has a newer commit."""


@dataclass(frozen=True)
class Published:
    """Where an artifact has been published.

    Attributes:
        url: the address of the commit.
        commit: the commit that has the artifact.
        uploaded: the number of files that were sent; 0 if the repository already had them.
    """

    url: str
    commit: str
    uploaded: int


def publish(plan: Plan[Shipment], progress: Progress = SILENT) -> Published:
    """Upload the files of a plan in one commit, and check the commit.

    Args:
        plan: the plan.
        progress: receives how far the upload is.

    Raises:
        HubError: something failed. The branch is then as it was before, unless the message says otherwise.
    """
    repo_id, revision = plan.publication.target.repo_id, plan.publication.target.revision
    kind = plan.publication.repo_type
    if plan.nothing_to_do and plan.head:
        return Published(_url(kind, repo_id, plan.head), plan.head, 0)
    if constants.HF_HUB_OFFLINE:
        raise explained(hub_errors.OfflineModeIsEnabled(), plan.where)
    progress.step("asking the hub who we are", 0, 1)
    ask(api().whoami, plan.where)
    _check_card(plan)
    parent = plan.head or _create(plan)
    additions = uploads([(file.path, file.content) for file in plan.uploads], progress)
    onto = "main" if plan.create_branch else revision
    _send(
        lambda: api().preupload_lfs_files(repo_id, additions, revision=onto, free_memory=False, repo_type=kind),
        plan.where,
    )
    progress.step("committing", 0, 1)
    if plan.create_branch:
        ask(lambda: api().create_branch(repo_id, branch=revision, revision=parent, exist_ok=True), plan.where)
    try:
        commit = _commit(plan, parent, [*additions, *(CommitOperationDelete(path) for path in plan.deleted)])
    except (HubError, KeyboardInterrupt):
        if plan.create_branch:
            _remove_branch(repo_id, revision, parent)
        raise
    progress.step("reading it back", 0, 1)
    _check(plan, commit)
    return Published(_url(kind, repo_id, commit), commit, len(plan.uploads))


def _url(kind: RepoType, repo_id: str, commit: str) -> str:
    return f"{constants.ENDPOINT}/{'spaces/' if kind == 'space' else ''}{repo_id}/tree/{commit}"


def _check_card(plan: Plan[Shipment]) -> None:
    """Ask the hub whether it accepts the card, before anything is uploaded."""

    def refusal() -> str:
        try:
            ModelCard(plan.publication.card).validate(repo_type=plan.publication.repo_type)
        except ValueError as error:
            return " ".join(redacted(str(error)).split())[:300] or "no reason given"
        return ""

    reason = ask(refusal, plan.where)
    if not reason:
        return
    raise HubError(f"the hub does not accept the card: {reason}", where=plan.where, hint="this is a defect: report it")


def _create(plan: Plan[Shipment]) -> str:
    """Create the repository and return its first commit."""
    repo_id, kind = plan.publication.target.repo_id, plan.publication.repo_type
    sdk = "static" if kind == "space" else None
    # exist_ok, because the call is repeated if its answer is lost, although the hub has created the repository.
    ask(
        lambda: api().create_repo(repo_id, private=plan.private or None, exist_ok=True, repo_type=kind, space_sdk=sdk),
        repo_id,
    )
    return head(repo_id, repo_type=kind)


def _send(call: Callable[[], None], where: str) -> None:
    """Upload once, because huggingface_hub itself repeats each request that fails."""
    try:
        call()
    except PythiaQuantError:
        raise
    except Exception as error:  # the client raises many kinds on answers that it does not expect
        failure = explained(error, where)
    else:
        return
    raise failure


def _commit(plan: Plan[Shipment], parent: str, operations: list[CommitOperationAdd | CommitOperationDelete]) -> str:
    """Make the commit and return its hash. After a lost answer, look for the commit before making it again."""
    repo_id, revision = plan.publication.target.repo_id, plan.publication.target.revision
    title, kind = plan.publication.title, plan.publication.repo_type

    def commit() -> str:
        info = api().create_commit(
            repo_id, operations, commit_message=title, revision=revision, parent_commit=parent, repo_type=kind
        )
        return commit_id(info.oid)

    def landed(failure: BaseException) -> str | None:
        if not (passing(failure) or status_of(failure) in (*_BUSY, _OVERTAKEN)):
            return None
        latest = ask(lambda: head(repo_id, revision, kind), plan.where)
        if latest == parent:
            return None
        if _differences(plan, latest):
            raise HubError(
                f"somebody else committed meanwhile ({latest[:12]}), and what is there now is not this",
                where=plan.where,
                hint="look at what changed there, and run again",
            )
        return latest

    return ask(commit, plan.where, busy=_BUSY, unheard=landed)


def _differences(plan: Plan[Shipment], commit: str) -> list[str]:
    """Return a sentence for each difference between a commit and the plan."""
    there = read_tree(plan.publication.target.repo_id, commit, plan.publication.repo_type).files
    differences = [
        f"{file.path} is missing" if file.path not in there else f"{file.path} has other content"
        for file in plan.files
        if file.path not in there or not there[file.path].holds(file.content)
    ]
    return differences + [f"{path} is still there" for path in plan.deleted if path in there]


def _check(plan: Plan[Shipment], commit: str) -> None:
    """Compare the size and the hash of every file that the hub has now with those of the plan."""
    differences = _differences(plan, commit)
    if differences:
        raise HubError(
            f"the hub holds something else than was sent: {'; '.join(differences)}",
            where=f"{plan.where}, commit {commit[:12]}",
            hint="run again to mend it",
        )


def _remove_branch(repo_id: str, revision: str, parent: str) -> None:
    """Remove a branch that was created for a commit that failed, unless it has another commit. Errors are ignored."""
    with suppress(HubError, *FAILURES):
        if head(repo_id, revision) == parent:
            api().delete_branch(repo_id, branch=revision)
