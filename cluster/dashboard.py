"""What Ray's dashboard answers over http: the version of the cluster and its nodes. Needs no Ray here."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

from tune.request import RequestError

REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
UNITS = ("CPU", "GPU")


@dataclass(frozen=True)
class Dashboard:
    """A cluster by the address of its dashboard, http://HEAD:8265, and the token that it asks for."""

    address: str
    token: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def get(self, path: str, timeout: float = 10.0) -> Any:
        """The answer to a path, out of JSON. Raises RequestError where there is none or the token is refused."""
        request = urllib.request.Request(self.address + path, headers=self.headers)  # noqa: S310 - http, as checked
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RequestError(self._refusal(error)) from error
        except (OSError, HTTPException, ValueError) as error:
            raise RequestError(
                f"no Ray cluster answers at {self.address} ({error}); check the address and that it runs, "
                f"or start one here: python -m cluster.local start"
            ) from error

    def ray_version(self) -> str:
        """The version of Ray that runs there."""
        return str(self.get("/api/version")["ray_version"])

    def nodes(self) -> list[Mapping[str, float]]:
        """What each living node has, as `tune.capacity` takes it, of what people count in."""
        summary = self.get("/nodes?view=summary")["data"]["summary"]
        raylets = [node["raylet"] for node in summary if node["raylet"].get("state") == "ALIVE"]
        return [{name: raylet["resourcesTotal"].get(name, 0.0) for name in UNITS} for raylet in raylets]

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        if error.code not in REFUSED:
            return f"{self.address} answered {error.code} {error.reason}; is it the dashboard of a Ray cluster?"
        given = "refuses this token" if self.token else "asks for a token"
        return (
            f"the cluster at {self.address} {given}; put the cluster's own into a file that only you can read, "
            f"and name it in RAY_AUTH_TOKEN_PATH"
        )
