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


def _names(kind: str, names: Sequence[str]) -> list[str]:
    return [_name(kind, name) for name in names]


def _name(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
