"""Two searches where one was meant: of the same name, and on one cluster."""

import random
import time

from tests.faults.invariants import broken
from tests.faults.place import ended, last_line
from tests.faults.struck import TRIALS, Cluster, Fault, outcome


def same_name(cluster: Cluster, seed: int) -> str:
    """Two searches of the same name at once: one runs, the other is refused."""
    dice, place = random.Random(f"same/{seed}"), cluster.place(seed)  # noqa: S311 - moments, not secrets
    one = place.start(*cluster.words())
    time.sleep(dice.uniform(0.0, 5.0))
    other = place.start(*cluster.words())
    ends = [ended(one), ended(other)]
    if sorted(status for status, _ in ends) != [0, 2]:
        return f"they ended with {[status for status, _ in ends]}: {last_line(ends[1][1])}"
    return outcome(place, 0, "", [])


def two_searches(cluster: Cluster, seed: int) -> str:
    """Two searches on one cluster, in one storage, with one MLflow."""
    place = cluster.place(seed)
    one, other = place.start(*cluster.words()), place.start(*cluster.words("other"))
    ends = [ended(one), ended(other)]
    if any(status for status, _ in ends):
        return f"they ended with {[status for status, _ in ends]}: {last_line(ends[1][1] or ends[0][1])}"
    wrong = [line for name in ("killed", "other") for line in broken(place.folder, name, TRIALS)]
    return "; ".join(wrong) or "whole"


DOUBLE_FAULTS: dict[str, Fault] = {"same_name": same_name, "two_searches": two_searches}
