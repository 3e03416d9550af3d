"""A hub of the test's own, a context of a job without a job, and a policy that does not make anybody wait."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from modules.core.job import Cancelled
from modules.hub.fetcher import FetchPolicy
from modules.hub.transport import Access, Limits, Transport
from tests.hub.hub_server import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer().start()
    yield server
    server.stop()


@pytest.fixture
def access(hub: HubServer) -> Access:
    return Access(hub.endpoint)


@pytest.fixture
def policy() -> FetchPolicy:
    return quick_policy()


def quick_policy(silence_s: float = 5) -> FetchPolicy:
    """Short waits between tries; `silence_s` is patient, because a busy machine is silent too."""
    limits = Limits(connect_s=5, silence_s=silence_s, answer_s=10, answer_bytes=1 << 20)
    return FetchPolicy(
        limits=limits, block_bytes=64 << 10, retries=3, first_wait_s=0.02, longest_wait_s=0.05, longest_asked_wait_s=0.3, lock_wait_s=0.02,
        report_s=0.02, reserve_bytes=0,
    )  # fmt: skip


@dataclass
class Context:
    """What a work function sees of its job; `stop` says when the person cancels."""

    directory: Path
    secrets: Mapping[str, str] = field(default_factory=dict)
    stop: Callable[[float], bool] = lambda done: False
    lines: list[str] = field(default_factory=list)
    reports: list[tuple[float, float | None, dict[str, float | int | str]]] = field(default_factory=list)

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        self.reports.append((done, total, metrics))
        if self.stop(done):
            raise Cancelled

    def log(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "job").mkdir()
    return Context(tmp_path / "job")


@functools.cache
def trust() -> ssl.SSLContext:
    """Read once: it takes longer than most of these tests."""
    return httpx2.create_ssl_context()


def transport(access: Access) -> Transport:
    return Transport(access, quick_policy().limits, trust())
