"""The keys of an object storage on their way from the driver to a job: by Ray's objects, which nobody lists.

Ray Tune would put them into the command lines of its processes, for everybody on the machine to see.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
Trainable = Callable[[Mapping[str, Any]], None]


def with_keys(trainable: Trainable) -> Trainable:
    """`trainable` in an environment with those of KEYS that this process has. Ray must be running."""
    class_cache.ENV_VARS_TO_PROPAGATE -= KEYS
    own = {name: os.environ[name] for name in KEYS if name in os.environ}
    if not own:
        return trainable

    def keyed(config: Mapping[str, Any], keys: Mapping[str, str]) -> None:
        os.environ.update(keys)
        trainable(config)

    passed: Trainable = tune.with_parameters(keyed, keys=own)
    return passed
