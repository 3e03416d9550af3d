"""Entry point: settings, one port, page and API on it. Nothing imports this module."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from modules.core.errors import AppError, InvalidRequest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from fastapi import FastAPI

    from modules.core.server_run import Handover, ServerRun
    from modules.core.settings import Settings

PORTS_TRIED = 50
SILENCE = (
    ("GRADIO_ANALYTICS_ENABLED", "False"), ("GRADIO_RUN_HISTORY", "False"), ("GRADIO_SSR_MODE", "False"), ("GRADIO_SHARE", "False"),
    ("GRADIO_MCP_SERVER", "False"), ("HF_HUB_DISABLE_TELEMETRY", "1"), ("HF_HUB_DISABLE_UPDATE_CHECK", "1"), ("DO_NOT_TRACK", "1"),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_XET_TELEMETRY_ENABLED", "0"),
    ("OTEL_SDK_DISABLED", "true"),
)  # fmt: skip


def bind(settings: Settings, port_given: bool) -> socket.socket:
    """Take the port before anything else is loaded; the next free one only if none was asked for.

    Raises:
        InvalidRequest: the port or address cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    ports = [settings.port] if port_given else range(settings.port, min(settings.port + PORTS_TRIED, 65_536))
    for port in ports:
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only where TCP is named
        if os.name != "nt":  # on Windows this option would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
        except OSError as error:
            listener.close()
            if error.errno == errno.EACCES and port_given and os.name != "nt":  # there it also means: taken by another program
                raise InvalidRequest(f"Port {port} needs rights that this account lacks. Choose one above 1023 with --port.") from error
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise InvalidRequest(f"Cannot listen on {settings.host}: {error.strerror}. Correct --host.") from error
        else:
            listener.listen(512)
            if port != settings.port:
                logging.getLogger("paddock").warning("Port %d is in use; taking %d instead.", settings.port, port)
            return listener
    tried = f"Port {settings.port} is" if port_given else f"The ports {settings.port} to {ports[-1]} are all"
    raise InvalidRequest(f"{tried} in use on {settings.host}. Stop the other program, or choose another one with --port.")


def listen(settings: Settings, port_given: bool, before: Handover | None) -> socket.socket:
    """The socket of the run before where there was one, else a new one; without exec at least its port."""
    if before is None:
        return bind(settings, port_given)
    listener = before.listener(settings, port_given)
    if listener is None and before.is_for(settings, port_given):
        with contextlib.suppress(InvalidRequest):
            return bind(settings.model_copy(update={"port": before.port}), True)
    return listener or bind(settings, port_given)


def create_app(settings: Settings, run: ServerRun | None = None) -> FastAPI:
    """Services, routes and page as one application."""
    for name, value in SILENCE:
        os.environ.setdefault(name, value)
    os.environ.setdefault("GRADIO_TEMP_DIR", str(settings.state_dir / "cache"))
    from modules.api.app import build_api
    from modules.services.app import build_app

    app = build_app(settings, run)
    if not settings.ui:
        return build_api(app)
    from modules.ui.fast_import import speed_up_gradio_import

    speed_up_gradio_import()  # before the next two import gradio
    from modules.ui.app import ViewRendering
    from modules.ui.mount import mount_page

    return build_api(app, ViewRendering(), lambda api: mount_page(api, app))


def end_at_once_when_told() -> None:
    """Until it serves there is nothing to bring to an end; `serve` replaces these handlers by its own."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: os._exit(0))  # an exception would end some import with a traceback


@contextlib.contextmanager
def made_to_stay() -> Iterator[None]:
    """What is imported and built meanwhile stays to the end: looking through it for garbage took a fifth of a start, and a second at the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def checked_again(arguments: list[str], environ: Mapping[str, str], settings: Settings, port: int) -> bool:
    """Read the settings as a run that follows will; whether it is at the same address.

    Raises:
        InvalidRequest: it would not start.
    """
    from modules.core.server_run import Handover
    from modules.core.settings import read_settings
    from modules.services.entry import check_entry

    new, given = read_settings(arguments, environ)
    certificate_of(new)
    check_entry(new)
    port_given = "port" in given
    if Handover(settings.host, port, "").is_for(new, port_given):
        return (new.root_path, new.scheme) == (settings.root_path, settings.scheme)
    bind(new, port_given).close()
    return False


def certificate_of(settings: Settings) -> ssl.SSLContext | None:
    """What TLS is served with, if it is; a certificate that clients will not accept is told.

    Raises:
        InvalidRequest: its files cannot be used.
    """
    if settings.ssl_certfile is None:
        if settings.ssl_keyfile is not None:
            raise InvalidRequest("--ssl-keyfile names a private key, but no certificate is given. Name it with --ssl-certfile, or leave the key out.")
        return None
    from modules.core.certificates import read_certificate

    context, doubt = read_certificate(settings.ssl_certfile, settings.ssl_keyfile)
    if doubt:
        logging.getLogger("paddock").warning(doubt)
    return context


def serve_here(api: FastAPI, settings: Settings, listener: socket.socket, run: ServerRun, environ: Mapping[str, str], certificate: ssl.SSLContext | None) -> int:
    """Say the address, serve, and become the next run if one is wanted; returns the exit status."""
    from modules.api.guard import in_address
    from modules.api.serving import serve
    from modules.core.server_run import become_next
    from modules.core.settings import LOOPBACK_HOSTS

    host = "localhost" if settings.host in LOOPBACK_HOSTS else in_address(settings.host)
    address = f"{settings.scheme}://{host}:{listener.getsockname()[1]}{settings.root_path}"
    sys.stdout.write(f"Paddock is at {address}\n")
    sys.stdout.flush()
    kept = serve(api, settings, listener, run, certificate)
    if kept is None:
        return 0
    end_at_once_when_told()
    sys.stdout.write("Paddock starts again, as it was asked to.\n")
    return become_next(kept, settings, run.secret, environ)


def begin_log() -> None:
    """Lines on stderr, without secrets."""
    from modules.core.log_masks import MaskedFormatter

    lines = logging.StreamHandler()
    lines.setFormatter(MaskedFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    logging.getLogger("httpx").setLevel(logging.WARNING)


def main(arguments: list[str]) -> int:
    """Serve until told to stop, or do what a command says; returns the exit status."""
    if arguments[:1] == ["download"]:
        from modules.services.download_command import download_command

        return download_command(arguments[1:])
    if arguments[:1] == ["convert"]:
        from modules.services.convert_command import convert_command

        return convert_command(arguments[1:])
    if arguments[:1] in (["users"], ["keys"]):
        from modules.services.account_commands import account_command

        return account_command(arguments)
    end_at_once_when_told()
    from modules.core.server_run import ServerRun, take_handover
    from modules.core.settings import read_settings
    from modules.services.entry import check_or_offer

    before = take_handover(os.environ)
    environ = dict(os.environ)  # as it was given: a run that follows is given the same
    begin_log()
    try:
        settings, given = read_settings(arguments)
        certificate = certificate_of(settings)
        check_or_offer(settings)
        listener = listen(settings, "port" in given, before)
        port = int(listener.getsockname()[1])
        run = ServerRun(lambda: checked_again(arguments, environ, settings, port), before.secret if before else "")
        with made_to_stay():
            api = create_app(settings, run)
    except AppError as error:
        sys.stderr.write(error.message + "\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'A folder'} cannot be used: {error.strerror}. Make it writable, free some space, or choose another folder; see --help.\n")
        return 2
    return serve_here(api, settings, listener, run, environ, certificate)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
