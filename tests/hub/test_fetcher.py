"""Bytes of one file under every fault of a network, a hub and a disk: right in the end, or an error with a cure and nothing half."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from modules.core.errors import HubError, InvalidRequest
from modules.hub.fetcher import Fetcher, FetchPolicy
from modules.hub.repository import RemoteFile
from modules.hub.transport import Access, Limits, Transport, is_private
from tests.hub.conftest import quick_policy, transport, trust
from tests.hub.hub_server import COMMIT, HubFile, HubServer

SIZE = 1 << 20
DATA = random.Random(7).randbytes(SIZE)
SMALL = b'{"model_type": "llama"}'


def remote(path: str, data: bytes) -> RemoteFile:
    file = HubFile(data)
    return RemoteFile(path, len(data), file.sha256 if file.lfs else "", "" if file.lfs else file.oid)


MODEL = remote("m.gguf", DATA)


@pytest.fixture
def target(tmp_path: Path, hub: HubServer) -> Path:
    hub.add("me/tiny", {"m.gguf": DATA, "config.json": SMALL, "empty.txt": b""})
    return tmp_path / "in" / "m.gguf"


async def fetch(access: Access, target: Path, policy: FetchPolicy, file: RemoteFile = MODEL) -> tuple[int, list[int]]:
    seen: list[int] = []
    async with Transport(access, policy.limits, trust()) as wire:
        moved = await Fetcher(wire, "me/tiny", COMMIT, policy).fetch(file, target, seen.append)
    return moved, seen


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def assert_whole(target: Path, data: bytes = DATA) -> None:
    assert target.read_bytes() == data
    assert names(target) == [target.name]


async def test_a_file_arrives_whole_and_a_second_time_without_a_request(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    moved, seen = await fetch(access, target, policy)
    assert_whole(target)
    assert (moved, seen[-1], seen) == (SIZE, SIZE, sorted(seen))
    assert [request.headers.get("accept-encoding") for request in hub.seen] == ["identity"] * 2
    hub.forget()
    assert await fetch(access, target, policy) == (0, [SIZE])
    assert hub.seen == []


@pytest.mark.parametrize(("path", "data"), [("config.json", SMALL), ("empty.txt", b"")])
async def test_small_files_are_checked_by_their_git_hash(access: Access, target: Path, policy: FetchPolicy, path: str, data: bytes) -> None:
    await fetch(access, target.with_name(path), policy, remote(path, data))
    assert_whole(target.with_name(path), data)


PASSING = [
    [("drop", 3, 300_000, {})], [("truncate", 1, 500_000, {})], [("corrupt", 1, 0, {})], [("status", 2, 503, {})], [("status", 1, 408, {})],
    [("status", 1, 429, {"Retry-After": "0"})], [("status", 1, 403, {})], [("hang", 1, 0.8, {})], [("slow", 1, 4 << 20, {})],
    [("drop", 1, 400_000, {}), ("norange", 1, 0, {})], [("drop", 1, 400_000, {}), ("shifted", 1, 0, {})], [("drop", 1, 0, {})],
]  # fmt: skip


@pytest.mark.parametrize("faults", PASSING, ids=lambda faults: "-".join(fault[0] for fault in faults))
async def test_faults_that_pass(
    hub: HubServer, access: Access, target: Path, policy: FetchPolicy, faults: list[tuple[str, int, float, dict[str, str]]]
) -> None:
    for kind, count, value, headers in faults:
        hub.fault(kind, "^/lfs/", count=count, value=value, headers=headers)
        policy = quick_policy(silence_s=0.4) if kind == "hang" else policy
    await fetch(access, target, policy)
    assert_whole(target)


async def test_after_a_reset_only_the_rest_is_asked_for(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    hub.fault("drop", "^/lfs/", count=3, value=300_000)
    moved, _ = await fetch(access, target, policy)
    starts = [request.start for request in hub.gets("cdn")]
    assert len(starts) == 4
    assert starts == sorted(starts)
    assert starts[0] == 0 < starts[1]
    assert moved == SIZE
    signatures = {request.path.partition("?")[2] for request in hub.gets("cdn")}
    assert len(signatures) == 4  # a fresh signed address for each try


LASTING = [
    ("status", 503, "server"), ("status", 429, "rate_limited"), ("status", 404, "storage"), ("status", 403, "storage"), ("status", 416, "storage"), ("truncate", 0, "short"), ("drop", 0, "unreachable"),
    ("corrupt", 0, "checksum"), ("overlong", 5000, "size"), ("hang", 0.7, "timeout"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "reason"), LASTING)
async def test_faults_that_last_become_an_error(
    hub: HubServer, access: Access, target: Path, policy: FetchPolicy, kind: str, value: float, reason: str
) -> None:
    hub.fault(kind, "^/lfs/", count=-1, value=value)
    policy = quick_policy(silence_s=0.4) if kind == "hang" else policy
    with pytest.raises(HubError) as failed:
        await fetch(access, target, replace(policy, retries=1))
    assert failed.value.details["reason"] == reason
    assert failed.value.message.endswith(".")
    assert "signature" not in failed.value.message
    assert not target.exists()


async def test_wrong_bytes_are_fetched_again_once_and_then_kept_aside(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    hub.fault("corrupt", "^/lfs/", count=-1)
    with pytest.raises(HubError, match=r"\.m\.gguf\.bad"):
        await fetch(access, target, policy)
    assert len(hub.gets("cdn")) == 2
    assert (target.parent / ".m.gguf.bad").stat().st_size == SIZE
    hub.faults.clear()
    hub.fault("corrupt", "^/lfs/", count=1)
    await fetch(access, target, policy)
    assert_whole(target)


async def test_a_range_that_is_always_ignored_ends(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    hub.fault("forgetful", "^/lfs/", count=-1, value=300_000)  # from the beginning, and reset in the middle, for ever
    with pytest.raises(HubError):
        await fetch(access, target, replace(policy, retries=1))
    assert len(hub.gets("cdn")) < 20


async def test_retry_after_is_kept_within_its_limit(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    hub.fault("status", "^/lfs/", value=429, headers={"Retry-After": "86400"})
    begun = asyncio.get_running_loop().time()
    await fetch(access, target, policy)
    assert policy.longest_asked_wait_s <= asyncio.get_running_loop().time() - begun < 5


async def test_what_was_left_is_hashed_again_and_foreign_leftovers_dropped(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    hub.fault("truncate", "^/lfs/", count=1, value=400_000)
    hub.fault("status", "^/lfs/", count=-1, value=503)
    with pytest.raises(HubError):
        await fetch(access, target, policy)
    part = target.with_name(".m.gguf.part")
    kept = part.stat().st_size
    assert kept > 0
    hub.faults.clear()
    hub.forget()
    raw = bytearray(part.read_bytes())
    raw[10] ^= 1  # the disk lied: found at the end, fetched anew once
    part.write_bytes(raw)
    await fetch(access, target, policy)
    assert_whole(target)
    assert [request.start for request in hub.gets("cdn")][:2] == [kept, 0]
    target.unlink()
    part.write_bytes(b"of another file")
    await fetch(access, target, policy)
    assert_whole(target)


async def test_cancelling_keeps_what_is_there_and_resumes(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    hub.fault("slow", "^/lfs/", value=2 << 20)
    task = asyncio.create_task(fetch(access, target, policy))
    while hub.sent() < SIZE // 4:
        await asyncio.sleep(0.01)
    begun = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - begun < 0.4
    assert not target.exists()
    moved, _ = await fetch(access, target, policy)
    assert_whole(target)
    assert 0 < moved < SIZE


@pytest.mark.parametrize("kind", ["hang", "status"])
async def test_cancelling_ends_a_wait_at_once(hub: HubServer, access: Access, target: Path, policy: FetchPolicy, kind: str) -> None:
    hub.fault(kind, "^/lfs/", count=-1, value=3 if kind == "hang" else 503)
    patient = replace(policy, first_wait_s=60, longest_wait_s=60, limits=Limits())
    task = asyncio.create_task(fetch(access, target, patient))
    while not hub.gets("cdn"):
        await asyncio.sleep(0.01)
    begun = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - begun < 0.5


async def test_the_token_goes_to_no_other_origin(hub: HubServer, target: Path, policy: FetchPolicy) -> None:
    hub.tokens["hf_secret"] = ("me/tiny",)
    await fetch(Access(hub.endpoint, SecretStr("hf_secret"), token_to_mirror=True), target, policy)
    assert [request.headers.get("authorization") for request in hub.gets("hub")] == ["Bearer hf_secret"]
    assert [request.headers.get("authorization") for request in hub.gets("cdn")] == [None]
    target.unlink()
    hub.forget()
    await fetch(Access(hub.endpoint, SecretStr("hf_secret")), target, policy)  # a mirror nobody vouched for
    assert all("authorization" not in request.headers for request in hub.seen)


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://user@127.0.0.1/x", "//[::1"])
async def test_redirects_to_something_else_are_refused(hub: HubServer, access: Access, target: Path, policy: FetchPolicy, location: str) -> None:
    hub.fault("redirect", "/resolve/", headers={"Location": location})
    with pytest.raises(HubError) as failed:
        await fetch(access, target, policy)
    assert failed.value.details["reason"] == "redirect"


async def test_redirects_have_an_end(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    hub.fault("redirect", count=-1, headers={"Location": f"{hub.endpoint}/me/tiny/resolve/main/m.gguf"})
    with pytest.raises(HubError, match="5 times"):
        await fetch(access, target, policy)
    assert len(hub.seen) == 6


async def test_redirects_never_lose_https_or_lead_inside(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = httpx2.URL("https://203.0.113.1/x")
    async with Transport(Access("https://huggingface.co")) as wire:
        monkeypatch.setattr(wire, "_private", False)
        for location in ("http://203.0.113.1/y", "https://127.0.0.1/", "https://[::ffff:127.0.0.1]/", "https://169.254.169.254/", "https://[2002:7f00:1::]/"):
            with pytest.raises(HubError):
                await wire._redirected(outside, location)
    async with transport(access) as wire:  # a hub of one's own network may have its CDN there
        assert (await wire._redirected(httpx2.URL("http://127.0.0.1/x"), "http://127.0.0.2/y")).host == "127.0.0.2"


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "::1", "10.0.0.1", "100.64.0.1", "fe80::1", "localhost", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:0:4136:e378:8000:63bf:80ff:fffe", "224.0.0.1"])
async def test_addresses_inside_are_known_in_every_spelling(host: str) -> None:
    assert await is_private(host)


@pytest.mark.parametrize("host", ["1.1.1.1", "2606:4700::1111"])
async def test_addresses_outside_are_not(host: str) -> None:
    assert not await is_private(host)


@pytest.mark.parametrize("etag", ["../../../../../../tmp/x", "a/b", "\\\\x", '"' + "0" * 5000 + '"'])
async def test_an_etag_is_never_a_path(hub: HubServer, access: Access, target: Path, policy: FetchPolicy, etag: str) -> None:
    hub.etag = etag
    await fetch(access, target, policy)
    assert_whole(target)
    assert sorted(path.name for path in target.parent.parent.iterdir()) == ["in"]


async def test_offline_nothing_is_asked(hub: HubServer, target: Path, policy: FetchPolicy) -> None:
    with pytest.raises(HubError, match="Offline"):
        await fetch(Access(hub.endpoint, offline=True), target, policy)
    assert hub.seen == []


@pytest.mark.parametrize("endpoint", ["", "huggingface.co", "ftp://x", "http://huggingface.co", "https://u:p@mirror.example", "https://m.example/?a=b"])
def test_an_address_that_is_no_hub_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidRequest):
        Access(endpoint)


def test_a_token_is_never_shown_and_never_breaks_a_header() -> None:
    access = Access(token=SecretStr("hf_secret"))
    assert "hf_secret" not in repr(access) + str(access)
    with pytest.raises(InvalidRequest) as refused:
        Access(token=SecretStr("hf_sec\nret"))
    assert "sec" not in refused.value.message


async def test_too_little_space_is_found_before_the_first_byte(hub: HubServer, access: Access, target: Path, policy: FetchPolicy) -> None:
    with pytest.raises(HubError) as failed:
        await fetch(access, target, replace(policy, reserve_bytes=1 << 60))
    assert failed.value.details["reason"] == "no_space"
    assert hub.seen == []


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")
async def test_a_disk_that_fills_up_keeps_what_is_there(hub: HubServer, access: Access, tmp_path: Path, policy: FetchPolicy) -> None:
    hub.add("me/tiny", {"m.gguf": DATA})
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        hub.fault("slow", "^/lfs/", value=4 << 20)
        task = asyncio.create_task(fetch(access, disk / "m.gguf", policy))
        while hub.sent() < SIZE // 8:
            await asyncio.sleep(0.01)
        (disk / "other").write_bytes(b"x" * (900 << 10))
        with pytest.raises(HubError) as failed:
            await task
        assert failed.value.details["reason"] == "no_space"
        kept = (disk / ".m.gguf.part").stat().st_size
        assert kept > 0
        with pytest.raises(HubError, match="free some space"):
            await fetch(access, disk / "m.gguf", policy)
        (disk / "other").unlink()
        moved, _ = await fetch(access, disk / "m.gguf", policy)
        assert moved == SIZE - kept
        assert hashlib.sha256((disk / "m.gguf").read_bytes()).hexdigest() == MODEL.sha256
    finally:
        subprocess.run(["umount", str(disk)], check=True)
