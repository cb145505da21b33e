"""Results that machines share by a URL: what one sends another fetches, whole or not at all; a local folder needs no store."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vqrf.bench.store import Store, is_shared, store_of
from vqrf.cli.ends import explain
from vqrf.cli.main import main
from vqrf.fields.run import FIELD_FILE
from vqrf.files import TEMPORARY

fsspec = pytest.importorskip("fsspec", reason="needs fsspec, which knows stores by their URLs")
URL = "memory://bucket/tables"


@pytest.fixture
def memory() -> Iterator[Any]:
    """A store in this process, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Store, Store]:
    """Two that share the store, each with a folder of its own."""
    stores = Store(tmp_path / "one", URL), Store(tmp_path / "two", URL)
    for store in stores:
        store.folder.mkdir()
    return stores


def write(store: Store, name: str, data: bytes) -> Path:
    path = store.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_what_one_machine_sends_another_fetches_and_nothing_else(memory: Any, machines: tuple[Store, Store]) -> None:
    one, two = machines
    names = "runs/a/config.json", f"runs/a/{FIELD_FILE}", "files/x.vqrf"
    for name in (*names, "runs/ab/other", f"runs/a/{TEMPORARY.format(1)}"):
        write(one, name, name.encode())
    one.send(one.folder / "runs/a", one.folder / "files/x.vqrf", one.folder / "none")
    two.fetch(two.folder / "runs/a", two.folder / "files/x.vqrf", two.folder / "none")
    found = {path.relative_to(two.folder).as_posix(): path.read_bytes() for path in two.folder.rglob("*") if path.is_file()}
    assert found == {name: name.encode() for name in names}


def test_a_run_folder_has_its_field_last_wherever_it_goes(
    memory: Any, machines: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machines
    for name in (FIELD_FILE, "config.json", "z.th"):
        write(one, f"runs/a/{name}", b"1")
    order: list[str] = []

    def watch(name: str) -> None:
        whole = getattr(memory, name)

        def copy(source: str, target: str) -> None:
            order.append(source.split("/")[-1])
            if len(order) == 3:
                raise ConnectionError("lost")
            whole(source, target)

        monkeypatch.setattr(memory, name, copy)

    watch("put_file")
    with pytest.raises(OSError, match="lost") as caught:
        one.send(one.folder / "runs/a")
    assert caught.value.filename == URL
    assert order[-1] == FIELD_FILE and not memory.exists(f"/bucket/tables/runs/a/{FIELD_FILE}")
    one.send(one.folder / "runs/a")
    order.clear()
    watch("get_file")
    with pytest.raises(OSError, match="lost"):
        two.fetch(two.folder / "runs/a")
    assert order[-1] == FIELD_FILE and sorted(path.name for path in (two.folder / "runs/a").iterdir()) == [
        "config.json",
        "z.th",
    ]
    two.fetch(two.folder / "runs/a")
    assert (two.folder / "runs/a" / FIELD_FILE).read_bytes() == b"1", "what failed is tried again"


def test_rows_are_those_of_the_store_and_what_is_going_on_in_a_folder_stays(memory: Any, machines: tuple[Store, Store]) -> None:
    one, two = machines
    rows, run = write(two, "fields.csv", b"of another store"), write(two, "runs/a/checkpoint", b"half-way")
    two.fetch(rows, run.parent)
    assert not rows.exists() and run.read_bytes() == b"half-way"
    for text in (b"first", b"second"):
        one.send(write(one, "fields.csv", text))
        two.fetch(rows)
        assert rows.read_bytes() == text
    one.remove(one.folder / "fields.csv", one.folder / "none")
    two.fetch(rows)
    assert not rows.exists() and not (one.folder / "fields.csv").exists()


def test_a_name_that_leads_out_of_the_folder_is_refused(
    memory: Any, machines: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "find", lambda path, detail: {"/bucket/tables/runs/a/../../../stolen": {"size": 1}})
    with pytest.raises(OSError, match="leads out of it"):
        machines[0].fetch(machines[0].folder / "runs/a")
    assert not list(machines[0].folder.parent.rglob("stolen"))


@pytest.mark.parametrize("name", ["tables", "./tables", "file://{}/tables", "local://{}/tables"])
def test_a_local_folder_is_itself_and_needs_no_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    out = name.format(tmp_path.resolve().as_posix())
    store = store_of(out)
    assert not is_shared(out) and store == Store((tmp_path / "tables").resolve())
    path = write(store, "runs/a/x", b"1")
    store.expect_writable()
    store.send(path.parent)
    store.fetch(path, path.parent, store.folder / "none")
    assert path.read_bytes() == b"1"
    store.remove(path)
    assert not path.exists()


@pytest.mark.parametrize("out", ["file://tables", "local://a/b", "FILE://x/y"])
def test_a_local_folder_on_a_host_is_refused(out: str) -> None:
    with pytest.raises(OSError, match="names a host") as raised:
        store_of(out)
    assert raised.value.filename == out


def test_a_url_through_several_protocols_is_one() -> None:
    assert is_shared("simplecache::s3://bucket/tables")


def test_each_url_has_a_folder_of_its_own_below_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stores = [store_of(url) for url in ("s3://bucket/tables", "s3://bucket/tables/", "s3://bucket/other")]
    assert stores[0] == stores[1] != stores[2] and stores[0].url == "s3://bucket/tables"
    assert len({store.folder for store in stores}) == 2
    assert all(store.folder.is_relative_to(tmp_path.resolve()) and is_shared(store.url) for store in stores)


@pytest.mark.parametrize(
    ("words", "out", "saying"),
    [
        (["table", "base"], "zzz://bucket/tables", "zzz://bucket/tables: Protocol not known"),
        (["table", "base"], "memory://bucket/tables", "memory://bucket/tables: read-only"),
        (["rd", "--runs", "a"], URL, "only tables are shared by a URL"),
        (["alternatives", "--runs", "a"], URL, "only tables are shared by a URL"),
    ],
)
def test_a_store_that_takes_nothing_is_refused_before_anything_is_made(
    words: list[str], out: str, saying: str, memory: Any, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str, data: bytes) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(memory, "pipe_file", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *words, "--data", str(tmp_path / "none"), "--out", out])
    assert saying in capsys.readouterr().err


def test_without_fsspec_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        Store(tmp_path, URL).expect_writable()
    assert explain(caught.value) == (2, "this needs fsspec: pip install fsspec")
