"""The verbs `push` and `pull`: a file on the Hugging Face hub, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from vqrf.cli.terminal import (
    NO_LIMITS,
    LimitFlags,
    UsageError,
    Writing,
    expect_writable,
    named,
    print_json,
    read_bytes,
    say,
    tell,
)
from vqrf.cli.view import expect_drawable
from vqrf.codec.about import About, about_of
from vqrf.codec.bitstream import verify
from vqrf.codec.compressed import Compressed
from vqrf.files import read_file, write_atomically
from vqrf.hub import (
    ENDING,
    Address,
    Repository,
    add_files,
    address_of,
    choose_scene,
    create_repository,
    expect_token,
    fetch,
    find_repository,
    open_repository,
    safe_name,
    url_of,
)
from vqrf.memory import decoding_budget
from vqrf.rendering.card import CARD_FILE, POSTER_FILE, card_of
from vqrf.rendering.page import page_with_scene


@dataclass(frozen=True)
class Push:
    """Publish a .vqrf file on the Hugging Face hub, with its picture and a model card that is made from it."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """Model repository on the hub. If there is none, it is made."""
    private: bool = False
    """If the repository is made, make it private."""
    card: bool = True
    """Write the model card README.md, and the file's picture beside it."""
    page: bool = False
    """Add the page that vqrf export writes, as NAME.html."""
    overwrite: bool = False
    """Replace files of the repository that have the same names and other bytes."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        address = _address_of(self.repository)
        if address.revision is not None or address.path is not None:
            raise UsageError(f"{self.repository}: expected USER/NAME alone; files go to its branch main, under their own names")
        name = address.repository
        if safe_name(self.scene.name) != self.scene.name or self.scene.suffix.lower() != ENDING:
            raise UsageError(f"{self.scene}: expected a name that ends in {ENDING} and that any system takes, as it keeps it")
        data = read_bytes(self.scene)
        with named(self.scene):
            small = verify(data, max_bytes=decoding_budget())
            if self.page:
                expect_drawable(small)
        expect_token(name)
        files = self._files(small, data, name)
        found = self._found(name)
        fresh = {path: part for path, part in files.items() if path not in found.files or not found.files[path].is_of(part)}
        if (taken := sorted(set(fresh) & set(found.files))) and not self.overwrite:
            others = "; --no-card leaves the card as it is" if CARD_FILE in taken else ""
            raise UsageError(f"{name}: holds other bytes as {', '.join(taken)}; give --overwrite{others}")
        commit = found.commit
        if fresh:
            commit = add_files(found, fresh, f"{'Replace' if taken else 'Add'} {self.scene.name}")
            self._hint(about_of(small.metadata))
        if self.as_json:
            written = {"commit": commit, "written": sorted(fresh), "bytes": len(data)}
            print_json({"repository": name, "url": url_of(name), "file": self.scene.name, **written})
        elif fresh:
            say(False, f"{self.scene}: {len(data)} bytes at {url_of(name)}; wrote {', '.join(fresh)}, commit {commit[:8]}")
        else:
            say(False, f"{self.scene}: {url_of(name)} holds these bytes already")

    def _files(self, small: Compressed, data: bytes, repository: str) -> dict[str, bytes]:
        """What the repository is to hold, by name."""
        file, about = self.scene.name, about_of(small.metadata)
        page = f"{self.scene.stem}.html" if self.page else None
        files = {file: data}
        if self.card:
            files[CARD_FILE] = card_of(small, file, len(data), url_of(repository), page=page)
            files |= {} if about.poster is None else {POSTER_FILE: about.poster}
        if page:
            files[page] = page_with_scene(data, file, about)
        return files

    def _found(self, name: str) -> Repository:
        """What the repository holds, made if it is not there."""
        found = find_repository(name)
        if found is None:
            return create_repository(name, private=self.private)
        if self.private and not found.is_private:
            raise UsageError(f"--private: {name} is there and public; its settings on the hub change that")
        return found

    def _hint(self, about: About) -> None:
        """Say what the card would be better with."""
        if self.card and not about.licence:
            tell(False, f"{self.scene}: names no licence, so the card names none; vqrf meta --licence gives it one")
        if self.card and about.poster is None:
            tell(False, f"{self.scene}: has no picture for the card; vqrf meta --poster new draws one")


@dataclass(frozen=True)
class Pull:
    """Fetch a .vqrf file from the Hugging Face hub. It is checked, as vqrf verify does, before it is put in place."""

    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME[/FILE]")]
    """Model repository on the hub, and the file in it if it has several."""
    out: Path | None = None
    """File to write. Without it, a file of the same name in this folder."""
    revision: str | None = None
    """Branch, tag or commit. Without it, the newest."""
    overwrite: bool = False
    """Replace a file that exists already."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        address = _address_of(self.repository)
        if self.revision is not None and address.revision is not None:
            raise UsageError(f"--revision: {self.repository} names a revision already")
        if self.revision is not None:
            address = replace(address, revision=self.revision)
        if self.out is not None:
            self._expect_folder(self.out)
        found = open_repository(address)
        path = choose_scene(found, address.path)
        name = f"{found.name}/{path}"
        own_name = safe_name(path)
        if self.out is None and own_name is None:
            raise UsageError(f"{name}: is no name for a file here; give --out")
        out = self.out or Path(str(own_name))
        held = found.files[path]
        is_here = out.is_file() and out.stat().st_size == held.n_bytes and held.is_of(read_file(out))
        if not is_here:
            expect_writable(out, Writing(overwrite=self.overwrite))
            data = fetch(found, path)
            with named(name):
                verify(data, max_bytes=decoding_budget())
            write_atomically(out, data)
        if self.as_json:
            said = {"repository": found.name, "file": path, "commit": found.commit}
            print_json({"out": str(out), "bytes": held.n_bytes, "is_new": not is_here, **said})
        elif is_here:
            say(False, f"{out}: holds the bytes of {name} already")
        else:
            say(False, f"{out}: {held.n_bytes} bytes of {name} at commit {found.commit[:8]}, every section is whole")

    @staticmethod
    def _expect_folder(out: Path) -> None:
        """Refuse, before the network is asked, where nothing can be written."""
        if out.is_dir() or not out.resolve().parent.is_dir():
            expect_writable(out, Writing(overwrite=True))


def _address_of(text: str) -> Address:
    try:
        return address_of(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
