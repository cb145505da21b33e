"""Files on the Hugging Face hub and back, against a hub on this machine: nothing is lost, overwritten, believed or told."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_bitstream import generate
from test_cli import Outcome, refuses, succeeds, unchanged, vqrf

from vqrf.cli import view as cli_view
from vqrf.codec.about import About
from vqrf.codec.bitstream import encode
from vqrf.fields.field import RadianceField
from vqrf.fields.preview import preview
from vqrf.hub import Held, HubError, address_of
from vqrf.rendering.poster import first_view, poster_of

HAS_LIBRARY = importlib.util.find_spec("huggingface_hub") is not None
needs_library = pytest.mark.skipif(not HAS_LIBRARY, reason="the extra `hub` is not installed")

if HAS_LIBRARY:
    from fake_hub import TOKEN, FakeHub, Kept, as_json, blob_of, error

NAME = "ann/ball"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """The library reads its settings when it is imported, which nothing else in this process does."""
    with FakeHub() as hub, pytest.MonkeyPatch.context() as patch:
        settings = {"ENDPOINT": hub.address, "HOME": tmp_path_factory.mktemp("home"), "HUB_DISABLE_XET": 1}
        for name, value in settings.items():
            patch.setenv(f"HF_{name}", str(value))
        patch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
        assert "huggingface_hub" not in sys.modules
        yield hub
        hub.shutdown()
        assert hub.strange == []  # such as reports of how the library is used, and questions of what they should hold


@pytest.fixture
def hub(server: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    """A hub that is empty, and a person with a token in a folder of their own."""
    server.reset()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    return server


@pytest.fixture(scope="module")
def ball(ball_field: RadianceField) -> bytes:
    """A file that says much of itself."""
    view = first_view(ball_field)
    about = About("A ball", "A. N.", "CC BY 4.0", "It is <b>round</b>.", view=view, poster=poster_of(ball_field, view))
    test = {"psnr": 31.25, "ssim": 0.95, "n_views": 7}
    small = preview(ball_field)
    said = {"test": test, "training": {"n_train": 43}}
    return encode(replace(small, metadata=about.added_to({**small.metadata, **said})))


@pytest.fixture
def file(ball: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "ball.vqrf"
    path.write_bytes(ball)
    return path


def silent_about_the_token(outcome: Outcome) -> Outcome:
    assert TOKEN not in outcome.out + outcome.err
    return outcome


# ------------------------------------------------------------------------------------------------------ there and back


@needs_library
def test_what_is_pushed_is_what_is_pulled(hub: FakeHub, file: Path, ball: bytes) -> None:
    outcome = silent_about_the_token(succeeds("push", file, NAME))
    assert f"{hub.address}/{NAME}" in outcome.out and outcome.out.count("\n") == 1 and outcome.err == ""
    assert set(hub.files(NAME)) == {"ball.vqrf", "README.md", "poster.webp"}
    assert hub.files(NAME)["ball.vqrf"] == ball and hub.files(NAME)["poster.webp"][8:12] == b"WEBP"
    outcome = silent_about_the_token(succeeds("pull", NAME, "--out", "again.vqrf"))
    assert Path("again.vqrf").read_bytes() == ball and outcome.err == ""
    assert {path.name for path in Path().iterdir()} == {"ball.vqrf", "again.vqrf"}


@needs_library
def test_the_library_gives_its_token_to_the_hub_alone(hub: FakeHub, file: Path) -> None:
    succeeds("push", file, NAME)
    succeeds("pull", NAME, "--out", "again.vqrf")
    assert any(host == "localhost" for host, _ in hub.tokens)  # where large files lie
    assert {token for host, token in hub.tokens if host == "localhost"} == {None}


@needs_library
def test_a_hub_whose_address_holds_a_password_is_put_into_no_card(
    hub: FakeHub, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", constants.ENDPOINT.replace("://", "://ann:secret@"))
    outcome = vqrf("push", file, NAME)
    assert outcome.code == 2 and "HF_ENDPOINT" in outcome.err and "secret" not in outcome.out + outcome.err


@needs_library
def test_the_card_says_what_the_file_says(hub: FakeHub, file: Path, ball: bytes) -> None:
    from huggingface_hub import ModelCard

    succeeds("push", file, NAME)
    card = ModelCard(hub.files(NAME)["README.md"].decode())
    said = card.data.to_dict()
    assert (said["license"], said["library_name"]) == ("cc-by-4.0", "vqrf")
    assert card.data.tags == ["vqrf", "radiance-field", "3d"]
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {"psnr": 31.25, "ssim": 0.95, "bytes": len(ball)}
    for words in (
        "# A ball",
        "(poster.webp)",
        "A. N.",
        "CC BY 4.0",
        r"It is \<b\>round\</b\>.",
        "31.25 dB on 7 photos",
        "43 photos",
    ):
        assert words in card.text
    assert "vqrf view hf://ann/ball/ball.vqrf" in card.text and f"{hub.address}/{NAME}/resolve/main/ball.vqrf" in card.text


@needs_library
def test_a_second_push_of_the_same_writes_nothing(hub: FakeHub, file: Path) -> None:
    succeeds("push", file, NAME)
    before, wrote = hub.repositories[NAME].head, hub.wrote()
    outcome = succeeds("push", file, NAME)
    assert "holds these bytes already" in outcome.out and outcome.err == ""
    assert (hub.repositories[NAME].head, hub.wrote()) == (before, wrote)
    tree = json.loads(succeeds("push", file, NAME, "--json").out)
    assert (tree["commit"], tree["written"], tree["repository"]) == (before, [], NAME)


@needs_library
def test_only_what_is_not_there_is_written(hub: FakeHub, file: Path) -> None:
    succeeds("push", file, NAME, "--no-card")
    assert set(hub.files(NAME)) == {"ball.vqrf"}
    tree = json.loads(succeeds("push", file, NAME, "--page", "--json").out)
    assert tree["written"] == ["README.md", "ball.html", "poster.webp"]
    assert b"<vqrf-viewer" in hub.files(NAME)["ball.html"] and b"(ball.html)" in hub.files(NAME)["README.md"]


@needs_library
def test_a_file_that_says_little_of_itself_is_published_with_a_hint(hub: FakeHub, ball_field: RadianceField) -> None:
    Path("plain.vqrf").write_bytes(encode(preview(ball_field)))
    said = succeeds("push", "plain.vqrf", NAME).err.splitlines()
    assert len(said) == 2 and "--licence" in said[0] and "--poster new" in said[1]
    assert set(hub.files(NAME)) == {"plain.vqrf", "README.md"} and b"license" not in hub.files(NAME)["README.md"]
    assert succeeds("push", "plain.vqrf", NAME).err == ""


@needs_library
def test_a_pull_of_what_is_here_fetches_nothing(hub: FakeHub, file: Path) -> None:
    succeeds("push", file, NAME)
    hub.requests.clear()
    assert "already" in succeeds("pull", NAME).out
    assert not any("resolve" in request for request in hub.requests)
    file.write_bytes(b"mine")
    refuses("pull", NAME, saying=("ball.vqrf", "--overwrite"))
    assert file.read_bytes() == b"mine"
    succeeds("pull", NAME, "--overwrite")
    assert file.read_bytes() == hub.files(NAME)["ball.vqrf"]


@needs_library
def test_a_private_repository_is_made_private_and_is_read_with_a_token_alone(
    hub: FakeHub, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds("push", file, NAME, "--private")
    assert hub.repositories[NAME].is_private
    succeeds("push", file, NAME, "--private")
    succeeds("pull", NAME, "--out", "a.vqrf")
    monkeypatch.delenv("HF_TOKEN")
    refuses("pull", NAME, "--out", "b.vqrf", saying=(NAME, "no such repository"))
    hub.repositories[NAME].is_private = False
    succeeds("pull", NAME, "--out", "b.vqrf")  # what is public needs no token
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    refuses("push", file, NAME, "--private", saying=("--private", "public"))


@needs_library
def test_a_revision_is_pinned(hub: FakeHub, file: Path, ball: bytes) -> None:
    succeeds("push", file, NAME)
    first = hub.repositories[NAME].head
    hub.put(NAME, {"ball.vqrf": encode(generate.make_field(0, (2, 3, 5), widths=[], n_channels=3))})
    for words in ((NAME, "--revision", first), (f"hf://{NAME}@{first}/ball.vqrf",)):
        tree = json.loads(succeeds("pull", *words, "--out", "old.vqrf", "--overwrite", "--json").out)
        assert tree["commit"] == first and Path("old.vqrf").read_bytes() == ball
    succeeds("pull", NAME, "--out", "new.vqrf")
    assert Path("new.vqrf").read_bytes() != ball
    refuses("pull", NAME, "--revision", "v9", "--out", "x.vqrf", saying=(NAME, "no revision v9"))
    refuses("pull", f"{NAME}@v9", "--revision", "v8", saying=("--revision",))


@needs_library
def test_of_several_scenes_one_has_to_be_named(hub: FakeHub, file: Path, ball: bytes) -> None:
    hub.put(NAME, {"a/one.vqrf": ball, "two.vqrf": ball, "README.md": b"x"})
    with unchanged(Path()):
        refuses("pull", NAME, saying=("a/one.vqrf, two.vqrf",))
        refuses("pull", f"{NAME}/three.vqrf", saying=("no file three.vqrf", "two.vqrf"))
        refuses("pull", f"{NAME}/README.md", saying=("README.md", "not a .vqrf file"))
    succeeds("pull", f"{NAME}/a/one.vqrf")
    assert Path("one.vqrf").read_bytes() == ball
    hub.put("ann/empty", {})
    refuses("pull", "ann/empty", saying=("ann/empty", "no .vqrf file"))


@needs_library
def test_a_scene_is_shown_from_the_hub(hub: FakeHub, file: Path, ball: bytes) -> None:
    succeeds("push", file, NAME)
    source, name = cli_view.source_of(f"hf://{NAME}")
    assert source() == ball and name == "ball.vqrf"
    refuses("view", "hf://ann/nothing", saying=("ann/nothing", "no such repository"))
    refuses("view", "hf://ann", saying=("USER/NAME",))


# ------------------------------------------------------------------------------------------------- nothing is overwritten


@needs_library
def test_other_bytes_are_replaced_only_where_that_is_said(hub: FakeHub, file: Path) -> None:
    hub.put(NAME, {"ball.vqrf": b"other", "README.md": b"written by hand"})
    before = hub.files(NAME)
    refuses("push", file, NAME, saying=(NAME, "README.md, ball.vqrf", "--overwrite", "--no-card"))
    assert hub.files(NAME) == before and hub.wrote() == []
    succeeds("push", file, NAME, "--overwrite", "--no-card")
    assert hub.files(NAME) == {"ball.vqrf": file.read_bytes(), "README.md": b"written by hand"}
    succeeds("push", file, NAME, "--overwrite")
    assert hub.files(NAME)["README.md"].startswith(b"---\n")


@needs_library
def test_a_commit_of_somebody_else_in_between_is_not_overwritten(hub: FakeHub, file: Path) -> None:
    hub.put(NAME, {})

    def race(kept: Kept) -> None:
        hub.put(NAME, {"ball.vqrf": b"theirs"})

    hub.before_commit = race
    outcome = silent_about_the_token(vqrf("push", file, NAME))
    assert outcome.code == 2 and "has changed meanwhile" in outcome.err
    assert hub.files(NAME) == {"ball.vqrf": b"theirs"}


@needs_library
def test_what_is_no_whole_file_is_not_published(hub: FakeHub, file: Path, ball: bytes) -> None:
    file.write_bytes(ball[:-1])
    refuses("push", file, NAME, saying=(file, "at byte"))
    file.with_suffix(".bin").write_bytes(ball)
    refuses("push", file.with_suffix(".bin"), NAME, saying=("ends in .vqrf",))
    refuses("push", file, f"{NAME}/x.vqrf", saying=("USER/NAME",))
    assert hub.requests == []


# ----------------------------------------------------------------------------------------------- nothing is believed


@needs_library
@pytest.mark.parametrize(
    ("spoil", "saying"),
    [
        (lambda data: data[:-5], "ended after"),
        (lambda data: data + b"more", "more arrives than"),
        (lambda data: data * 50, "more arrives than"),
        (lambda data: data[:100] + b"\0" + data[101:], "other bytes"),
    ],
    ids=["cut off", "longer", "much longer", "altered"],
)
def test_what_arrives_is_what_the_repository_says_or_nothing(hub: FakeHub, file: Path, spoil: object, saying: str) -> None:
    succeeds("push", file, NAME)
    hub.sent = spoil  # type: ignore[assignment]
    with unchanged(Path()):
        refuses("pull", NAME, "--out", "again.vqrf", saying=(f"{NAME}/ball.vqrf", saying))


@needs_library
def test_a_connection_that_breaks_leaves_nothing(hub: FakeHub, file: Path, ball: bytes) -> None:
    succeeds("push", file, NAME)
    digest = hashlib.sha256(ball).hexdigest()
    hub.answers[f"GET /cdn/{digest}"] = (200, {"Content-Length": str(len(ball)), "Connection": "close"}, ball[:99])
    with unchanged(Path()):
        refuses("pull", NAME, "--out", "again.vqrf", saying=(NAME, "cannot be reached"))


@needs_library
def test_a_file_that_is_damaged_in_the_repository_is_not_put_in_place(hub: FakeHub, ball: bytes, file: Path) -> None:
    hub.put(NAME, {"ball.vqrf": ball[:-1] + bytes([ball[-1] ^ 1])})
    with unchanged(Path()):
        refuses("pull", NAME, "--out", "again.vqrf", saying=(f"{NAME}/ball.vqrf", "at byte"))
        refuses("pull", NAME, "--overwrite", saying=("at byte",))


@needs_library
def test_a_file_larger_than_the_memory_for_it_is_not_fetched(hub: FakeHub, file: Path) -> None:
    succeeds("push", file, NAME)
    hub.requests.clear()
    with unchanged(Path()):
        refuses("pull", NAME, "--out", "again.vqrf", "--max-memory", "1kB", saying=("ball.vqrf", "the limit is"))
        hub.said_size = lambda _: 1 << 50
        refuses("pull", NAME, "--out", "again.vqrf", saying=("ball.vqrf", "the limit is"))
    assert not any("resolve" in request for request in hub.requests)


@needs_library
@pytest.mark.parametrize("size", [None, -1, "many", 1.5])
def test_a_size_that_is_none_is_refused(hub: FakeHub, file: Path, size: object) -> None:
    succeeds("push", file, NAME)
    hub.said_size = lambda _: size
    with unchanged(Path()):
        refuses("pull", NAME, "--out", "again.vqrf", saying=(NAME,))


@needs_library
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: (200, {"Content-Type": "text/html"}, b"<html>Please log in"), id="a page"),
        pytest.param(lambda: as_json([]), id="a list"),
        pytest.param(lambda: as_json({"id": NAME}), id="too little"),
        pytest.param(lambda: as_json({"id": NAME, "sha": "../../etc", "private": False, "siblings": []}), id="no commit"),
        pytest.param(lambda: error(503, "", "Down for\nmaintenance"), id="down"),
    ],
)
def test_an_answer_that_is_none_is_one_line(hub: FakeHub, file: Path, answer: object) -> None:
    hub.answers[f"GET /api/models/{NAME}"] = answer()  # type: ignore[operator]
    with unchanged(Path()):
        for verb in (("pull", NAME), ("push", file, NAME)):
            refuses(*verb, saying=(NAME,))


@needs_library
def test_a_name_in_a_repository_is_no_way_out_of_the_folder(hub: FakeHub, ball: bytes, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    os.chdir(tmp_path / "inner")
    hub.put(NAME, {"../../evil.vqrf": ball})
    hub.put("ann/odd", {"a\x1b[31m.vqrf": ball})
    with unchanged(tmp_path):
        refuses("pull", NAME, saying=(NAME, "a name that none can have"))
        refuses("pull", "ann/odd", saying=("ann/odd", "--out"))
    assert not any("resolve" in request for request in hub.requests)


# ------------------------------------------------------------------------------------------------------- nothing is told


@needs_library
@pytest.mark.parametrize(
    ("token", "saying"),
    [
        (None, "no token"),
        ("", "no token"),
        ("hf_wrong", "does not take the token"),
        ("hf_\x01\xe4odd", "characters that none has"),
    ],
)
def test_a_token_that_is_missing_or_wrong_is_one_line_without_it(
    hub: FakeHub, file: Path, token: str | None, saying: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    for debug in ("", "1"):
        monkeypatch.setenv("VQRF_DEBUG", debug)
        outcome = vqrf("push", file, NAME)
        assert outcome.code == 2 and NAME in outcome.err and saying in outcome.err
        assert not token or (token not in outcome.err and "odd" not in outcome.err)
    assert hub.wrote() == [] and hub.repositories == {}


@needs_library
@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_token_in_what_the_hub_says_is_left_out(hub: FakeHub, file: Path, verb: str) -> None:
    said = f"no: Bearer {TOKEN} and {TOKEN}"
    hub.answers[f"GET /api/models/{NAME}"] = error(500, "", said)
    hub.answers["POST /api/repos/create"] = error(403, "", f"not {TOKEN}")
    outcome = silent_about_the_token(vqrf(verb, *([file] if verb == "push" else []), NAME))
    assert outcome.code == 2 and "500" in outcome.err
    hub.answers.pop(f"GET /api/models/{NAME}")
    outcome = silent_about_the_token(vqrf("push", file, NAME))
    assert outcome.code == 2 and "may not do this" in outcome.err


@needs_library
@pytest.mark.parametrize(
    ("setting", "value", "saying"),
    [("ENDPOINT", "http://127.0.0.1:9", "cannot be reached"), ("HF_HUB_OFFLINE", True, "HF_HUB_OFFLINE is set")],
)
def test_without_a_network_it_is_one_line(
    hub: FakeHub, file: Path, setting: str, value: object, saying: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens at port 9."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, setting, value)
    with unchanged(Path()):
        for words in (("pull", NAME), ("push", file, NAME)):
            refuses(*words, saying=(NAME, saying))
    assert hub.requests == []


def test_without_the_library_it_is_said_how_to_get_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for words in (("push", file, NAME), ("pull", NAME, "--out", file.with_name("a.vqrf")), ("view", f"hf://{NAME}")):
        refuses(*words, saying=("pip install huggingface_hub",))


def test_the_command_line_starts_without_the_library(file: Path) -> None:
    code = f"""
import sys
from vqrf.cli.main import main
main(["info", {str(file)!r}])
assert not [name for name in sys.modules if name.partition(".")[0] in ("huggingface_hub", "httpx", "httpx2", "yaml")]
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)


# ------------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "text", ["", "ann", "ann/", "/ball", "ann/ball/", "hf://datasets/ann/ball", "a b/c", "ann/ball@/x.vqrf"]
)
def test_what_is_no_repository_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="USER/NAME"):
        address_of(text)


def test_the_digests_are_those_of_git_and_of_large_files(tmp_path: Path) -> None:
    """Git's own program is asked, so that no bytes are taken for others that it holds."""
    data = bytes(range(256)) * 3
    try:
        asked = subprocess.run(["git", "hash-object", "--stdin"], input=data, capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("needs git")
    blob = asked.stdout.decode().strip()
    assert Held(len(data), blob, False).is_of(data) and not Held(len(data), blob, False).is_of(data[::-1])
    large = Held(len(data), hashlib.sha256(data).hexdigest(), True)
    assert large.is_of(data) and not large.is_of(data[:-1] + b"x") and not replace(large, n_bytes=5).is_of(data)
    if HAS_LIBRARY:
        assert blob == blob_of(data)


def test_an_error_of_the_hub_names_its_repository() -> None:
    said = HubError("ann/ball", "is gone")
    assert (said.filename, said.strerror) == ("ann/ball", "is gone")
