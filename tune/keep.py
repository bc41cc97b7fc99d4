"""What of a search's checkpoints may go: `search.keep` as a function of what lies there and of how its job stands.

Knows no disk, no study and no MLflow: `standing` finds out how jobs stand, `sweep` asks here and removes.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from phasegpt.checkpoint_files import ADAPTER
from phasegpt.config_search import Keep

CHECKPOINT = re.compile(r"checkpoint-\d+")
REMNANT = re.compile(rf"\.(checkpoint-\d+|{ADAPTER})\..+")
"""What a crash leaves of a folder that was being written or removed."""


@dataclass(frozen=True)
class Standing:
    """How a job of a search stands, as far as its folder goes; what is not known is as if it were needed.

    `ended`: nothing goes on from it any more, and its end is on record. `named`: the config of some run, or a command,
    names its folder. `wanted`: a clone that has not ended begins with its adapter. `finalist`: it is a final, or the
    trial of one. `delivered`: MLflow has its adapter, or was to get none.
    """

    ended: bool = False
    named: bool = True
    wanted: bool = True
    finalist: bool = True
    delivered: bool = False


def may_go(names: Collection[str], job: Standing, keep: Keep, *, concluded: bool) -> list[str]:
    """Of the `names` in a job's folder those that nobody needs; `concluded` once the search has its winner.

    What a job resumes from goes with its end: for all that comes after, its adapter is enough. Adapters go when the
    winner is known, save those of finalists and those that somebody may still ask for.
    """
    if keep == "all" or not job.ended or job.named or (job.wanted and ADAPTER not in names):
        return []
    spare = concluded and job.delivered and not (job.finalist or job.wanted)
    going = [name for name in names if CHECKPOINT.fullmatch(name) or REMNANT.fullmatch(name)]
    return [*going, ADAPTER] if spare and ADAPTER in names else going
