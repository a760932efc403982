from __future__ import annotations

import http.client
import re
import ssl
import time
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.simulator.small_world import PASSWORD, USER, RunningSimulator


def post(wire: RunningSimulator, body: str, headers: dict[str, str]) -> tuple[int, str, str | None]:
    connection = http.client.HTTPSConnection("127.0.0.1", wire.simulator.port, context=wire.ssl_context())
    try:
        chunks = (body[at : at + 50].encode() for at in range(0, len(body), 50))
        connection.request("POST", "/sdk", chunks, headers, encode_chunked=True)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.getheader("Set-Cookie")
    finally:
        connection.close()


def envelope(operation: str, prefix: str = "soap") -> str:
    return (
        f'<?xml version="1.0"?><{prefix}:Envelope xmlns:{prefix}="http://schemas.xmlsoap.org/soap/envelope/" '
        'xmlns:x1="http://www.w3.org/2001/XMLSchema-instance"><'
        f"{prefix}:Body>{operation}</{prefix}:Body></{prefix}:Envelope>"
    )


def test_pyvmomi_logs_in_over_verified_tls_and_sees_the_advertised_version(client: Any) -> None:
    content = client.RetrieveContent()
    assert (content.about.apiVersion, content.about.apiType) == ("8.0.2.0", "VirtualCenter")
    assert client._stub.version == "vim.version.v8_0_2_0"
    assert content.sessionManager.currentSession.userName == USER


def test_an_untrusting_client_refuses_the_certificate(wire: RunningSimulator) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        wire.connect(sslContext=ssl.create_default_context())


def test_a_wrong_password_is_an_invalid_login(wire: RunningSimulator) -> None:
    manager = wire.stranger().RetrieveContent().sessionManager
    for user, password in [(USER, "wrong"), ("nobody", PASSWORD)]:
        with pytest.raises(vim.fault.InvalidLogin):
            manager.Login(user, password)
    assert manager.currentSession is None


def test_a_call_after_logout_is_not_authenticated(wire: RunningSimulator) -> None:
    client = wire.connect()
    content = client.RetrieveContent()
    content.sessionManager.Logout()
    assert content.sessionManager.currentSession is None
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = content.rootFolder.name
    assert client.CurrentTime() is not None


def test_sessions_can_be_listed_checked_and_terminated(wire: RunningSimulator, client: Any) -> None:
    other = wire.connect()
    key = other.content.sessionManager.currentSession.key
    manager = client.content.sessionManager
    assert key in [session.key for session in manager.sessionList]
    assert manager.SessionIsActive(sessionID=key, userName=USER)
    manager.TerminateSession([key])
    assert not manager.SessionIsActive(sessionID=key, userName=USER)
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = other.content.rootFolder.name
    with pytest.raises(vim.fault.NotFound):
        manager.TerminateSession([key])


def test_an_idle_session_ends_and_takes_its_collectors_along() -> None:
    with RunningSimulator(session_idle_s=0.3) as wire:
        client = wire.connect()
        manager = client.content.eventManager
        collector = manager.CreateCollectorForEvents(vim.event.EventFilterSpec())
        listeners = len(wire.registry.events.listeners)
        time.sleep(0.5)
        with pytest.raises(vim.fault.NotAuthenticated):
            collector.ReadNextEvents(10)
        assert len(wire.registry.events.listeners) == listeners - 1


def test_any_prefix_an_unquoted_action_of_a_newer_version_and_chunks_are_accepted(wire: RunningSimulator) -> None:
    login = (
        '<Login xmlns="urn:vim25"><_this type="SessionManager" x1:type="ManagedObjectReference">SessionManager</_this>'
        f"<userName>{USER}</userName><password>{PASSWORD}</password></Login>"
    )
    status, body, cookie = post(wire, envelope(login), {"SOAPAction": "urn:vim25/9.1.0.0"})
    assert status == 200
    assert "<LoginResponse" in body
    assert cookie is not None
    assert re.fullmatch(r'vmware_soap_session="[^"]+"; Path=/; HttpOnly; Secure', cookie)
    logout = '<v:Logout xmlns:v="urn:vim25"><v:_this type="SessionManager">SessionManager</v:_this></v:Logout>'
    status, body, _ = post(wire, envelope(logout, "S"), {"SOAPAction": '"urn:vim25/6.7"', "Cookie": cookie})
    assert status == 200


@pytest.mark.parametrize("body", ["", "<a>", "<a/>", "not xml at all"])
def test_what_is_no_envelope_is_an_invalid_request(wire: RunningSimulator, body: str) -> None:
    status, answer, _ = post(wire, body, {"SOAPAction": "urn:vim25/8.0.2.0"})
    assert status == 500
    assert "InvalidRequestFault" in answer


def test_an_unknown_object_and_an_unknown_operation_have_their_faults(client: Any) -> None:
    stub = client._stub
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as missing:
        _ = vim.HostSystem("host-9999", stub).name
    assert missing.value.obj._moId == "host-9999"
    with pytest.raises(vmodl.fault.MethodNotFound):
        vim.HostSystem("host-100", stub).Destroy()


def test_the_version_list_names_all_versions_up_to_the_advertised_one(wire: RunningSimulator) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", wire.simulator.port, context=wire.ssl_context())
    connection.request("GET", "/sdk/vimServiceVersions.xml")
    listed = connection.getresponse().read().decode()
    connection.close()
    assert re.findall("<name>(.*?)</name><version>(.*?)</version>", listed) == [("urn:vim25", "8.0.2.0")]
    prior = listed.partition("priorVersions")[2]
    assert "<version>7.0.0.0</version>" in prior
    assert "9.0.0.0" not in listed
