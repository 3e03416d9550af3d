"""Settings: one model becomes flags, environment and file, in this order of weight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from modules.core.errors import InvalidRequest
from modules.core.settings import BY_HAND, PROJECT_ROOT, Settings, given_words, read_settings, settings_table


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("port: 1000\nhost: 127.0.0.2\nqueue-limit: 5\n")
    environ = {"PADDOCK_STATE_DIR": str(tmp_path), "PADDOCK_PORT": "2000", "PADDOCK_HOST": "127.0.0.3"}
    settings, given = read_settings(["--port", "3000"], environ)
    assert (settings.port, settings.host, settings.queue_limit, settings.loader) == (3000, "127.0.0.3", 5, "")
    assert {"port", "host", "queue_limit"} <= given
    assert "loader" not in given


def test_lists_options_and_switches() -> None:
    settings, _ = read_settings(["--option", "context_length=4096", "--option", "kv_type=q8_0", "--no-ui", "--allowed-host", "a", "--allowed-host", "b"], {})
    assert settings.options == {"context_length": 4096, "kv_type": "q8_0"}
    assert not settings.ui
    assert settings.allowed_hosts == ("a", "b")


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--port", "70000"], "65535"),
        (["--port", "many"], "port"),
        (["--option", "novalue"], "NAME=VALUE"),
        (["--config", "/does/not/exist.yaml"], "does not exist"),
    ],
)
def test_what_is_wrong_is_said(argv: list[str], word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        read_settings(argv, {})


def test_an_unknown_key_in_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("prot: 1\n")
    with pytest.raises(InvalidRequest, match="prot"):
        read_settings(["--state-dir", str(tmp_path)], {})


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_bytes(b"port: 1\nhost: \xff\xfe\n")
    with pytest.raises(InvalidRequest, match=r"other\.yaml cannot be read: it is not UTF-8 text\. Correct it, or name another one with --config\.$"):
        read_settings(["--config", str(path)], {})


def test_the_prefix_of_a_proxy() -> None:
    assert Settings(root_path="/llm/").root_path == "/llm"
    with pytest.raises(ValidationError, match="begins with a slash"):
        Settings(root_path="llm")
    assert read_settings(["--trusted-proxy", "10.0.0.2", "--trusted-proxy", "fd00::/8"], {})[0].trusted_proxy == ("10.0.0.2", "fd00::/8")
    for wrong in ("*", "proxy.example", "10.0.0.0/33", "10.0.0.1/8"):
        with pytest.raises(InvalidRequest, match=r"an address \(10\.0\.0\.2\) or a network"):
            read_settings([], {"PADDOCK_TRUSTED_PROXY": wrong})


def test_the_key_is_not_shown() -> None:
    settings, _ = read_settings([], {"PADDOCK_API_KEY": "canary-7f3a"})
    assert "canary-7f3a" not in repr(settings) + str(settings.model_dump())


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_code_is_trusted_by_the_command_line_alone(tmp_path: Path) -> None:
    state = ["--state-dir", str(tmp_path)]
    assert read_settings([*state, "--trust-code", f"a/b@{COMMIT}", "--trust-code", f"c@sha256:{'0' * 64}"], {})[0].trust_code == (f"a/b@{COMMIT}", f"c@sha256:{'0' * 64}")
    assert read_settings(state, {})[0].trust_code == ()
    with pytest.raises(InvalidRequest, match="PADDOCK_TRUST_CODE: this is given on the command line only, as --trust-code"):
        read_settings(state, {"PADDOCK_TRUST_CODE": f"a@{COMMIT}"})
    for key in ("trust_code", "trust-code"):
        (tmp_path / "settings.yaml").write_text(f"{key}: ['a@{COMMIT}']\n")
        with pytest.raises(InvalidRequest, match=r"settings\.yaml: this is given on the command line only"):
            read_settings(state, {})
        with pytest.raises(InvalidRequest, match="command line only"):
            read_settings(["--config", str(tmp_path / "settings.yaml")], {})
    assert set(BY_HAND) <= set(Settings.model_fields)


@pytest.mark.parametrize("given", [("a",), ("a@main",), (f"a@{COMMIT[:12]}",), (f"@{COMMIT}",), (f"a@{COMMIT.upper()}",), (f"a@sha256:{COMMIT}",), (f"a@{COMMIT}\n",), (f"a@{COMMIT}", f"a@{'0' * 40}")])
def test_code_is_trusted_at_one_whole_commit(given: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="--trust-code (takes NAME@COMMIT|names “a” twice)"):
        read_settings([word for value in given for word in ("--trust-code", value)], {})


def test_help_lists_every_setting() -> None:
    shown = subprocess.run([sys.executable, "server.py", "--help"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    table = settings_table()
    for name in Settings.model_fields:
        assert (f"PADDOCK_{name.upper()}" in table) != (name in BY_HAND)
        assert f"--{name.replace('_', '-').removesuffix('s')}" in shown


def test_the_documented_table_is_the_programs() -> None:
    assert settings_table() in (PROJECT_ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_what_was_given_is_shown_shortly_however_deep_it_is() -> None:
    deep: list[object] = []
    for _ in range(3000):
        deep = [deep]
    assert given_words(deep, 80) == "something that is nested too deeply"
    assert given_words("a" * 100, 10) == "'aaaaaaaaa…" and given_words([1], 80) == "[1]"
