"""What cannot be saved is told with its cure; every other surprise of the machine is a defect of ours."""

from __future__ import annotations

import errno
import os

import httpx
import pytest
from fastapi import FastAPI

from modules.api.errors import NOT_WRITABLE, install_error_handlers


async def answer_to(number: int) -> httpx.Response:
    """What a client gets when a route ends with this error of the machine."""
    api = FastAPI()
    install_error_handlers(api)

    @api.post("/note")
    async def keep() -> None:
        raise OSError(number, os.strerror(number), "/a/secret/folder/notes.json")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api, raise_app_exceptions=False), base_url="http://127.0.0.1") as client:
        return await client.post("/note")


@pytest.mark.parametrize("number", sorted(NOT_WRITABLE), ids=lambda number: errno.errorcode[number])
async def test_what_cannot_be_saved_is_told_with_a_cure(number: int) -> None:
    answer = await answer_to(number)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (500, "server_error")
    assert error["message"] == f"This could not be saved: {os.strerror(number)}. Free some space, or make the folder writable, then try again."


def test_a_full_and_a_read_only_disk_are_among_them() -> None:
    assert {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM} <= NOT_WRITABLE


async def test_another_error_of_the_machine_is_a_defect() -> None:
    answer = await answer_to(errno.EBADF)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].startswith("Something in Paddock itself went wrong; the server goes on.")
