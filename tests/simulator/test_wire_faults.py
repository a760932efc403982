from __future__ import annotations

import base64
import http.client
import json
import time
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulator.faults import FaultInjector
from tests.simulator.small_world import PASSWORD, USER, RunningSimulator


def control(
    wire: RunningSimulator, method: str, path: str, body: Any = None, password: str = PASSWORD
) -> tuple[int, Any]:
    connection = http.client.HTTPSConnection("127.0.0.1", wire.simulator.port, context=wire.ssl_context())
    try:
        login = base64.b64encode(f"{USER}:{password}".encode()).decode()
        text = body if isinstance(body, str) else json.dumps(body)
        connection.request(method, path, text if body is not None else None, {"Authorization": f"Basic {login}"})
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def add(wire: RunningSimulator, **rule: Any) -> int:
    status, added = control(wire, "POST", "/simulator/faults", rule)
    assert status == 200, added
    return int(added["id"])


def host(client: Any, number: int = 0) -> Any:
    return vim.HostSystem(f"host-{100 + number}", client._stub)


def test_a_rule_fails_matching_calls_until_it_is_used_up(wire: RunningSimulator, client: Any) -> None:
    add(wire, method="Reboot*", object="esx-1", error="HostConnectFault", message="no route", times=1)
    host(client, 0).RebootHost_Task(force=True)
    with pytest.raises(vim.fault.HostConnectFault) as failed:
        host(client, 1).RebootHost_Task(force=True)
    assert failed.value.msg == "no route"
    host(client, 1).RebootHost_Task(force=True)
    assert control(wire, "GET", "/simulator/faults")[1]["faults"][0]["hits"] == 1


def test_a_rule_delays_calls(wire: RunningSimulator, client: Any) -> None:
    rule = add(wire, method="CurrentTime", delay_s=0.3)
    began = time.monotonic()
    client.CurrentTime()
    assert time.monotonic() - began >= 0.3
    assert control(wire, "DELETE", f"/simulator/faults/{rule}") == (200, {"removed": 1})
    began = time.monotonic()
    client.CurrentTime()
    assert time.monotonic() - began < 0.3


@pytest.mark.parametrize(("when", "performed"), [("before", 0), ("after", 1)])
def test_a_dropped_call_gets_no_answer_and_is_performed_only_when_half_done(
    wire: RunningSimulator, client: Any, when: str, performed: int
) -> None:
    tasks = len(client.content.taskManager.recentTask)
    add(wire, method="RebootHost_Task", drop=when, times=1)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        host(client).RebootHost_Task(force=True)
    assert len(client.content.taskManager.recentTask) == tasks + performed


def test_killed_sessions_must_log_in_again(wire: RunningSimulator) -> None:
    client = wire.connect()
    key = client.content.sessionManager.currentSession.key
    assert control(wire, "POST", "/simulator/sessions/kill", {"key": key}) == (200, {"killed": 1})
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = client.content.rootFolder.name


def test_an_outage_refuses_connections_and_ends() -> None:
    with RunningSimulator() as wire:
        client = wire.connect()
        assert control(wire, "POST", "/simulator/outage", {"seconds": 0.5})[0] == 200
        time.sleep(0.2)
        with pytest.raises(OSError, match="refused"):
            control(wire, "GET", "/simulator/faults")
        with pytest.raises((http.client.HTTPException, OSError)):
            client.CurrentTime()
        time.sleep(0.6)
        assert client.CurrentTime() is not None


def test_actions_change_the_world_and_refusals_say_why(wire: RunningSimulator, client: Any) -> None:
    status, answer = control(wire, "POST", "/simulator/actions/add_host", {"name": "esx-by-action"})
    assert status == 200
    assert vim.HostSystem(answer["result"], client._stub).name == "esx-by-action"
    assert control(wire, "GET", "/simulator/actions")[1]["actions"]["break"] == "() -> 'None'"
    assert control(wire, "POST", "/simulator/actions/break", {}) == (409, {"error": "break: nothing to break"})


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/simulator/faults", "{", 400, "not JSON"),
        ("/simulator/faults", [], 400, "not a JSON object"),
        ("/simulator/faults", {"method": "*"}, 422, "needs an effect"),
        ("/simulator/faults", {"error": "Nonsense"}, 422, "no vSphere fault"),
        ("/simulator/faults", {"drop": "during"}, 422, "neither `before` nor `after`"),
        ("/simulator/faults", {"delay": 1}, 422, "delay: unknown"),
        ("/simulator/faults", {"delay_s": -1}, 422, "delay_s"),
        ("/simulator/faults", {"delay_s": 1, "times": 0}, 422, "times"),
        ("/simulator/faults", {"delay_s": 1, "probability": 2}, 422, "probability"),
        ("/simulator/outage", {}, 422, "seconds"),
        ("/simulator/sessions/kill", {"id": 1}, 422, "at most `key`"),
        ("/simulator/actions/dance", {}, 404, "known are add_host"),
        ("/simulator/actions/add_host", {"nam": "x"}, 422, "add_host"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    wire: RunningSimulator, path: str, body: Any, status: int, words: str
) -> None:
    answered, answer = control(wire, "POST", path, body)
    assert (answered, words in answer["error"]) == (status, True), answer


def test_the_control_api_wants_the_password(wire: RunningSimulator) -> None:
    status, answer = control(wire, "GET", "/simulator/faults", password="wrong")
    assert status == 401
    assert "basic authentication" in answer["error"]


def test_dice_fall_the_same_for_the_same_seed(wire: RunningSimulator) -> None:
    def hits(seed: int) -> list[bool]:
        injector = FaultInjector(seed)
        injector.add({"error": "Timedout", "probability": 0.5})
        session = next(iter(wire.simulator.sessions), None) or _NoSession()
        return [injector.match("X", wire.world.hosts[0], session) is not None for _ in range(40)]

    assert hits(1) == hits(1)
    assert hits(1) != hits(2)
    assert 5 < sum(hits(1)) < 35


class _NoSession:
    key = "none"
    user = "none"


def test_a_bug_in_a_law_reaches_the_client_as_a_system_error(wire: RunningSimulator, client: Any) -> None:
    def broken(call: Any, force: bool) -> None:
        raise ZeroDivisionError("a bug")

    host_class = type(wire.world.hosts[0])
    original = host_class.methods["RebootHost_Task"]
    host_class.methods["RebootHost_Task"] = lambda self, call, force: broken(call, force)
    try:
        with pytest.raises(vmodl.fault.SystemError) as failed:
            host(client).RebootHost_Task(force=True)
    finally:
        host_class.methods["RebootHost_Task"] = original
    assert "a bug" in failed.value.msg
