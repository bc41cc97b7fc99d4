"""python -m tune.ui: MLflow's UI on what searches recorded, on this machine alone unless somebody says otherwise.

It becomes `mlflow server`. MLflow asks nobody for anything by itself: whoever reaches it reads, changes and deletes
runs. So an address that others can reach needs --auth, or --no-auth from who knows what that means.

Exit status: 2 bad input, else the server's own.
"""

import argparse
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BAD_INPUT = 2
LOOPBACK = "127.0.0.1"
PASSWORD, SECRET, CONFIG = "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_CONFIG_PATH"
"""What MLflow reads: the password of its first user, what signs its forms, the file about its accounts."""

ACCOUNTS = "basic_auth"
EXAMPLES = """examples:
  python -m tune.ui                                        mlflow.db of this folder, on http://127.0.0.1:5000
  python -m tune.ui --store /my/folder --port 5001
  python -m tune.ui --backend-store-uri postgresql://me@db.example.org/mlflow
  MLFLOW_AUTH_ADMIN_PASSWORD=… python -m tune.ui --host 0.0.0.0 --auth     others log in; the first user is admin
"""


class UiError(ValueError):
    """An option that cannot be followed; the message names it and the cure."""


@dataclass(frozen=True)
class Server:
    """The words for `mlflow` and what its environment has besides."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m tune.ui",
        description="MLflow's UI on what searches recorded, on this machine alone.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--store", default=".", metavar="FOLDER", help="the folder with mlflow.db (default: this one)")
    p.add_argument("--backend-store-uri", metavar="URI", help="another database than mlflow.db in --store")
    p.add_argument("--host", default=LOOPBACK, metavar="ADDR", help=f"where it listens (default: {LOOPBACK})")
    p.add_argument("--port", type=int, default=5000, metavar="N", help="its port (default: 5000)")
    who = p.add_mutually_exclusive_group()
    who.add_argument("--auth", action="store_true", help=f"ask for a password; ${PASSWORD} is the first one of admin")
    who.add_argument("--no-auth", action="store_true", help="let whoever reaches --host read, change and delete runs")
    return p


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name counts by all that it stands for."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return _all_loopback(host)


def _all_loopback(name: str) -> bool:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError as error:
        raise UiError(f"--host {name}: expected an address or a name of this machine ({error})") from error
    return all(ipaddress.ip_address(address).is_loopback for address in found)


def server(options: argparse.Namespace, environment: Mapping[str, str]) -> Server:
    """What to run. Raises UiError where others could reach it and nothing was said of that, or --auth cannot be."""
    if not (options.auth or options.no_auth or is_loopback(options.host)):
        raise UiError(
            f"--host {options.host}: others can reach it there, and MLflow asks nobody for anything; "
            "add --auth to ask for a password, or --no-auth to let everybody read, change and delete runs"
        )
    store = Path(options.store)
    words = [
        *("server", "--backend-store-uri", options.backend_store_uri or f"sqlite:///{store}/mlflow.db"),
        *("--default-artifact-root", str(store / "mlartifacts")),
        *("--host", options.host, "--port", str(options.port), "--workers", "1"),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = {name: value for name, value in quiet.items() if name not in environment}
    if not options.auth:
        return Server(words, quiet)
    return Server([*words, "--app-name", "basic-auth"], quiet | _accounts(store, environment))


def _accounts(store: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server that asks for a password: who may in lies beside mlflow.db, for its owner alone."""
    import importlib.util

    if importlib.util.find_spec("flask_wtf") is None:
        raise UiError("--auth: MLflow needs the package Flask-WTF for it; pip install Flask-WTF")
    made = {} if SECRET in environment else {SECRET: secrets.token_hex(32)}
    if CONFIG in environment:
        return made
    known = store.resolve() / f"{ACCOUNTS}.db"
    if not _is_filled(known) and not environment.get(PASSWORD):
        raise UiError(f"--auth: set {PASSWORD} to what admin shall log in with; later it lies in {known}")
    return made | {CONFIG: str(_write_accounts(store.resolve(), known))}


def _write_accounts(store: Path, known: Path) -> Path:
    from phasegpt.files import write_text

    config = store / f"{ACCOUNTS}.ini"
    if not _is_filled(known):
        write_text(known, "", 0o600)  # an empty file is an empty database
    write_text(
        config, f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{known}\nadmin_username = admin\n"
    )
    return config


def _is_filled(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def main(argv: Sequence[str] | None = None) -> int:
    """Become the server, or say why not."""
    options = parser().parse_args(argv)
    try:
        made = server(options, os.environ)
    except UiError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    sys.stderr.write(f"MLflow's UI on http://{options.host}:{options.port}; Ctrl-C ends it\n")
    sys.stderr.flush()
    command = [sys.executable, "-m", "mlflow", *made.words]
    os.execve(sys.executable, command, {**os.environ, **made.environment})  # noqa: S606 - no shell: words, not text


if __name__ == "__main__":
    sys.exit(main())
