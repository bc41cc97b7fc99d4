"""The trials of a search as a saved view of MLflow's runs table, with the columns and the order that matter.

It lies under Views in the UI. MLflow 3.17 keeps such views as tags of the experiment; a version that does not know them
leaves them alone.
"""

import base64
import json
import time
import zlib
from collections.abc import Mapping, Sequence

VIEW_TAG = "mlflow.sharedViewState."
MOST = 50
"""Views of searches that stay, the newest: MLflow reads all tags of the experiment whenever it creates a run."""
AT_ONCE = 10
"""Older ones that go when a view comes, so that a store from before this limit does not keep a search's start."""
SHOWN_TAGS = ("trial_state", "winner", "why")


def trials_view(search: str, params: Sequence[str], objectives: Mapping[str, str]) -> tuple[str, str]:
    """(key, value) of the experiment's tag: the trials of `search` alone, best first, with values and objectives.

    `params` are key paths; `objectives` {metric: max or min}, of which the first gives the order.
    """
    first, way = next(iter(objectives.items()))
    metrics = (*objectives, f"eval/{first}")  # a trial that was stopped early has the latter alone
    columns = [*_names("metrics", metrics), *_names("params", params), *_names("tags", SHOWN_TAGS)]
    state = {
        "searchFilter": f"tags.search = '{search}' and tags.kind = 'trial'",
        "orderByKey": _name("metrics", first),
        "orderByAsc": way == "min",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOWALL",
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    now = int(time.time() * 1000)
    view = {"name": view_name(search), "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    return f"{VIEW_TAG}{search}", json.dumps(view)


def view_name(search: str) -> str:
    """What the view is called in the list of views."""
    return f"{search}: trials"


def surplus(tags: Mapping[str, str]) -> list[str]:
    """Of an experiment's tags the views of searches that may go, the oldest first; never those that people saved."""
    made = {}
    for key, value in tags.items():
        if key.startswith(VIEW_TAG) and (at := _made_by_a_search(key.removeprefix(VIEW_TAG), value)) is not None:
            made[key] = at
    return sorted(made, key=lambda key: made[key])[: max(0, min(len(made) - MOST, AT_ONCE))]


def _made_by_a_search(search: str, value: str) -> float | None:
    """When the view of a search was made, None for any other."""
    try:
        view = json.loads(value)
        return float(view["createdAt"]) if view["name"] == view_name(search) else None
    except (ValueError, KeyError, TypeError):
        return None


def _names(kind: str, names: Sequence[str]) -> list[str]:
    return [_name(kind, name) for name in names]


def _name(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
