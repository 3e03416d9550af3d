"""What went wrong at the hub, as a sentence with its cure.

huggingface_hub knows which status and which header mean what; this module knows what a person can do about it. Nothing that a server
wrote, no signed address and no token becomes part of a sentence.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from modules.core.errors import HubError
from modules.hub.names import RepoType, repo_noun, repo_place
from modules.hub.transport import Access

CODE_HEADERS = ("X-Error-Code", "X-Error-Message")
TOKEN_PAGE = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True, slots=True)
class Subject:
    """What was asked for, for the sentence."""

    repo: str = ""
    revision: str = ""
    path: str = ""
    repo_type: RepoType = "model"

    @property
    def noun(self) -> str:
        """What the repository holds."""
        return repo_noun(self.repo_type)

    def page(self, access: Access) -> str:
        """Address of the repository's page."""
        return f"{access.endpoint}/{repo_place(self.repo, self.repo_type)}"


def retry_after_s(headers: Mapping[str, str], limit_s: float) -> float | None:
    """The wait a server asks for, at most `limit_s`; None if it asks for none."""
    text = headers.get("Retry-After", "")
    return min(float(text), limit_s) if text.isascii() and text.isdigit() and len(text) < 10 else None


def refusal(status: int, headers: Mapping[str, str], subject: Subject, access: Access) -> HubError:
    """The error for an answer that is no success."""
    reason = _reason(status, headers)
    sentence = {
        "gated": _gated,
        "unauthorized": _unauthorized,
        "not_found": _not_found,
        "revision": _no_revision,
        "entry": _no_entry,
        "disabled": _disabled,
        "forbidden": _forbidden,
        "rate_limited": _rate_limited,
    }.get(reason)
    if sentence is not None:
        text = sentence(subject, access)
    elif status >= 500:
        text = f"{access.host} has a fault of its own (status {status}); try again in a few minutes."
    else:
        text = f"{access.host} answered with status {status}, which is not expected here; check the address of the hub and try again."
    link = {"url": subject.page(access)} if reason == "gated" else {}
    return HubError(text, reason=reason, status=status, **link)


def _reason(status: int, headers: Mapping[str, str]) -> str:
    """A stable word for an answer, by the rules of huggingface_hub; the more special classes come first."""
    from huggingface_hub import errors
    from huggingface_hub.utils import hf_raise_for_status

    table = (
        (errors.GatedRepoError, "gated"),
        (errors.DisabledRepoError, "disabled"),
        (errors.RevisionNotFoundError, "revision"),
        (errors.RemoteEntryNotFoundError, "entry"),
        (errors.RepositoryNotFoundError, "not_found"),
    )
    # Only what decides is handed over, with an address of our own: its messages repeat addresses and bodies
    decisive = {name: headers[name] for name in CODE_HEADERS if name in headers}
    request = httpx2.Request("GET", "https://hub.invalid/api/status")
    try:
        hf_raise_for_status(httpx2.Response(status, headers=decisive, request=request))
    except errors.HfHubHTTPError as error:
        for kind, reason in table:
            if isinstance(error, kind):
                return reason
    plain = {401: "unauthorized", 403: "forbidden", 404: "not_found", 429: "rate_limited"}
    return plain.get(status, "server" if status >= 500 else "unexpected")


def unreachable(error: httpx2.TransportError | TimeoutError, access: Access) -> HubError:
    """The error for a connection that failed."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return HubError(
            f"The certificate of {access.host} could not be checked; set SSL_CERT_FILE to the certificates of your network, or correct the clock.",
            reason="certificate",
        )
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return HubError(f"{access.host} did not answer in time; check the network or proxy, or try again later.", reason="timeout")
    return HubError(
        f"{access.host} cannot be reached; check the network, the proxy (HTTPS_PROXY) and the address of the hub.", reason="unreachable"
    )


def _held_back(access: Access) -> str:
    return f" Your token is not sent to {access.host}; allow that in the settings if you trust it." if access.holds_token_back else ""


def _gated(subject: Subject, access: Access) -> str:
    page = subject.page(access)
    if access.sends_token:
        return f"{subject.repo} is gated and the account of your token has no access yet; accept its licence at {page} or wait for the owner's approval."
    return f"{subject.repo} is gated: accept its licence at {page}, then set a hub token of that account ({TOKEN_PAGE})." + _held_back(access)


def _unauthorized(subject: Subject, access: Access) -> str:
    if access.sends_token:
        return f"{access.host} refused the token (status 401): it is wrong or has expired; make a new one at {TOKEN_PAGE} and set it."
    what = f" for {subject.repo}" if subject.repo else ""
    return f"{access.host} wants a token{what} (status 401); make one at {TOKEN_PAGE} and set it." + _held_back(access)


def _not_found(subject: Subject, access: Access) -> str:
    what = f"There is no {subject.noun} {subject.repo} on {access.host}" if subject.repo else f"{access.host} does not know what was asked for (status 404)"
    if access.sends_token:
        return f"{what}, or your token may not see it; check the spelling and the rights of the token."
    return f"{what} that everybody may see; check the spelling, or set a token if it is private." + _held_back(access)


def _no_revision(subject: Subject, access: Access) -> str:
    return f"{subject.repo} has no branch or commit “{subject.revision}”; use main, or choose one at {subject.page(access)}/tree/main."


def _no_entry(subject: Subject, access: Access) -> str:
    return f"{subject.repo} has no file “{subject.path}” at {subject.revision[:12]}; choose one of its list."


def _disabled(subject: Subject, access: Access) -> str:
    return f"{access.host} has disabled {subject.repo}; choose another {subject.noun}."


def _forbidden(subject: Subject, access: Access) -> str:
    what = subject.repo or "this"
    if access.sends_token:
        return f"The token may not read {what} (status 403); give it the right to read gated repositories at {TOKEN_PAGE}, or ask the owner for access."
    return f"{access.host} does not give {what} to everybody (status 403); set a token of an account that has access." + _held_back(access)


def _rate_limited(subject: Subject, access: Access) -> str:
    cure = "" if access.sends_token else "; a token raises the limit"
    return f"{access.host} allows no more requests for now (status 429); wait a few minutes{cure}." + _held_back(access)
