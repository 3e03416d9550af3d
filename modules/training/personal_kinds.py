"""What personal data looks like, kind by kind: each function gives the places in a text.

Every pattern is bounded or possessive, and begins only where a word does, so that no text takes more than time in proportion. A plain
search for what a pattern needs comes first: most texts have nothing of the kind. Knows no marks and no choice of kinds: that is `personal.py`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from itertools import pairwise
from types import MappingProxyType

Span = tuple[int, int]
DIGIT = re.compile(r"\d")


def has_any(text: str, words: tuple[str, ...]) -> bool:
    """Whether one of these stands somewhere in the text."""
    return any(word in text for word in words)


# ---- logins, keys, passwords ---------------------------------------------------------------------------------------

LOGIN = re.compile(r"(?<![\w+.-])[A-Za-z][A-Za-z0-9+.-]{1,20}+://([^\s/:@?#]{1,100}+:[^\s/@?#]{1,200})@[^\s/@]")
# What a key of each form must have in it, and the form
KEY_FORMS = tuple((hints, re.compile(rf"(?<![A-Za-z0-9_-])(?:{form})(?![A-Za-z0-9])")) for hints, form in (
    (("sk-",), r"sk-[A-Za-z0-9_-]{16,}+"),  # OpenAI and those who do as it does
    (("k_live_", "k_test_"), r"[spr]k_(?:live|test)_[A-Za-z0-9]{16,}+"),  # Stripe
    (("hf_",), r"hf_[A-Za-z0-9]{20,}+"),
    (("gh", "glpat-"), r"gh[pousr]_[A-Za-z0-9]{20,}+|github_pat_[A-Za-z0-9_]{20,}+|glpat-[A-Za-z0-9_-]{20,}+"),
    (("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,}+"),  # Slack
    (("AKIA", "ASIA", "ABIA", "ACCA", "AROA", "AIDA"), r"A(?:KIA|SIA|BIA|CCA|ROA|IDA)[A-Z0-9]{16}"),  # AWS
    (("AIza", "ya29."), r"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}+"),  # Google
    (("npm_", "pypi-", "dop_v1_"), r"npm_[A-Za-z0-9]{30,}+|pypi-[A-Za-z0-9_-]{30,}+|dop_v1_[a-f0-9]{40,}+"),
    (("SG.",), r"SG\.[A-Za-z0-9_-]{16,40}+\.[A-Za-z0-9_-]{30,}+"),  # SendGrid
    ((":",), r"[0-9]{8,10}:[A-Za-z0-9_-]{35}"),  # Telegram
    (("eyJ",), r"eyJ[A-Za-z0-9_-]{5,}+\.[A-Za-z0-9_-]{5,}+\.[A-Za-z0-9_-]{10,}+"),  # JSON web token
))  # fmt: skip
BEARER = re.compile(r"(?<!\w)[Bb]earer\s{1,3}([A-Za-z0-9._~+/-]{16,}+=*+)")
SAID_SECRET = re.compile(
    r"(?<![A-Za-z])(?i:pass ?word|passwd|passphrase|passwort|kennwort|mot de passe|contraseña|pwd|secret|api[ _-]?key|access[ _-]?key|secret[ _-]?key|auth[ _-]?token|token|pin code)"
    r"[\"'*`]{0,3}\s{0,3}(?::=|[:=]|(?i:is|ist|est|es)\s)\s{0,3}[\"'*`]{0,3}([^\s\"'`<>(){}\[\],;]{6,200}+)"
)
SECRET_HINTS = ("pass", "kennwort", "contraseña", "pwd", "secret", "key", "token", "pin code")
HEX = re.compile(r"(?<![A-Za-z0-9])[0-9a-fA-F]{32,}+(?![A-Za-z0-9])")
LONG_RUN = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{40,}+={0,2}")
KEY_FILE_BEGIN, KEY_FILE_END = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"), "-----END "
MIXED = 0.35  # share of neighbours of different kinds (small, large, digit): 0.6 by chance, 0.2 in paths and names of code


def logins(text: str) -> Iterator[Span]:
    """User and password in an address, like https://user:password@host."""
    if "://" in text:
        yield from (match.span(1) for match in LOGIN.finditer(text))


def keys(text: str) -> Iterator[Span]:
    """Keys, tokens and passwords."""
    yield from _key_files(text)
    for hints, form in KEY_FORMS:
        if has_any(text, hints):
            yield from (match.span() for match in form.finditer(text))
    if "earer" in text:
        yield from (match.span(1) for match in BEARER.finditer(text))
    if has_any(text.lower(), SECRET_HINTS):
        yield from _said_secrets(text)
    for match in HEX.finditer(text):
        if not match[0].isdigit() and not match[0].isalpha():
            yield match.span()
    yield from (match.span() for match in LONG_RUN.finditer(text) if _looks_random(match[0]))


def _said_secrets(text: str) -> Iterator[Span]:
    for match in SAID_SECRET.finditer(text):
        value = match[1].rstrip(".?:*")
        if len(value) >= 6 and _is_secret(value):
            yield match.start(1), match.start(1) + len(value)


def _key_files(text: str) -> Iterator[Span]:
    """Files of private keys, from their first line to their last, or to the end where that is missing."""
    at = 0
    while begin := KEY_FILE_BEGIN.search(text, at):
        end = text.find(KEY_FILE_END, begin.end())
        line_end = text.find("-----", end + len(KEY_FILE_END)) + 5 if end >= 0 else 0
        at = line_end if line_end >= 5 else len(text)
        yield begin.start(), at


def _is_secret(value: str) -> bool:
    """Whether it is a secret rather than a word of code like `token = self.token_of`."""
    return any(sign.isdigit() for sign in value) or any(sign in "!@#$%^&?+~" for sign in value)


def _looks_random(run: str) -> bool:
    classes = [0 if sign.islower() else 1 if sign.isupper() else 2 if sign.isdigit() else 3 for sign in run]
    changes = sum(one != other for one, other in pairwise(classes))
    return {0, 1, 2} <= set(classes) and changes >= MIXED * len(run)


# ---- addresses of people and machines ------------------------------------------------------------------------------

EMAIL = re.compile(r"(?<![\w%+-])[\w%+-][\w.%+-]{0,63}+@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])")
SPELLED_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}+ ?(?:\(at\)|\[at\]| at ) ?[A-Za-z0-9-]{1,63}+(?: ?(?:\(dot\)|\[dot\]| dot ) ?[A-Za-z0-9-]{2,24}+){1,4}(?!\w)", re.IGNORECASE
)
FILE_ENDS = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp")  # icon@2x.png
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{3,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
VERSION = re.compile(r"(?:version|release|firmware|build|v)[ .:=]{0,2}$", re.IGNORECASE)


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses, also those spelled out."""
    if "@" in text:
        for match in EMAIL.finditer(text):
            if not match[0].lower().endswith(FILE_ENDS) and not match[0].startswith("git@"):
                yield match.span()
    if "dot" in text.lower():
        yield from (match.span() for match in SPELLED_EMAIL.finditer(text))


def ip_addresses(text: str) -> Iterator[Span]:
    """IP addresses of both versions; not those that every machine has, nor numbers of versions."""
    for sign, form in ((".", IPV4), (":", IPV6)):
        for match in form.finditer(text) if sign in text and DIGIT.search(text) else ():
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            everyone = address.is_loopback or address.is_unspecified or match[0].startswith("255.")
            if not everyone and not VERSION.search(text, max(0, match.start() - 12), match.start()):
                yield match.span()


# ---- numbers -------------------------------------------------------------------------------------------------------

CARD_RUN = re.compile(r"(?<![\w.])\d++(?:[ -]\d++)*")
CARD_GROUP = re.compile(r"\d+")
CARD_DIGITS = (19, 18, 17, 16, 15, 14, 13)
CARD_FORM = re.compile(r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|(?:6\d|35)\d{14,17}")
IBAN = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}))")
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 "
    "GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 "
    "NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)  # fmt: skip
IBAN_LENGTHS = MappingProxyType({entry[:2]: int(entry[2:]) for entry in _IBAN_LENGTHS.split()})
PHONES = tuple((hint, re.compile(form)) for hint, form in (
    ("+", r"(?<![\w+])\+\d(?:[ .\-/()]{0,3}+\d){6,14}(?!\w)"),  # +49 (89) 123 45 67
    ("00", r"(?<![\w.,+/-])(?<!\d )00[1-9](?:[ .\-/()]{0,3}+\d){8,13}(?!\w)"),
    ("", r"(?<![\w.+/-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])"),  # (555) 123-4567
    ("0", r"(?<![\w.,+/-])(?:\(0\d{1,4}+\)|0\d{1,4}+)[ /-]\d(?:[ -]?\d){4,9}(?!\w|\.\d)"),  # 089 / 123 456
    ("0", r"(?<![\w.])0\d(?:\.\d{2}){4}(?!\w|\.\d)"),
))  # fmt: skip
SAID_PHONE = re.compile(
    r"(?<!\w)(?i:phone|telephone|telefon|tel|mobile|handy|cell|call me|text me|fax|whatsapp|my number)\b[^\d+\n]{0,20}+(\+?\d(?:[ .\-/()]{0,2}+\d){5,14})(?!\w)"
)
DATE = re.compile(r"\d{1,2}[-/. ]\d{1,2}[-/. ]\d{2,4}|\d{4}[-/. ]\d{1,2}[-/. ]\d{1,2}(?: \d{1,2})?")


def cards(text: str) -> Iterator[Span]:
    """Numbers of payment cards: by length, first digits and check digit."""
    for run in CARD_RUN.finditer(text) if DIGIT.search(text) else ():
        groups = [(group.start() + run.start(), group.end() + run.start()) for group in CARD_GROUP.finditer(run[0])]
        taken = 0
        for place, (begin, _) in enumerate(groups):
            end = _card_end(text, groups[place : place + CARD_DIGITS[0]], begin) if begin >= taken else 0
            if end:
                taken = end
                yield begin, end


def _card_end(text: str, groups: list[Span], begin: int) -> int:
    """Where a card's number that begins with the first group ends; 0 when none does."""
    digits, found = "", 0
    for start, end in groups:
        digits += text[start : min(end, start + CARD_DIGITS[0] + 1)]
        if len(digits) > CARD_DIGITS[0]:
            break
        if CARD_FORM.fullmatch(digits) and _luhn(digits) and not text[end : end + 1].isalnum():
            found = end
    return found if found > begin else 0


def _luhn(digits: str) -> bool:
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0


def ibans(text: str) -> Iterator[Span]:
    """International bank account numbers: by the length that the country has, and check digits."""
    for match in IBAN.finditer(text) if DIGIT.search(text) else ():
        length = IBAN_LENGTHS.get(match[1][:2].upper(), 0)
        letters = [place for place, sign in enumerate(match[1]) if sign.isalnum()][:length]
        number = "".join(match[1][place] for place in letters).upper()
        if len(number) == length > 0 and int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97 == 1:
            yield match.start(), match.start() + letters[-1] + 1


def phones(text: str) -> Iterator[Span]:
    """Phone numbers: international, with an area code in the usual spellings, or where the words before say so."""
    if not DIGIT.search(text):
        return
    for hint, form in PHONES:
        if hint in text:
            yield from (match.span() for match in form.finditer(text) if not DATE.fullmatch(match[0]))
    yield from (match.span(1) for match in SAID_PHONE.finditer(text) if not DATE.fullmatch(match[1]))


# ---- streets -------------------------------------------------------------------------------------------------------

_WORD = r"(?:[A-ZÀ-ÖØ-Þ][\w'’.-]{0,25}+|\d{1,3}(?:st|nd|rd|th))"
_PLAIN = r"[A-ZÀ-ÖØ-Þ][\w'’-]{0,25}+"
_KIND = r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Terrace|Way|Close|Crescent|Parkway|Pkwy|Highway|Hwy|Place|Pl)"
_AFTER = r"(?:,? (?:Apt|Apartment|Unit|Suite|Flat|#)\.? ?#?\w{1,6})?(?:, ?[A-ZÀ-ÖØ-Þ][\w' .-]{1,30}?(?:, ?[A-Z]{2})?,? (?:\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2})(?!\w))?"
_CITY = r"(?:, ?\d{4,5} [A-ZÄÖÜ][\w-]{1,30})?"
STREETS = tuple(re.compile(form) for form in (
    rf"(?<![\w.,-])\d{{1,5}}[A-Za-z]? (?:[NSEW]\.? )?(?:{_WORD} ){{1,4}}?{_KIND}\b(?:\.(?=,))?{_AFTER}",  # 12 Long Acre Road
    rf"(?<!\w)[A-ZÄÖÜ][\wäöüß-]{{1,30}}(?:straße|strasse|str\.|weg|platz|allee|gasse|damm|ufer|straat|laan|plein) ?\d{{1,4}} ?(?:[a-z]\b)?(?!\w){_CITY}",
    rf"(?<!\w)(?:[A-ZÄÖÜ][\w-]{{1,25}}+ ){{1,3}}(?:Straße|Strasse|Str\.|Weg|Platz|Allee|Ring|Damm|Ufer|Gasse) \d{{1,4}}[a-z]?(?!\w){_CITY}",
    rf"(?<![\w.,-])\d{{1,4}}(?: ?(?:bis|ter))?,? (?:rue|avenue|boulevard|chemin|impasse|allée|quai|place) (?:(?:de la|de l['’]|du|des|de|d['’]) ?)?{_PLAIN}(?: {_PLAIN}){{0,3}}",
    rf"(?<!\w)(?:Calle|Avenida|Paseo|Via|Viale|Piazza|Corso|Rua) (?:(?:de la|de las|de los|del|della|dei|de|da|do) )?{_PLAIN}(?: {_PLAIN}){{0,3}},? \d{{1,4}}(?!\w)",
    r"(?<!\w)P\.? ?O\.? Box \d{1,6}(?!\w)",
))  # fmt: skip
SAID_STREET = re.compile(
    r"(?<!\w)(?:live|lives|living|address|located|deliver|ship|send)\b[^.\n\d]{0,20}+(\d{1,5}[a-z]? (?:[\w'’-]{1,25}+ ){1,4}?(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|drive|court|square|terrace|way|close|crescent))\b",
    re.IGNORECASE,
)


def streets(text: str) -> Iterator[Span]:
    """Street and number, in the spellings of a few countries; where letters are small, only after words like “I live at”."""
    if not DIGIT.search(text):
        return
    for form in STREETS:
        yield from (match.span() for match in form.finditer(text))
    yield from (match.span(1) for match in SAID_STREET.finditer(text))
