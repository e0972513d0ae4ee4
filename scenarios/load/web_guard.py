"""No users: what protects Locust's web UI from other web sites open in the same browser.

Locust allows every origin. A page from anywhere could start a load test here; so a request that names another
origin, or reaches us under a name that is not ours (DNS rebinding), is refused.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Response, abort, request
from locust import events

_LOCAL = {"127.0.0.1", "localhost", "::1"}


@events.init.add_listener
def _guard(environment: Any, **_: Any) -> None:
    if environment.web_ui is None:
        return
    names = _LOCAL | {environment.web_ui.host}
    open_to_all = environment.web_ui.host in ("0.0.0.0", "::", "", "*")

    @environment.web_ui.app.before_request
    def _refuse_strangers() -> None:
        host = urlsplit(f"//{request.host}").hostname
        origin = request.headers.get("Origin")
        if not open_to_all and host not in names:
            abort(403, f"this web UI is not {request.host}")
        if origin is not None and urlsplit(origin).netloc != request.host:
            abort(403, f"requests from {origin} are not accepted")

    def _allow_no_other_origin(response: Response) -> Response:
        response.headers.pop("Access-Control-Allow-Origin", None)
        return response

    # Flask runs these last to first: so ours comes after Locust's, which sets the header
    environment.web_ui.app.after_request_funcs.setdefault(None, []).insert(0, _allow_no_other_origin)
