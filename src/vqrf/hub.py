"""Model repositories of the Hugging Face hub: what one holds, a file of it read up to a limit, and files added to it.

huggingface_hub, the extra `hub`, does all that needs the network, and is imported where it is used. It is asked to send no
telemetry and to say nothing by itself. Whatever it raises becomes a `HubError` in one line, in which no token stands.

A server is trusted no more than a file where it sends one: a size that it says is checked before anything is fetched, what it
sends is cut off there, and the bytes must be those of which its list of files has the digest. That list has no limit of ours,
as the library reads it whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import time
import urllib.parse
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vqrf import __version__
from vqrf.memory import text_of_bytes, usual_budget

SCHEME = "hf://"
ENDING = ".vqrf"
MAIN = "main"
"""The branch that is read where no revision is named, and written to."""

ANSWER_SECONDS = 60.0
"""For a server to answer, and between two pieces of what it sends."""
FETCH_SECONDS = 600.0
"""For all of a file."""
CHUNK_BYTES = 1 << 16
MANY = 12
"""Names that a message lists."""

NO_TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"
NO_TOKEN = "there is no token; hf auth login keeps one, or HF_TOKEN names it"

_ADDRESS = re.compile(r"([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?", re.ASCII)
_TOKEN = re.compile(r"[!-~]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHER_KINDS = ("datasets/", "spaces/", "models/")


class HubError(OSError):
    """The hub, or the way to it, does not do what was asked for; `filename` is the repository, `strerror` the reason."""

    def __init__(self, repository: str, reason: str, number: int = errno.EIO) -> None:
        super().__init__(number, reason, repository)


@dataclass(frozen=True)
class Address:
    """A repository, or a file of one.

    Attributes:
      repository: USER/NAME.
      revision: a branch, a tag or a commit; None for the newest.
      path: of a file; None where none is named.
    """

    repository: str
    revision: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Held:
    """A file of a repository, as its list of files has it.

    Attributes:
      digest: SHA-256 of its bytes where they are kept apart as a large file, or else git's SHA-1 of them as a blob; in hex.
    """

    n_bytes: int
    digest: str
    is_large: bool

    def is_of(self, data: bytes) -> bool:
        """Whether these are its bytes."""
        if len(data) != self.n_bytes:
            return False
        digest = self.begin_digest()
        digest.update(data)
        return bool(digest.hexdigest() == self.digest)

    def begin_digest(self) -> Any:
        """What bytes are given to, piece by piece, to get a digest of this kind."""
        if self.is_large:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.n_bytes, usedforsecurity=False)


@dataclass(frozen=True)
class Repository:
    """What a repository holds at a commit."""

    name: str
    commit: str
    is_private: bool
    files: Mapping[str, Held] = field(default_factory=dict)


def is_hub(name: str) -> bool:
    """Whether a name is an address of the hub, and not of a file."""
    return name.lower().startswith(SCHEME)


def address_of(text: str) -> Address:
    """What people write for a repository or a file in it. A slash in a revision is written as %2F.

    Raises:
      ValueError: it is no such address.

    >>> address_of("hf://ann/lego@v1/scenes/lego.vqrf")
    Address(repository='ann/lego', revision='v1', path='scenes/lego.vqrf')
    >>> address_of("ann/lego")
    Address(repository='ann/lego', revision=None, path=None)
    """
    address = text[len(SCHEME) :] if is_hub(text) else text
    found = _ADDRESS.fullmatch(address)
    if found is None or address.startswith(_OTHER_KINDS):
        raise ValueError(f"{text}: expected a model repository of the Hugging Face hub, USER/NAME or USER/NAME/FILE{ENDING}")
    repository, revision, path = found.groups()
    return Address(repository, None if revision is None else urllib.parse.unquote(revision), path)


def safe_name(path: str) -> str | None:
    """The name of a file of a repository as one in a folder here; None where it would be no such name.

    >>> safe_name("scenes/lego.vqrf"), safe_name("a/.."), safe_name("C:\\\\lego.vqrf")
    ('lego.vqrf', None, None)
    """
    name = PurePosixPath(path).name
    return None if name in ("", ".", "..") or not name.isprintable() or set(name) & set('\\:*?"<>|') else name


def url_of(repository: str) -> str:
    """Where people look at a repository.

    Raises:
      HubError: the address of the hub, HF_ENDPOINT, holds a name or a password, which nobody else is to read.
    """
    with _reasons(repository):
        endpoint = _library().constants.ENDPOINT
    if "@" in urllib.parse.urlsplit(endpoint).netloc:
        raise HubError(repository, "HF_ENDPOINT holds a name or a password, which a card would show", errno.EINVAL)
    return f"{endpoint}/{repository}"


def expect_token(repository: str) -> None:
    """Refuse to write where nobody says who writes.

    Raises:
      HubError: there is no token, or it is none.
    """
    with _reasons(repository):
        token = _library().get_token()
    if token is None:
        raise HubError(repository, NO_TOKEN, errno.EACCES)
    if not _TOKEN.fullmatch(token):
        raise HubError(repository, "the token holds characters that none has", errno.EACCES)


def find_repository(name: str, revision: str | None = None) -> Repository | None:
    """What a repository holds; None where there is none, or none that may be read.

    Raises:
      HubError: there is no such revision, or no answer.
    """
    with _reasons(name, revision):
        hub = _library()
        try:
            info = _api(hub).repo_info(name, revision=revision, timeout=ANSWER_SECONDS, files_metadata=True)
        except hub.errors.GatedRepoError:
            raise
        except hub.errors.RepositoryNotFoundError:
            return None
        files = {file.rfilename: _held(file) for file in info.siblings or ()}
        commit, is_private = info.sha, bool(info.private)
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise ValueError("the answer names no commit")
    return Repository(name, commit, is_private, files)


def open_repository(address: Address) -> Repository:
    """What the repository of an address holds.

    Raises:
      HubError: there is none, or no such revision, or no answer.
    """
    found = find_repository(address.repository, address.revision)
    if found is None:
        raise HubError(address.repository, "there is no such repository, or the token may not read it", errno.ENOENT)
    return found


def create_repository(name: str, *, private: bool) -> Repository:
    """Make a repository, and say what it holds.

    Raises:
      HubError: that is not allowed, or there is no answer.
    """
    with _reasons(name):
        _api(_library()).create_repo(name, private=True if private else None, exist_ok=True)
    return open_repository(Address(name))


def choose_scene(found: Repository, path: str | None) -> str:
    """The .vqrf file of a repository that is meant.

    Raises:
      HubError: there is no such file, or none is named and there are several.
    """
    scenes = sorted(name for name in found.files if name.lower().endswith(ENDING))
    listed = ", ".join(scenes[:MANY]) + (", ..." if len(scenes) > MANY else "")
    if path is not None:
        if path not in found.files:
            rest = f"; it has {listed}" if scenes else ""
            raise HubError(found.name, f"has no file {path}{rest}", errno.ENOENT)
        return path
    if not scenes:
        raise HubError(found.name, f"has no {ENDING} file", errno.ENOENT)
    if len(scenes) > 1:
        raise HubError(found.name, f"has several scenes; name one as {found.name}/FILE: {listed}", errno.EINVAL)
    return scenes[0]


def fetch(found: Repository, path: str, max_bytes: int | None = None) -> bytes:
    """The bytes of a file as they are at the commit.

    Args:
      max_bytes: None for half of the usual budget of memory (see `vqrf.memory`), as it is there twice for a moment.

    Raises:
      HubError: it is larger, does not arrive in time, or arrives as other bytes than the list of files says.

    Safe for untrusted servers.
    """
    held, limit = found.files[path], usual_budget() // 2 if max_bytes is None else max_bytes
    name = f"{found.name}/{path}"
    if held.n_bytes > limit:
        said = f"has {text_of_bytes(held.n_bytes)}, the limit is {text_of_bytes(limit)}"
        raise HubError(name, f"{said} (--max-memory says how much may be taken)", errno.EFBIG)
    data, digest = bytearray(), held.begin_digest()
    with _reasons(name), closing(_chunks(found, path)) as chunks:
        for chunk in chunks:
            data += chunk
            digest.update(chunk)
            if len(data) > held.n_bytes:
                raise HubError(name, f"more arrives than the {held.n_bytes} bytes that the repository says")
    if len(data) < held.n_bytes:
        raise HubError(name, f"ended after {len(data)} of {held.n_bytes} bytes")
    if digest.hexdigest() != held.digest:
        raise HubError(name, "arrived as other bytes than the repository says that it holds")
    return bytes(data)


def add_files(found: Repository, files: Mapping[str, bytes], message: str) -> str:
    """Write files in one commit on the branch `main`, or nothing; files of these names are replaced.

    Args:
      found: what the repository held. If it holds something else by now, nothing is written.

    Returns:
      The name of the commit.

    Raises:
      HubError: that is not allowed, the repository has changed, or there is no answer.
    """
    with _reasons(found.name):
        hub = _library()
        added = [hub.CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in files.items()]
        made = _api(hub).create_commit(found.name, added, commit_message=message, parent_commit=found.commit)
    return str(made.oid)


def _chunks(found: Repository, path: str) -> Generator[bytes, None, None]:
    """What a server sends as a file, as it arrives. Compressed as HTTP allows it would have no bound, so it is not unpacked."""
    hub = _library()
    headers = hub.utils.build_hf_headers(library_name="vqrf", library_version=__version__) | {"Accept-Encoding": "identity"}
    url = hub.hf_hub_url(found.name, path, revision=found.commit)
    deadline = time.monotonic() + FETCH_SECONDS
    with hub.get_session().stream("GET", url, headers=headers, timeout=ANSWER_SECONDS) as response:
        hub.hf_raise_for_status(response)
        for chunk in response.iter_raw(CHUNK_BYTES):
            if time.monotonic() > deadline:
                raise HubError(f"{found.name}/{path}", f"did not arrive in {FETCH_SECONDS:.0f} seconds", errno.ETIMEDOUT)
            yield chunk


def _held(file: Any) -> Held:
    """A file of the list that a server gives.

    Raises:
      ValueError: its name is none that git has, or its size or its digest is missing.
    """
    if not isinstance(file.rfilename, str) or set(file.rfilename.split("/")) & {"", ".", ".."}:
        raise ValueError(f"the list of files has a name that none can have: {file.rfilename}")
    large = file.lfs
    n_bytes, digest = (large.size, large.sha256) if large else (file.size, file.blob_id)
    if type(n_bytes) is not int or n_bytes < 0 or not isinstance(digest, str):
        raise ValueError(f"the list of files says no size or no digest of {file.rfilename}")
    return Held(n_bytes, digest, bool(large))


def _library() -> Any:
    """huggingface_hub, with the wish that it neither reports nor prints."""
    os.environ.setdefault(NO_TELEMETRY, "1")
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    huggingface_hub.utils.logging.set_verbosity(logging.CRITICAL)
    huggingface_hub.utils.disable_progress_bars()
    return huggingface_hub


def _api(hub: Any) -> Any:
    hub.get_session().timeout = ANSWER_SECONDS
    return hub.HfApi(library_name="vqrf", library_version=__version__)


@contextmanager
def _reasons(name: str, revision: str | None = None) -> Iterator[None]:
    """Whatever the library raises, of which there is no list, as one line without a token."""
    try:
        yield
    except (HubError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise HubError(name, _without_token(_reason_of(error, revision))) from None  # a traceback would show what has the token


def _reason_of(error: Exception, revision: str | None) -> str:
    errors = _library().errors
    if isinstance(error, errors.GatedRepoError):
        return "is gated: its page on the hub says who may read it"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or the token may not write to it"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {revision}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and this needs the network"
    if isinstance(error, errors.HfHubHTTPError):
        status, said = error.response.status_code, error.server_message or ""
        usual = {
            401: "the hub does not take the token; hf auth login keeps another",
            403: "the token may not do this",
            409: "the repository changes at this moment; try again",
            412: "the repository has changed meanwhile, and nothing was written; try again",
        }
        return f"{usual.get(status, f'the hub answers {status}')}{f' ({said})' if said else ''}"
    if type(error).__module__.startswith("http") or isinstance(error, OSError):  # of httpx or httpx2, by the version
        return f"the hub cannot be reached: {str(error) or type(error).__name__}"
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return _reason_of(error.__cause__, revision)
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"what the hub answers cannot be read: {type(error).__name__}: {error}"


def _without_token(reason: str) -> str:
    token = _library().get_token()
    return re.sub(r"(?i)(bearer|authorization)\b.*", "...", reason.replace(token, "...") if token else reason, flags=re.DOTALL)
