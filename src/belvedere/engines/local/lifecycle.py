"""From start to SIGTERM: folder, weights, warm-up, serving, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from belvedere.engines.local.announce import Announcer
from belvedere.engines.local.folder import inspect_folder
from belvedere.engines.local.options import EngineOptions, Listen
from belvedere.errors import MissingExtra, PortInUse, SettingsError

__all__ = ["run_engine"]

_log = logging.getLogger(__name__)
_STOP_TIMEOUT_S = 2.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OFFLINE_AND_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def run_engine(options: EngineOptions, announcer: Announcer) -> None:
    """Load the model, serve until SIGTERM or SIGINT, and finish running requests.

    Raises:
        UsageError: the folder, the address or a setting is wrong.
        EngineStartFailed: the model does not generate.
    """
    received = _leave_on_signals()
    announcer.phase("importing")
    folder = inspect_folder(options.model)
    with _bound(options.listen) as listener:
        _import_libraries()
        from belvedere.engines.local.engine import Engine
        from belvedere.engines.local.loader import load_model
        from belvedere.engines.local.server import make_app

        announcer.phase("weights")
        loaded = load_model(folder, options)
        _log.info("Model loading took %.4f GiB", loaded.weights_bytes / 2**30)
        engine = Engine(
            loaded,
            options.max_num_seqs,
            options.queue_limit,
            options.batch_timeout_s,
        )
        announcer.phase("warmup")
        engine.start()
        engine.warm_up()
        app = make_app(engine, options.served_names, options.api_key)
        if received:
            raise SystemExit(0)
        _serve(app, listener, options.grace_s, announcer)
    if not engine.stop(_STOP_TIMEOUT_S):
        _log.warning("the model did not stop within %.0f s", _STOP_TIMEOUT_S)


def _leave_on_signals() -> list[int]:
    """Until it serves, the process ends at once, with status 0, and removes its socket.

    Returns:
        The signals that came: what they raise is lost in a destructor or a callback of the import.
    """
    received: list[int] = []

    def leave(number: int, frame: object) -> NoReturn:
        received.append(number)
        raise SystemExit(0)

    for number in _SIGNALS:
        signal.signal(number, leave)
    return received


def _import_libraries() -> None:
    """Import the heavy libraries, offline and quiet, with torchvision repaired first.

    Raises:
        MissingExtra: the `local` extra is not installed.
    """
    os.environ.update(_OFFLINE_AND_QUIET)
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        # Threads that spin at OpenMP's barriers are ten times slower where cores are shared with
        # anything else: a gateway, a browser, a test. Read when PyTorch is loaded.
        os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        from belvedere.engines.local.torchvision_ops import define_missing_operators

        define_missing_operators()
        import transformers
    except ImportError as exc:
        raise MissingExtra(
            f"The local engine needs {exc.name!r}, which is not installed.",
            remedy="pip install 'belvedere[local]'",
        ) from exc
    transformers.utils.logging.disable_progress_bar()


@contextmanager
def _bound(listen: Listen) -> Iterator[socket.socket]:
    """A socket bound before the model is loaded, so that a taken address is told at once."""
    if listen.uds is not None:
        with _bound_unix(listen.uds) as listener:
            yield listener
        return
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((listen.host, listen.port))
        except OSError as exc:
            raise PortInUse(
                f"Port {listen.port} of {listen.host} cannot be used: {exc.strerror}.",
                remedy="Choose another port.",
            ) from exc
        yield listener


@contextmanager
def _bound_unix(path: Path) -> Iterator[socket.socket]:
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
            path.chmod(0o600)
        except OSError as exc:
            raise SettingsError(
                f"The socket {str(path)!r} cannot be made: {exc.strerror or exc}.",
                remedy="Choose a short path in a folder that exists.",
            ) from exc
        try:
            yield listener
        finally:
            with suppress(OSError):
                path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove a socket file nobody listens on; anything else at that path is left alone."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise SettingsError(f"{str(path)!r} is not a socket.", remedy="Choose another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise PortInUse(f"Another process listens on {str(path)!r}.", remedy="Choose another path.")


def _serve(app: object, listener: socket.socket, grace_s: float, announcer: Announcer) -> None:
    import uvicorn

    # uvicorn has handlers of its own while it serves. These take a signal that comes just before,
    # and the one that uvicorn raises again when it is done, so that the status is 0.
    received: list[int] = []
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.should_exit = self.should_exit or bool(received)
            announcer.phase("ready")

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # any ASGI application
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    asyncio.run(Server(config).serve(sockets=[listener]))
