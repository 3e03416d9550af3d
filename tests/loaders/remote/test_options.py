"""Addresses and keys of other servers: what is taken, what is refused, and that a key shows nowhere."""

from __future__ import annotations

import pytest

from modules.core.errors import InvalidRequest
from modules.loaders.remote.connection import is_refused
from modules.loaders.remote.options import base_address, is_here, server_from

KEY = "sk-canary-1234"


@pytest.mark.parametrize(("given", "kept"), [
    ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
    (" http://GPU.local:8000/v1/ ", "http://gpu.local:8000"),
    ("https://api.example.org/openai/v1", "https://api.example.org/openai"),
    ("http://[::1]:8080/", "http://[::1]:8080"),
])  # fmt: skip
def test_addresses_are_kept_without_v1(given, kept):
    assert base_address(given) == kept


@pytest.mark.parametrize("url", [
    "", "gpu:8000", "ftp://gpu/", "file:///etc/passwd", "http://", "http://user:secret@gpu:8000", "http://gpu:8000/?key=1", "http://gpu:8000/#x",
    "http://gpu:99999", "http://gpu:0", "http://gpu\r\nx: y", "http://" + "a" * 600, "http://[::1", "//gpu",
])  # fmt: skip
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InvalidRequest) as refused:
        server_from({"name": "gpu", "urls": [url]})
    assert "secret" not in refused.value.message
    assert refused.value.details["field"] == "urls"


@pytest.mark.parametrize(("values", "field"), [
    ({"name": "../x"}, "name"), ({"name": "a" * 41}, "name"), ({"name": ""}, "name"), ({"name": "a/b"}, "name"),
    ({"urls": []}, "urls"), ({"urls": [f"http://h{n}" for n in range(17)]}, "urls"),
    ({"key": "with space"}, "key"), ({"key": "line\nbreak"}, "key"), ({"key": "k" * 501}, "key"),
    ({"aliases": {"a": []}}, "aliases"), ({"kind": "magic"}, "kind"), ({"surprise": 1}, "surprise"),
])  # fmt: skip
def test_other_values_are_refused_by_name(values, field):
    with pytest.raises(InvalidRequest) as refused:
        server_from({"name": "gpu", "urls": ["http://gpu:8000"], **values})
    assert refused.value.details["field"] == field


def test_a_key_shows_nowhere_but_in_its_file():
    server = server_from({"name": "gpu", "urls": ["http://gpu:8000", "http://gpu:8000/v1"], "key": f" {KEY}\n"})
    for shown in (repr(server), str(server), server.model_dump_json(), str(server.model_dump())):
        assert KEY not in shown
    assert server.stored()["key"] == KEY
    assert server_from(server.stored()) == server
    assert server.urls == ("http://gpu:8000",)
    assert server_from({"name": "gpu", "urls": ["http://gpu:8000"], "key": " "}).key is None


@pytest.mark.parametrize(("url", "here"), [
    ("http://127.0.0.1:1", True), ("http://localhost:1", True), ("http://a.localhost", True), ("http://[::1]:1", True), ("http://127.8.9.1", True),
    ("http://192.168.0.2", False), ("http://localhost.example.org", False), ("https://api.example.org", False), ("http://127.0.0.1.nip.io", False),
])  # fmt: skip
def test_what_stays_on_this_machine(url, here):
    assert is_here(url) == here


@pytest.mark.parametrize(("address", "refused"), [
    ("169.254.169.254", True), ("::ffff:169.254.169.254", True), ("2002:a9fe:a9fe::1", True), ("64:ff9b::a9fe:a9fe", True), ("fe80::1%eth0", True),
    ("fd00:ec2::254", True), ("100.100.100.200", True), ("0.0.0.0", True), ("::", True), ("224.0.0.1", True), ("ff02::1", True),
    ("127.0.0.1", False), ("::1", False), ("10.1.2.3", False), ("192.168.1.5", False), ("fd12::5", False), ("93.184.216.34", False),
])  # fmt: skip
def test_addresses_that_are_never_connected_to(address, refused):
    assert is_refused(address) == refused
