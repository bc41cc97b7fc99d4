"""Room for a search: what the cluster has now, or, where it grows, what it has once the first job fits.

A cluster that cannot grow is refused with what it has. Once the search runs its own jobs ask for more nodes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from tune.capacity import Ask, ClusterError, Node, Slots, bundles, slots
from tune.growth import asked_for, may_come

LOOK_EVERY, SAY_EVERY = 2.0, 60.0
"""Seconds between two looks at the nodes, and between two words about them."""

Look = Callable[[], Sequence[Node]]
Say = Callable[[str], None]


def find_room(look: Look, ask: Ask, max_concurrent: int | None, minutes: float, say: Say) -> Slots:
    """The room for a search on a cluster that others have started; waits for nodes for at most so many `minutes`.

    Begins with the first job that fits. `max_concurrent` jobs at once are taken for granted where the cluster may grow
    to more than there are. `say` hears what is waited for. Raises ClusterError where not even one job will fit.
    """
    nodes = look()
    try:
        found = slots(nodes, ask, max_concurrent)
    except ClusterError as error:
        found = slots(_grown(look, ask, minutes, say, error), ask, max_concurrent)
    if max_concurrent is None or found.count >= max_concurrent:
        return found
    with asked_for(found.count + 1, bundles(look(), ask), ask.placement) as groups:
        grows = may_come(groups)
    if not grows:
        return found
    say(f"room for {found.count} at once; up to {max_concurrent} as the cluster grows")
    return replace(found, count=max_concurrent)


def _grown(look: Look, ask: Ask, minutes: float, say: Say, refusal: ClusterError) -> Sequence[Node]:
    """The nodes once one job fits on them. Raises the refusal where they cannot come, one like it where they do not."""
    with asked_for(1, bundles(look(), ask), ask.placement) as groups:
        if not may_come(groups):
            raise refusal
        begun = said = time.monotonic()
        wanted = str(refusal).rpartition("; ")[0]
        say(f"waiting for the cluster to grow, at most {minutes:g} min (--wait-minutes): {wanted}")
        while (now := time.monotonic()) - begun < 60 * minutes:
            nodes = look()
            if _fits(nodes, ask):
                say(f"the cluster has grown; waited {now - begun:.0f} s")
                return nodes
            if now - said > SAY_EVERY:
                said = now
                say(f"still waiting after {(now - begun) / 60:.0f} min, with {len(nodes)} nodes here")
            time.sleep(LOOK_EVERY)
    raise ClusterError(f"{wanted}; no more came in {minutes:g} min: see ray status, or wait longer (--wait-minutes)")


def _fits(nodes: Sequence[Node], ask: Ask) -> bool:
    try:
        slots(nodes, ask)
    except ClusterError:
        return False
    return True
