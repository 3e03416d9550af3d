"""What every kind of job must keep. A new kind is one more row of `JOB_KINDS`; the kinds of the tests show that the checks bite."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, TypeAdapter

from modules.core.job import JobKind, Lane
from modules.services.jobs import JOB_KINDS
from tests.jobs.kinds import TEST_KINDS, SecretArgs, count
from tests.test_structure import HEAVY

ROOT = Path(__file__).resolve().parents[2]
LIGHT = (*HEAVY, "huggingface_hub", "datasets")
KINDS = [pytest.param(kind, id=kind.name) for kind in JOB_KINDS + TEST_KINDS[:2]]


def complaints(kind: JobKind) -> list[str]:
    """What a kind does not keep."""
    found = []
    if not (kind.name.replace("_", "").isalnum() and kind.name == kind.name.lower()):
        found.append("the name is not one lower-case word")
    if not kind.title or kind.title != kind.title.strip() or not kind.title[0].isupper():
        found.append("the title is no verb for a list")
    if kind.lane not in typing.get_args(Lane):
        found.append("no such lane")
    if kind.args.model_config.get("extra") != "forbid":
        found.append("unknown arguments are not refused")
    if kind.subject and kind.subject not in kind.args.model_fields and not isinstance(getattr(kind.args, kind.subject, None), property):
        found.append("the subject is no argument")
    for name, field in kind.args.model_fields.items():
        if not (field.description or "").endswith("."):
            found.append(f"{name} is not described by a sentence")
        if "SecretStr" in str(field.annotation):
            found.append(f"{name} is a secret: it would be written to a file")
        if field.annotation in (int, float) and not _bounded(field.metadata):
            found.append(f"{name} is a number without bounds")
    return found


def _bounded(metadata: list[Any]) -> bool:
    has = {name for item in metadata for name in ("ge", "gt", "le", "lt") if getattr(item, name, None) is not None}
    return bool(has & {"ge", "gt"}) and bool(has & {"le", "lt"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_keeps_the_contract(kind):
    assert complaints(kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_survive_the_file(kind):
    schema = kind.args.model_json_schema()
    assert schema["type"] == "object"
    if not schema.get("required"):
        values = kind.args()
        assert kind.args.model_validate_json(values.model_dump_json()) == values
    assert TypeAdapter(kind.args) is not None


def test_names_are_told_apart():
    names = [kind.name for kind in JOB_KINDS]
    assert len(names) == len(set(names))


class Loose(BaseModel):
    size: int = Field(3, ge=0)
    key: SecretStr = Field(SecretStr(""), description="A key.")


def test_the_checks_bite():
    assert len(complaints(JobKind("Bad Name", "", Loose, count, "nowhere", subject="topic"))) == 8
    assert complaints(JobKind("k", "Kind", SecretArgs, count, "network"))


def test_the_web_process_knows_the_kinds_and_loads_no_library_of_theirs():
    program = (
        "import sys\nfrom modules.services.jobs import JOB_KINDS\nassert all(callable(kind.run) for kind in JOB_KINDS)\n"
        f"print('LOADED', *[name for name in {LIGHT!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["LOADED"]


def test_the_worker_of_the_product_begins_and_says_when_a_job_is_not_its_own(tmp_path):
    command = [sys.executable, "-m", "modules.services.job_worker", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, input=b"", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (75, b"")
