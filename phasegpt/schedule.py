"""How long a run is, in optimizer steps. Plain arithmetic that the trainer and the plan share."""

import math


def optimizer_steps(pairs: int, batch_size: int, accumulation: int, epochs: int, max_steps: int | None) -> int:
    """Steps of `epochs` passes over `pairs`, a step taking `accumulation` batches of `batch_size`; at most `max_steps`.

    The last step of an epoch may hold fewer pairs.
    """
    by_epochs = math.ceil(math.ceil(pairs / batch_size) / accumulation) * epochs
    return by_epochs if max_steps is None else min(max_steps, by_epochs)
