"""The files of TLS: what is read, and the sentence for each way in which they cannot be used."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from modules.core.certificates import read_certificate
from modules.core.errors import InvalidRequest
from tests.certificates import write_certificate

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("tls"))


def test_two_files_or_one_that_holds_both(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert read_certificate(*files)[1] == ""
    both = tmp_path / "both.pem"
    both.write_text(files[0].read_text() + files[1].read_text())
    assert read_certificate(both, None)[1] == ""


def test_what_cannot_be_used_is_told_with_the_file_and_the_cure(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    other = write_certificate(tmp_path, "other")
    text = tmp_path / "notes.txt"
    text.write_text("no certificate")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for given, words in (
        ((tmp_path / "none.crt", key), "--ssl-certfile .*none.crt cannot be read: No such file or directory. Correct it, or leave both files out"),
        ((certificate, tmp_path / "none.key"), "--ssl-keyfile .*none.key cannot be read: No such file"),
        ((tmp_path, key), "cannot be read: Is a directory"),
        ((text, key), "notes.txt holds no certificate in PEM form .* name another file with --ssl-certfile"),
        ((certificate, None), "paddock.crt holds no private key in PEM form; name the file that holds it with --ssl-keyfile"),
        ((certificate, text), "notes.txt holds no private key in PEM form; name another one"),
        ((certificate, other[1]), "The private key in .*other.key is not the one of the certificate in .*paddock.crt"),
        ((broken, key), "broken.pem and .*paddock.key cannot be used for TLS: .* Make them anew"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            read_certificate(*given)


def test_a_key_behind_a_password_is_refused_instead_of_asked_for(files: tuple[Path, Path], tmp_path: Path) -> None:
    import subprocess

    locked = tmp_path / "locked.key"
    try:
        command = ["openssl", "ec", "-in", str(files[1]), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("this machine has no openssl to encrypt a key with")
    with pytest.raises(InvalidRequest, match=r"locked.key is encrypted; give one without a password"):
        read_certificate(files[0], locked)


def test_one_that_ended_or_has_not_begun_is_told_and_served(tmp_path: Path) -> None:
    ended = write_certificate(tmp_path, "ended", begins=-2 * DAY, ends=-DAY)
    assert read_certificate(*ended)[1] == f"The certificate in {ended[0]} is no longer valid; browsers and programs refuse it or warn until it is replaced."
    assert "is not valid yet" in read_certificate(*write_certificate(tmp_path, "early", begins=DAY, ends=2 * DAY))[1]
