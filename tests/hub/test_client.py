"""Questions to the hub: answers as values, refusals as sentences with a cure, bounded in time and size, and no token where it does not belong."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from modules.core.errors import HubError, InvalidRequest
from modules.hub.client import HubClient
from modules.hub.names import RepoRef
from modules.hub.repository import SearchFilters, SearchRow
from modules.hub.transport import Access, Limits
from tests.hub.conftest import quick_policy, trust
from tests.hub.hub_server import COMMIT, HubServer

LIMITS = quick_policy().limits
TOKEN = "hf_verysecret"
GGUF = b"GGUF" + bytes(range(256)) * 20


@pytest.fixture
def client(hub: HubServer, access: Access) -> HubClient:
    hub.tokens[TOKEN] = ("me/gated", "me/private")
    hub.add("me/tiny", {"m.gguf": GGUF, "README.md": "# Tiny é".encode()}, info={"tags": ["gguf", "license:mit"], "gguf": {"total": 42}, "downloads": 9})
    hub.add("me/gated", {"m.gguf": GGUF}, gated=True)
    hub.add("me/private", {"m.gguf": GGUF}, private=True)
    hub.add("you/other", {"m.safetensors": GGUF}, info={"tags": ["safetensors"], "safetensors": {"parameters": {"F16": 7}, "total": 7}})
    return HubClient(access, LIMITS, trust())


def with_token(client: HubClient, token: str = TOKEN) -> HubClient:
    return HubClient(replace(client.access, token=SecretStr(token), token_to_mirror=True), LIMITS, trust())


async def refused(question: Any) -> HubError:
    with pytest.raises(HubError) as failed:
        await question
    text = failed.value.message + repr(failed.value.details) + repr(failed.value.__cause__) + repr(failed.value)
    assert TOKEN not in text
    assert failed.value.message.endswith((".", ")"))
    return failed.value


async def test_a_search_gives_rows(client: HubClient, hub: HubServer) -> None:
    rows = await client.search("tiny", SearchFilters(author="me", task="text-generation", library="gguf", licence="mit"), sort="likes", limit=5)
    assert rows == (SearchRow("me/tiny", 9, 2, "2024-05-01T00:00:00+00:00", "text-generation", "mit", False, 42, ("gguf",), ("gguf", "license:mit")),)
    query = hub.gets("hub")[0].path
    assert all(part in query for part in ("search=tiny", "author=me", "pipeline_tag=text-generation", "filter=gguf", "filter=license%3Amit", "sort=likes", "limit=5", "expand=gated"))
    rows = await client.search()
    assert [(row.repo, row.gated, row.parameters) for row in rows] == [("me/tiny", False, 42), ("me/gated", True, 0), ("you/other", False, 7)]


async def test_a_search_by_size_asks_the_hub_and_checks_what_it_says(client: HubClient, hub: HubServer) -> None:
    hub.add("size/small", {}, info={"gguf": {"total": 600_000_000}})
    hub.add("size/middle", {}, info={"safetensors": {"parameters": {"BF16": 3_000_000_000}, "total": 3_000_000_000}})
    hub.add("size/large", {}, info={"gguf": {"total": 70_000_000_000}})
    hub.add("size/unknown", {})

    async def found(**filters: Any) -> list[str]:
        return sorted(row.repo for row in await client.search("size", SearchFilters(**filters)))

    assert await found() == ["size/large", "size/middle", "size/small", "size/unknown"]
    assert await found(least_parameters=1_000_000_000, most_parameters=9_000_000_000) == ["size/middle"]
    assert "num_parameters=min%3A1000M%2Cmax%3A9000M" in hub.gets("hub")[-1].path
    assert await found(most_parameters=9_000_000_000) == ["size/middle", "size/small"]
    rows = json.dumps([{"id": "size/large", "gguf": {"total": 70_000_000_000}}, {"id": "size/unknown"}])
    hub.fault("body", "/api/models", body=rows.encode())  # a mirror that knows no sizes
    assert await found(most_parameters=9_000_000_000) == []


@pytest.mark.parametrize("wrong", [{"filters": SearchFilters(author="a/b")}, {"filters": SearchFilters(licence="mit&x=1")}, {"limit": 0}, {"limit": 101}, {"sort": "worst"}, {"query": "x" * 201}])
async def test_impossible_searches_are_refused_without_a_request(client: HubClient, hub: HubServer, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await client.search(**wrong)
    assert hub.seen == []


async def test_rows_that_mean_nothing_are_left_out(client: HubClient, hub: HubServer) -> None:
    rows: list[Any] = [{"id": "../x"}, {}, 7, {"id": "a/b", "downloads": "many"}, {"id": "ok/ok", "tags": None}, {"id": "o/n", "lastModified": "never"}]
    hub.fault("body", "/api/models", body=json.dumps(rows).encode())
    assert [row.repo for row in await client.search()] == ["ok/ok"]


async def test_a_repository_is_read_at_its_commit_page_by_page(client: HubClient, hub: HubServer) -> None:
    hub.page = 1
    facts = await client.repository("me/tiny")
    assert (facts.commit, facts.licence, facts.gated, [file.path for file in facts.files]) == (COMMIT, "mit", False, ["m.gguf", "README.md"])
    assert facts.file("m.gguf").size == len(GGUF)  # type: ignore[union-attr]
    assert facts.files[0].sha256
    assert not facts.files[0].git_sha1
    assert facts.files[1].git_sha1
    assert all(COMMIT in request.path for request in hub.gets("hub", "/tree/"))


async def test_cards_and_ranges(client: HubClient, hub: HubServer) -> None:
    assert await client.card("me/tiny") == "# Tiny é"
    assert await client.card("you/other") == ""
    ref = RepoRef("me/tiny", COMMIT)
    assert await client.read_range(ref, "m.gguf", 0, 4) == b"GGUF"
    assert await client.read_range(ref, "m.gguf", 4, 100) == GGUF[4:104]
    assert await client.read_range(ref, "m.gguf", len(GGUF) - 3, 100) == GGUF[-3:]
    assert await client.read_range(ref, "m.gguf", len(GGUF) + 3, 100) == b""
    hub.forget()
    hub.fault("norange", "^/lfs/")
    assert await client.read_range(ref, "m.gguf", 4, 100) == GGUF[4:104]
    with pytest.raises(InvalidRequest):
        await client.read_range(ref, "m.gguf", 0, 1 << 30)
    with pytest.raises(InvalidRequest):
        await client.read_range(ref, "../x", 0, 1)


async def test_whose_token_it_is(client: HubClient) -> None:
    assert (await with_token(client).whoami()).name == "ada"
    assert (await refused(with_token(client, "hf_wrong").whoami())).details["reason"] == "unauthorized"
    assert "make one" in (await refused(client.whoami())).message


async def test_gated_models_say_what_to_do(client: HubClient, hub: HubServer) -> None:
    ref = RepoRef("me/gated", COMMIT)
    error = await refused(client.read_range(ref, "m.gguf", 0, 4))
    assert (error.details["reason"], error.details["url"]) == ("gated", f"{hub.endpoint}/me/gated")
    assert f"{hub.endpoint}/me/gated" in error.message
    assert "set a hub token" in error.message
    assert (await with_token(client).read_range(ref, "m.gguf", 0, 4)) == b"GGUF"
    hub.tokens["hf_other"] = ()
    assert "has no access yet" in (await refused(with_token(client, "hf_other").read_range(ref, "m.gguf", 0, 4))).message
    held_back = HubClient(replace(client.access, token=SecretStr(TOKEN)), LIMITS, trust())
    assert "not sent to" in (await refused(held_back.read_range(ref, "m.gguf", 0, 4))).message


async def test_refusals_are_told_apart(client: HubClient) -> None:
    reasons = {
        "not_found": client.repository("me/absent"),
        "revision": client.repository("me/tiny", "nope"),
        "entry": client.read_range(RepoRef("me/tiny", COMMIT), "absent.gguf", 0, 4),
        "unauthorized": with_token(client, "hf_wrong").repository("me/tiny"),
    }
    for reason, question in reasons.items():
        assert (await refused(question)).details["reason"] == reason
    assert "not_found" in (await refused(client.repository("me/private"))).details["reason"]
    assert (await with_token(client).repository("me/private")).private


@pytest.mark.parametrize(("status", "reason"), [(401, "unauthorized"), (403, "forbidden"), (404, "not_found"), (429, "rate_limited"), (500, "server"), (503, "server"), (418, "unexpected")])
@pytest.mark.parametrize("token", [False, True])
async def test_every_status_becomes_a_sentence(client: HubClient, hub: HubServer, status: int, reason: str, token: bool) -> None:
    hub.fault("status", value=status, headers={"Retry-After": "86400"})
    error = await refused((with_token(client) if token else client).repository("me/tiny"))
    assert error.details == {"reason": reason, "status": status}


@pytest.mark.parametrize(("body", "reason"), [(b"<html>", "malformed"), (b"[" * 200_000, "malformed"), (b"7", "malformed"), (b"{}", "malformed"), (b"[]", "malformed"),
    (b'{"id": "me/tiny", "sha": "../../x"}', "malformed"), (b'{"id":"me/tiny","sha":"' + b"a" * 40 + b'","tags":5}', "malformed"), (b" " * (2 << 20), "size")])  # fmt: skip
async def test_nonsense_is_refused(client: HubClient, hub: HubServer, body: bytes, reason: str) -> None:
    hub.fault("body", "/api/models/me/tiny", body=body)
    assert (await refused(client.repository("me/tiny"))).details["reason"] == reason


@pytest.mark.parametrize("entry", [{}, {"size": -1}, {"size": "9"}, {"size": 1 << 60}, {"oid": "../../x"}, {"lfs": {"oid": "../x", "size": 1, "pointerSize": 1}}, {"lfs": 7},
    {"path": 7}, {"path": None}])  # fmt: skip
async def test_files_that_mean_nothing_are_refused(client: HubClient, hub: HubServer, entry: dict[str, Any]) -> None:
    good = {"type": "file", "path": "a", "size": 1, "oid": "0" * 40}
    hub.fault("body", "/tree/", body=json.dumps([{**good, **entry} if entry else {"type": "file"}]).encode())
    assert (await refused(client.repository("me/tiny"))).details["reason"] == "malformed"


async def test_a_list_leads_to_no_other_host(client: HubClient, hub: HubServer) -> None:
    for link in (f"{hub.cdn}/next", "http://[::1", "ftp://127.0.0.1/x"):
        hub.forget()
        hub.fault("body", "/tree/", body=b"[]", headers={"Link": f'<{link}>; rel="next"'})
        assert (await refused(client.repository("me/tiny"))).details["reason"] == "malformed"
        assert hub.gets("cdn") == []
    hub.fault("body", "/tree/", body=b"[]", headers={"Link": f'<https://huggingface.co/api/models/me/tiny/tree/{COMMIT}>; rel="next"'})
    assert len((await client.repository("me/tiny")).files) == 2  # a mirror's link to the official hub is asked at the mirror


async def test_an_endless_list_ends(hub: HubServer, client: HubClient) -> None:
    hub.fault("body", "/tree/", count=-1, body=b"[]", headers={"Link": f'<{hub.endpoint}/api/models/me/tiny/tree/x>; rel="next"'})
    assert (await refused(client.repository("me/tiny"))).details["reason"] == "size"


@pytest.mark.parametrize("kind", ["hang", "drip"])
async def test_a_question_ends_in_time(client: HubClient, hub: HubServer, kind: str) -> None:
    limits = replace(LIMITS, silence_s=0.4 if kind == "hang" else 5, answer_s=0.5)
    if kind == "hang":
        hub.fault("hang", value=1)
        question = HubClient(client.access, limits, trust()).search()
    else:
        hub.fault("slow", "/resolve/", value=1000)
        question = HubClient(client.access, limits, trust()).card("me/tiny")
        hub.repos["me/tiny"].files["README.md"].data = b"x" * 5000
    begun = asyncio.get_running_loop().time()
    assert (await refused(question)).details["reason"] == "timeout"
    assert asyncio.get_running_loop().time() - begun < 1


async def test_a_hub_that_is_not_there(hub: HubServer) -> None:
    hub.stop()
    assert (await refused(HubClient(Access(hub.endpoint), LIMITS, trust()).search())).details["reason"] == "unreachable"


async def test_offline_nothing_is_asked(hub: HubServer) -> None:
    client = HubClient(Access(hub.endpoint, SecretStr(TOKEN), token_to_mirror=True, offline=True), LIMITS, trust())
    for question in (client.search(), client.repository("me/tiny"), client.card("me/tiny"), client.whoami(), client.read_range(RepoRef("a/b"), "x", 0, 1)):
        assert (await refused(question)).details["reason"] == "offline"
    assert hub.seen == []


async def test_a_mirror_gets_no_token(client: HubClient, hub: HubServer) -> None:
    held_back = HubClient(replace(client.access, token=SecretStr(TOKEN)), LIMITS, trust())
    await held_back.repository("me/tiny")
    await held_back.search()
    await held_back.card("me/tiny")
    await refused(held_back.whoami())
    assert hub.seen
    assert all("authorization" not in request.headers for request in hub.seen)


@pytest.mark.parametrize(("endpoint", "sends"), [("https://huggingface.co", True), ("https://hf.co/", True), ("https://huggingface.co.evil.example", False), ("https://mirror.example", False)])
def test_only_the_official_hub_gets_the_token_by_itself(endpoint: str, sends: bool) -> None:
    assert Access(endpoint, SecretStr(TOKEN)).sends_token is sends
    assert not Access(endpoint).sends_token


async def test_cookies_are_not_kept(client: HubClient, hub: HubServer) -> None:
    hub.page = 1
    hub.fault("body", "/revision/", body=json.dumps({"id": "me/tiny", "sha": COMMIT}).encode(), headers={"Set-Cookie": "id=1; Path=/"})
    await client.repository("me/tiny")
    assert all("cookie" not in request.headers for request in hub.seen)


def test_importing_the_package_imports_no_hub_library() -> None:
    import subprocess

    program = "import sys, modules.hub.client, modules.hub.download, modules.hub.inventory; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_limits_have_a_neutral_default() -> None:
    assert HubClient(Access()).limits == Limits()
