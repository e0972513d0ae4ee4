"""No users: what makes Locust's start form speak of workloads and optimizations.

Locust files the switches under folded "Custom parameters", in alphabetical order, and ticks every workload. A newcomer
must see the switches at once, in the plan's order, know what each workload asks, and start with one of them. And a
test that cannot start must say so in the form, where Locust would show it as running. The form that edits a running
test has no switches, because only a start reads them.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

from flask import Response, jsonify, request
from gevent.queue import Empty, Queue
from locust import events
from locust.runners import STATE_RUNNING, STATE_SPAWNING
from werkzeug.datastructures import ImmutableMultiDict, MultiDict

from reference_impl.optimizations import OPTIMIZATIONS
from scenarios.load.session import READY_SECONDS, on_failed_start

FIRST = "SurgeUser"
TITLE = "Optimizations: what is switched on, at both ends"
_SCRIPT = """
<script>
(questions => {
  const say = (node, text) => { if (node && node.textContent !== text) node.textContent = text; };
  const explain = row => {
    const [tick, name, about] = row.cells;
    if (!name || !about || !(name.textContent in questions)) return;
    say(about, questions[name.textContent]);
    const box = tick.querySelector("input");
    if (row.dataset.seen) return;
    row.dataset.seen = "yes";
    if (box.checked && name.textContent !== FIRST) box.click();
  };
  const unfold = title => {
    if (title.childElementCount || title.textContent !== "Custom parameters") return;
    title.textContent = TITLE;
    const says = [...title.closest("form")?.querySelectorAll("button") ?? []].map(button => button.textContent);
    if (says.includes("Update")) title.closest(".MuiAccordion-root").style.display = "none";
    else title.closest("button")?.click();
  };
  new MutationObserver(() => {
    document.querySelectorAll("tr").forEach(explain);
    document.querySelectorAll("button span, button p").forEach(unfold);
  }).observe(document.body, {childList: true, subtree: true});
})(QUESTIONS);
</script>
</body>"""


@events.init.add_listener
def _speak(environment: Any, **_: Any) -> None:
    if environment.web_ui is None:
        return
    app = environment.web_ui.app
    app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the plan's order of the optimizations
    script = (
        _SCRIPT.replace("QUESTIONS", json.dumps(_questions(environment)))
        .replace("TITLE", json.dumps(TITLE))
        .replace("FIRST", json.dumps(FIRST))
    )

    @app.after_request
    def _explain(response: Response) -> Response:
        if request.endpoint == "locust.index" and response.mimetype == "text/html":
            response.set_data(response.get_data(as_text=True).replace("</body>", script))
        # Locust's page stops asking once it has seen "cleanup", and would wait for the end of it for ever
        if request.endpoint == "locust.request_stats":
            response.set_data(response.get_data().replace(b'"state": "cleanup"', b'"state": "running"'))
        return response


@events.init.add_listener
def _announce(environment: Any, **_: Any) -> None:
    """Say where the form is when nothing in the options can keep it from coming up any more."""
    if environment.web_ui is not None:
        web = environment.web_ui
        host = f"[{web.host}]" if ":" in web.host else web.host
        sys.stderr.write(f"the web UI is at http://{host}:{web.port}  (Ctrl-C ends it)\n")
        sys.stderr.flush()


@events.init.add_listener
def _answer_for_the_start(environment: Any, **_: Any) -> None:
    """Let the form's request wait for the outcome of the start it asked for."""
    if environment.web_ui is None:
        return
    outcomes: Queue[str] = Queue()
    environment.events.test_start.add_listener(lambda **_: outcomes.put(""))
    on_failed_start.append(outcomes.put)
    views = environment.web_ui.app.view_functions
    begin = views["locust.swarm"]

    def swarm() -> Response:
        while not outcomes.empty():
            outcomes.get()
        running = environment.runner.state in (STATE_RUNNING, STATE_SPAWNING)
        message = _another_test(environment) if running else ""
        if message:
            return jsonify(success=False, message=message, host=environment.host)
        if running:
            _keep_workloads(environment)
        response: Response = begin()
        if running or not response.get_json()["success"]:
            return response
        with suppress(Empty):  # stopped before it had started
            message = outcomes.get(timeout=2 * READY_SECONDS)
        return jsonify(success=False, message=message, host=environment.host) if message else response

    views["locust.swarm"] = swarm


def _another_test(environment: Any) -> str:
    """Why the running test cannot become what the form asks for; "" when only its users change.

    Locust would take the switches for set, and fail over workloads that are exchanged.
    """
    options, form = environment.parsed_options, request.form
    asked, chosen = {*form.getlist("user_classes")}, _chosen(environment)
    changed = [name for name in OPTIMIZATIONS if name in form and (form[name] == "true") != getattr(options, name)]
    if changed:
        return f"{', '.join(changed)}: a running test keeps its optimizations; stop it, start it anew"
    if asked and asked not in ({*chosen}, {*environment.available_user_classes}):
        return f"{', '.join(chosen)} is running; stop it before another workload is started"
    return ""


def _keep_workloads(environment: Any) -> None:
    """The form that edits a running test offers no workloads, but asks for every one."""
    form = MultiDict(request.form)
    form.setlist("user_classes", _chosen(environment))
    request.form = ImmutableMultiDict(form)


def _chosen(environment: Any) -> list[str]:
    return sorted(kind.__name__ for kind in environment.user_classes)


def _questions(environment: Any) -> dict[str, str]:
    """Class name of each workload's user -> the question that its file asks in its first sentence."""
    asked = {}
    for name, kind in (environment.available_user_classes or {}).items():
        sentence = (sys.modules[kind.__module__].__doc__ or "").split("?")[0].replace("\n", " ")
        asked[name] = f"{sentence}?" if sentence else ""
    return asked
