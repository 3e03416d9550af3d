"""TemplateRenderer: hostile templates end within their limits with a sentence, and the next rendering works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.renderer import ROOT, TemplateRenderer
from modules.prompts.template import Template
from tests.prompts.real_templates import NAMES, template_text

pytestmark = pytest.mark.processes

HI = [Message(role="user", content="Hi")]
ECHO = TemplateSource(text="{{ messages[-1].content }}", origin="echo")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no limit on memory on Windows")


def hostile(text: str) -> TemplateSource:
    return TemplateSource(text=text, origin="hostile")


@POSIX
@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10**9 }}",
        "{{ (['a' * 1000000] * 100000) | join }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ [0] * 10**9 }}",
        "{{ 'a' | center(10**9) }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    ],
)
def test_memory_bombs(renderer: TemplateRenderer, text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\(hostile\) (needed more than 512 MiB of memory, the limit|did not finish)"):
        renderer.render(hostile(text), HI)
    assert renderer.render(ECHO, HI).text == "Hi"


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ lipsum(n=100000) }}",
        "{{ 10 ** (10 ** (10 ** 2)) }}",
        "{{ range(99999) | map('string') | map('center', 9999) | map('upper') | list | length }}{% for i in range(99999) %}{{ 'x' * 1000000 == 'y' }}{% endfor %}",
    ],
)
def test_endless_templates(text: str) -> None:
    with TemplateRenderer(timeout_s=0.3) as quick:
        assert quick.render(ECHO, HI).text == "Hi"
        begun = time.monotonic()
        with pytest.raises(InvalidRequest, match=r"did not finish within 0.3 s|needed more than|more than 2,000,000|Overflow"):
            quick.render(hostile(text), HI)
        assert time.monotonic() - begun < 5
        assert quick.render(ECHO, HI).text == "Hi"


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(10**9) %}{% endfor %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ (messages | map(attribute='__class__') | first).__mro__ }}",
        "{{ self._TemplateReference__context.environment.__class__ }}",
        "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}",
        "{% if true %}" * 3000 + "{% endif %}" * 3000,
        "{{ strftime_now.__globals__['json'] }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_escapes_and_deep_nesting(renderer: TemplateRenderer, text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\(hostile\)"):
        renderer.render(hostile(text), HI)
    assert renderer.render(ECHO, HI).text == "Hi"


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}{{ raise_exception.__globals__ }}",
        "{{ '{0.__class__.__init__}'.format(raise_exception) }}",
        "{{ '{x.__globals__}'.format_map({'x': strftime_now}) }}",
        "{{ [raise_exception] | map(attribute='__globals__') | join }}",
    ],
)
def test_a_hidden_attribute_shows_nothing(renderer: TemplateRenderer, text: str) -> None:
    assert renderer.render(hostile(text), HI).text == ""


def test_too_much_text_in_or_out() -> None:
    with TemplateRenderer(max_chars=10_000) as small:
        with pytest.raises(ContextOverflow, match=r"more than 10,000 characters"):
            small.render(hostile("{% for i in range(20) %}{{ 'a' * 1000 }}{% endfor %}"), HI)
        with pytest.raises(ContextOverflow, match=r"has 10,001 characters; the limit is 10,000"):
            small.render(ECHO, [Message(role="user", content="x" * 10_001)])
        assert small.render(ECHO, [Message(role="user", content="é" * 10_000)]).text == "é" * 10_000


@pytest.mark.parametrize("name", NAMES)
def test_the_child_renders_as_the_template_itself(renderer: TemplateRenderer, name: str) -> None:
    source = TemplateSource(text=template_text(name), origin=name, bos_token="<s>", eos_token="</s>")
    messages = [*HI, Message(role="assistant", content="Yo – „ja“"), *HI]
    tools = ({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"properties": {}}}},)
    for options in ({}, {"add_generation_prompt": False}, {"tools": tools}):
        try:
            expected = Template(source).render(messages, **options)  # type: ignore[arg-type]
        except InvalidRequest as error:
            with pytest.raises(InvalidRequest) as caught:
                renderer.render(source, messages, **options)  # type: ignore[arg-type]
            assert caught.value.message == error.message
        else:
            assert renderer.render(source, messages, **options) == expected  # type: ignore[arg-type]


def test_options_and_tools_of_a_template(renderer: TemplateRenderer) -> None:
    text = "{% if not level is defined %}{% set level = 1 %}{% endif %}{% set content = bos_token %}{{ content ~ level ~ enable_thinking ~ tools }}"
    assert renderer.options(hostile(text)) == ("enable_thinking", "level")
    assert renderer.takes_tools(hostile(text))
    assert not renderer.takes_tools(ECHO)
    with pytest.raises(InvalidRequest, match="not valid in line 2"):
        renderer.options(hostile("a\n{% if %}"))


def test_many_threads_get_their_own_answers(renderer: TemplateRenderer) -> None:
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        for _ in range(10):
            answers[number] = renderer.render(ECHO, [Message(role="user", content=str(number))]).text
            assert answers[number] == str(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: str(number) for number in range(6)}


@POSIX
def test_a_child_that_died_is_replaced(renderer: TemplateRenderer) -> None:
    assert renderer.render(ECHO, HI).text == "Hi"
    child = renderer._child
    assert child is not None
    os.kill(child._process.pid, signal.SIGKILL)
    assert renderer.render(ECHO, HI).text == "Hi"
    assert renderer._child is not child


def test_close_ends_the_child_and_a_later_rendering_starts_another() -> None:
    with TemplateRenderer() as made:
        made.render(ECHO, HI)
        process = made._child._process  # type: ignore[union-attr]
        made.close()
        assert process.returncode is not None
        made.close()
        assert made.render(ECHO, HI).text == "Hi"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_the_child_is_given_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_TEST_SECRET", "hf_canary")
    with TemplateRenderer() as made:
        made.render(ECHO, HI)
        environment = Path(f"/proc/{made._child._process.pid}/environ").read_text()  # type: ignore[union-attr]
    assert "PATH=" in environment
    assert "hf_canary" not in environment


@POSIX
@pytest.mark.parametrize("text", ["x", "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"])
def test_the_child_ends_with_its_parent(text: str) -> None:
    """Idle or in the middle of a rendering: the parent is killed, so that it can close nothing."""
    script = (
        "import os, sys, threading, time\n"
        "from modules.core.messages import Message\n"
        "from modules.core.model import TemplateSource\n"
        "from modules.prompts.renderer import TemplateRenderer\n"
        "made = TemplateRenderer(timeout_s=1)\n"
        "hi = [Message(role='user', content='Hi')]\n"
        "made.render(TemplateSource(text='x', origin='a'), hi)\n"
        "source = TemplateSource(text=sys.argv[1], origin='a')\n"
        "threading.Thread(target=made.render, args=(source, hi), daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "print(made._child._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, text], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    pid = int(run.stdout)
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline, "the render process outlived its parent"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            return status.read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
