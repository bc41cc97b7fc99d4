"""What Ray reads from the environment, once, when it is first imported. Set before that import."""

import os
import secrets

SETTINGS = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # progress reports carry no objective
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "120",  # a stopped trial ends its step first; only then is its actor reused
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end, or the death, of a worker is seen
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are ours to write
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # its own state of a search, which nothing reads (resume is replay)
    "RAY_AIR_NEW_OUTPUT": "0",  # its new output prints to the terminal even when silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same everywhere
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor more for each run; a node that goes is a worker that died
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves this machine unasked
}

ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Off, a node takes the loopback address for its own, on Linux too, and then all its ports listen there alone. Nothing
else makes them: an address that `ray.init` is given is replaced by one that others reach."""


def prepare(own_cluster: bool) -> None:
    """Set what is not set yet. A cluster of our own listens on the loopback address alone and asks for a fresh token,
    since other users of the machine reach it there.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if own_cluster:
        os.environ.setdefault(ONE_MACHINE, "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
