"""The certificate of the server: the files are read before anything is served, and what is wrong with them is a sentence.

A handshake in memory, in which the certificate is trusted as it is, shows whether files fit each other and until when. Knows no HTTP.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from modules.core.errors import InvalidRequest

EXPIRED, NOT_YET_VALID = 10, 9  # of OpenSSL's list of what verification finds
ROUNDS = 10  # of a handshake, which has four


def read_certificate(certfile: Path, keyfile: Path | None) -> tuple[ssl.SSLContext, str]:
    """What TLS is served with, and a sentence about a certificate that clients will not accept, or nothing.

    Raises:
        InvalidRequest: a file is missing, is none of that kind, or the two do not belong together.
    """
    certificate = _text(certfile, "--ssl-certfile")
    key = _text(keyfile, "--ssl-keyfile") if keyfile is not None else certificate
    if "-----BEGIN CERTIFICATE-----" not in certificate:
        raise InvalidRequest(f"{certfile} holds no certificate in PEM form (“-----BEGIN CERTIFICATE-----”); name another file with --ssl-certfile.")
    if "PRIVATE KEY-----" not in key:
        cure = "name another one with --ssl-keyfile" if keyfile else "name the file that holds it with --ssl-keyfile"
        raise InvalidRequest(f"{keyfile or certfile} holds no private key in PEM form; {cure}.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certfile, keyfile, password=_no_password)
    except _LockedKey:
        raise InvalidRequest(f"The private key in {keyfile or certfile} is encrypted; give one without a password, readable by this account only.") from None
    except ssl.SSLError as error:
        raise InvalidRequest(_misfit(error, certfile, keyfile or certfile)) from error
    return context, _doubt(context, certfile)


class _LockedKey(Exception):  # noqa: N818 - never leaves this file
    """A password would be asked for."""


def _no_password() -> str:
    raise _LockedKey


def _text(path: Path, flag: str) -> str:
    try:
        return path.read_text(encoding="latin-1")
    except OSError as error:
        raise InvalidRequest(f"{flag} {path} cannot be read: {error.strerror}. Correct it, or leave both files out to serve plain http.") from error


def _misfit(error: ssl.SSLError, certfile: Path, keyfile: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"The private key in {keyfile} is not the one of the certificate in {certfile}; name the two that belong together."
    return f"{certfile} and {keyfile} cannot be used for TLS: {(error.reason or str(error)).replace('_', ' ').lower()}. Make them anew."


def _doubt(context: ssl.SSLContext, certfile: Path) -> str:
    """What a client that trusts the certificate itself finds wrong with it."""
    client = ssl.create_default_context(cafile=str(certfile))
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(here, there), context.wrap_bio(there, here, server_side=True))
    try:
        for _ in range(ROUNDS):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        when = {EXPIRED: "is no longer valid", NOT_YET_VALID: "is not valid yet"}.get(error.verify_code, f"is doubtful: {error.verify_message}")
        return f"The certificate in {certfile} {when}; browsers and programs refuse it or warn until it is replaced."
    except ssl.SSLError as error:
        return f"A trial of the certificate in {certfile} failed ({(error.reason or str(error)).replace('_', ' ').lower()}); clients may not accept it."
    return ""
