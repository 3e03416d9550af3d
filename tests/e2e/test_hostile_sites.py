"""Other web sites in a real browser: one that sends requests here, one whose name leads here; and the page below the prefix of a proxy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.conftest import open_profile
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen
from tests.paddock_server import STARTER, PaddockServer
from tests.stripping_proxy import StrippingProxy

NAMES = "MAP evil.test 127.0.0.1, MAP rebind.test 127.0.0.1"
# Every way in which a page of another site can make a browser ask something here; what it gets to see of the answers
ATTACK = """async (home) => {
  const form = new FormData();
  form.append("files", new Blob(["<script>parent.pwned = 1</script>"], { type: "text/html" }), "evil.html");
  const json = { "content-type": "application/json" };
  const asked = [
    ["ui/conversations", { method: "POST", body: "{}" }], ["ui/conversations", { method: "POST", body: new Blob(["{}"]) }],
    ["ui/conversations", { method: "POST", body: "{}", headers: json }], ["ui/conversations/import", { method: "POST", body: new URLSearchParams({ title: "x" }) }],
    ["gradio_api/upload", { method: "POST", body: form }], ["gradio_api/queue/join", { method: "POST", body: '{"fn_index":0,"data":[],"session_hash":"a"}' }],
    ["ui/bin", { method: "DELETE" }], ["ui/notebook", { method: "PUT", body: "{}", headers: json }], ["v1/chat/completions", { method: "POST", body: "{}", headers: json }],
    ["config", {}], ["ui/conversations", {}], ["v1/models", {}], ["metrics", {}],
  ];
  const seen = [];
  for (const mode of ["cors", "no-cors"]) {
    for (const [path, options] of asked) {
      try {
        const answer = await fetch(home + path, { ...options, mode, credentials: "include" });
        const text = await answer.text();
        if (text) seen.push(`${mode} ${path}: ${text.slice(0, 80)}`);
      } catch (error) { /* refused */ }
    }
  }
  await new Promise((done) => { const line = new EventSource(home + "ui/conversations/a/events"); line.onmessage = () => seen.push("events"); line.onerror = () => { line.close(); done(); }; });
  await new Promise((done) => {
    const script = document.createElement("script");
    script.src = home + "config";
    script.onload = () => { seen.push("script"); done(); };
    script.onerror = done;
    document.head.append(script);
  });
  await new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.src = home;
    frame.onload = () => { try { if (frame.contentDocument?.body?.textContent) seen.push("frame"); } catch { /* of another origin */ } done(); };
    document.body.append(frame);
  });
  return seen;
}"""


@pytest.fixture(scope="module")
def evil() -> Iterator[str]:
    """A web site of somebody else."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title><body>")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://evil.test:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def victim(browser: Browser, chromium_path: str) -> Iterator[Page]:
    """A page of a browser for which two foreign names lead to this machine."""
    other = browser.browser_type.launch(executable_path=chromium_path, args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules={NAMES}"])
    yield other.new_page()
    other.close()


def standing(server: PaddockServer) -> list[object]:
    """What an attack would change."""
    return [server.ask("GET", path) for path in ("ui/conversations", "ui/bin", "ui/notebook", "ui/notebooks", "ui/jobs")]


def test_another_site_changes_nothing_reads_nothing_and_shows_nothing(victim: Page, evil: str, starter: PaddockServer) -> None:
    victim.goto(starter.url)  # whatever cookies there are, this browser has them
    before = standing(starter)
    for address in (starter.url, starter.url.replace("localhost", "127.0.0.1")):
        victim.goto(evil)
        assert victim.evaluate(ATTACK, address) == []
    assert standing(starter) == before


def test_a_foreign_name_that_leads_here_is_not_answered(victim: Page, starter: PaddockServer) -> None:
    answer = victim.goto(f"http://rebind.test:{starter.port}/")
    assert answer is not None and answer.status == 421
    assert "does not answer to the host name “rebind.test" in answer.json()["error"]["message"]
    assert victim.evaluate("async () => (await fetch('/config')).status") == 421


# ---- below a prefix ------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(tmp_path: Path, models_dir: Path, loras_dir: Path) -> Iterator[tuple[PaddockServer, StrippingProxy]]:
    """A server below /llm, seen through a proxy by everybody."""
    server = PaddockServer(tmp_path, models_dir, loras_dir, "--root-path", "/llm")
    with StrippingProxy(server.port, "/llm") as proxy:
        server.url, server.http = proxy.url, httpx.Client(base_url=proxy.url, timeout=120)
        yield server, proxy
    server.close()


def use(page: Page, server: PaddockServer) -> None:
    """A reply, the same after a reload, the notebook and the models."""
    chat = ChatScreen(page, server).open()
    words = chat.say("What is a LoRA?")
    assert chat.same(words, chat.stored_reply())
    page.reload()
    chat.ready()
    expect(chat.replies).to_have_count(1)
    assert page.url.startswith(server.url)
    NotebookScreen(page, server).show().fill("Once upon a time")
    expect(ModelsScreen(page, server).show().row(STARTER)).to_be_visible()


def test_page_api_and_streams_below_the_prefix_of_a_proxy(browser: Browser, proxied: tuple[PaddockServer, StrippingProxy]) -> None:
    server, proxy = proxied
    watch = ConsoleWatch(f"localhost:{proxy.port}")
    context: BrowserContext = open_profile(browser, server)
    watch.follow(context)
    watch.allow(r"/favicon\.ico")  # browsers look for it at the root of every host
    use(context.new_page(), server)
    context.close()
    assert watch.unexpected() == []
    assert set(proxy.outside) <= {"/favicon.ico"}
    import openai  # here: each worker reads this file, and this takes it a second

    client = openai.OpenAI(base_url=f"{proxy.url}v1", api_key="none", max_retries=0)
    assert STARTER in {model.id for model in client.models.list()}
    pieces = list(client.chat.completions.create(model="", messages=[{"role": "user", "content": "Hi"}], max_tokens=5, stream=True))
    assert pieces[-1].choices[0].finish_reason == "length"
    assert len(pieces) >= 2  # words that come at once are told in one
