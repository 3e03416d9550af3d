"""A model whose own code the command line trusts is marked in the list, before and after it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from modules.core.model import ModelInfo
from modules.core.settings import Settings
from modules.services.code_trust import CodeTrust
from tests.e2e.conftest import open_profile
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ModelsScreen
from tests.own_code_model import write_own_code_model
from tests.paddock_server import PaddockServer


def told_pin(folder: Path) -> str:
    """What the refusal without the option says is to be passed."""
    cure = CodeTrust(Settings(models_dir=folder.parent, state_dir=folder.parent / "none")).cure(ModelInfo(name=folder.name, path=str(folder), format="safetensors"), ())
    return cure.rpartition("--trust-code ")[2].rstrip(".")


@pytest.fixture
def trusting(tmp_path: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    pony = write_own_code_model(tmp_path / "models" / "pony")
    write_own_code_model(tmp_path / "models" / "other")
    (tmp_path / "server").mkdir()
    running = PaddockServer(tmp_path / "server", tmp_path / "models", loras_dir, "--model", "none", "--trust-code", told_pin(pony), model="")
    yield running
    running.close()


def test_the_list_marks_the_model_whose_code_runs_and_no_other(browser: Browser, trusting: PaddockServer) -> None:
    watch, context = ConsoleWatch(f"localhost:{trusting.port}"), open_profile(browser, trusting)
    watch.follow(context)
    models = ModelsScreen(context.new_page(), trusting).open()
    badge = models.row("pony").get_by_text("Runs its own code", exact=True)
    expect(badge).to_be_visible()
    assert (badge.get_attribute("title") or "").startswith("The command line trusts its Python files at sha256:")
    expect(models.row("other").get_by_text("Runs its own code", exact=True)).to_have_count(0)
    models.load("pony")
    expect(models.row("pony")).to_contain_text("This model runs Python files of its own (configuration_pony.py, modeling_pony.py, tokenization_pony.py)")
    expect(badge).to_be_visible()
    complaints = watch.unexpected()
    context.close()
    assert not complaints, "\n".join(complaints)
