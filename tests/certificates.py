"""Certificates that sign themselves, made with the standard library: a key on the curve P-256 and the few pieces of DER around it."""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
ECDSA_SHA256, EC_KEY, CURVE = "2a8648ce3d040302", "2a8648ce3d0201", "2a8648ce3d030107"
COMMON_NAME, OTHER_NAMES = "550403", "551d11"

Point = tuple[int, int] | None


def _sum(a: Point, b: Point) -> Point:
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % PRIME == 0:
        return None
    slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, PRIME) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, PRIME)
    x = (slope * slope - a[0] - b[0]) % PRIME
    return x, (slope * (a[0] - x) - a[1]) % PRIME


def _times(number: int, point: Point) -> Point:
    result: Point = None
    while number:
        if number & 1:
            result = _sum(result, point)
        point, number = _sum(point, point), number >> 1
    return result


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8 or 1, "big")
    return bytes([tag]) + (bytes([len(body)]) if len(body) < 128 else bytes([0x80 | len(size)]) + size) + body


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _number(value: int) -> bytes:
    return _der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(digits: str) -> bytes:
    return _der(6, bytes.fromhex(digits))


def _bits(data: bytes) -> bytes:
    return _der(3, b"\0", data)


def _time(when: datetime) -> bytes:
    return _der(0x18, when.strftime("%Y%m%d%H%M%SZ").encode())


def _pem(kind: str, data: bytes) -> str:
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(data).decode()}-----END {kind}-----\n"


def make_certificate(*, begins: timedelta = timedelta(days=-1), ends: timedelta = timedelta(days=1), host: str = "localhost") -> tuple[str, str]:
    """Certificate for a name (and no address) and its private key as PEM, valid between two times from now."""
    secret = secrets.randbelow(ORDER - 1) + 1
    x, y = _times(secret, BASE) or (0, 0)
    public = b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    name = _sequence(_der(0x31, _sequence(_oid(COMMON_NAME), _der(0x0C, host.encode()))))
    now, algorithm = datetime.now(UTC), _sequence(_oid(ECDSA_SHA256))
    names = _sequence(_oid(OTHER_NAMES), _der(4, _sequence(_der(0x82, host.encode()))))
    told = _sequence(
        _der(0xA0, _number(2)), _number(secrets.randbits(64)), algorithm, name, _sequence(_time(now + begins), _time(now + ends)), name,
        _sequence(_sequence(_oid(EC_KEY), _oid(CURVE)), _bits(public)), _der(0xA3, _sequence(names)),
    )  # fmt: skip
    once = secrets.randbelow(ORDER - 1) + 1
    r = (_times(once, BASE) or (0, 0))[0] % ORDER
    s = pow(once, -1, ORDER) * (int.from_bytes(hashlib.sha256(told).digest(), "big") + r * secret) % ORDER
    certificate = _sequence(told, algorithm, _bits(_sequence(_number(r), _number(s))))
    key = _sequence(_number(1), _der(4, secret.to_bytes(32, "big")), _der(0xA0, _oid(CURVE)), _der(0xA1, _bits(public)))
    return _pem("CERTIFICATE", certificate), _pem("EC PRIVATE KEY", key)


def write_certificate(folder: Path, name: str = "paddock", **times: timedelta) -> tuple[Path, Path]:
    """The two as files, for localhost."""
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    for path, text in zip(paths, make_certificate(**times), strict=True):
        path.write_text(text, encoding="ascii")
    return paths
