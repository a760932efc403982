"""TLS, login, re-login and the promise that a change is sent once."""

import socket
import ssl
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from pyVmomi import vim
from structlog.testing import capture_logs

from contracts.errors import BadRequest, Unreachable
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from vsphere import hosts
from vsphere.connection import Endpoint, GatewayStub
from vsphere.inventory import find_host, host_index
from vsphere.sessions import SessionPool, api_version, content


def test_the_newest_common_version_is_spoken(si: vim.ServiceInstance) -> None:
    assert api_version(si) == "8.0.2.0"


def test_a_wrong_password_names_vcenter_user_and_source(world: World, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not this one")
    with (
        SessionPool(world.settings(password_file=wrong)) as pool,
        pytest.raises(BadRequest) as refused,
        pool.session(),
    ):
        pass
    for part in (world.name, world.user, str(wrong), "correct 'user' or the password"):
        assert part in str(refused.value)
    assert "not this one" not in str(refused.value)


def test_an_untrusted_certificate_names_the_options_also_on_localhost(world: World) -> None:
    pool = SessionPool(world.settings(ca_file=None, server_cert_file=None))
    with (
        pytest.raises(BadRequest, match=r"certificate is not trusted .* 'ca_file', .* 'server_cert_file'"),
        pool.session(),
    ):
        pass


def test_a_pinned_certificate_is_all_the_trust_needed(world: World, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    pem.write_text(ssl.get_server_certificate((world.host, world.port)))
    with SessionPool(world.settings(ca_file=None, server_cert_file=pem)) as pool, pool.session() as si:
        assert content(si).about.apiType == "VirtualCenter"


def test_another_certificate_than_the_pinned_one_is_refused(world: World, tmp_path: Path) -> None:
    pem = tmp_path / "other.pem"
    trustme.CA().issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(str(pem))
    pool = SessionPool(world.settings(ca_file=None, server_cert_file=pem))
    with pytest.raises(BadRequest, match=r"is not the pinned one in .*other\.pem"), pool.session():
        pass


def test_a_certificate_file_that_is_replaced_counts_for_the_next_connection(world: World, tmp_path: Path) -> None:
    pem, own = tmp_path / "pinned.pem", ssl.get_server_certificate((world.host, world.port))
    other = trustme.CA().issue_cert("127.0.0.1").cert_chain_pems[0]
    other.write_to_path(str(pem))
    endpoint = Endpoint(world.settings(ca_file=None, server_cert_file=pem))
    with pytest.raises(BadRequest, match=r"not the pinned one in .*pinned\.pem"):
        endpoint.connect()
    pem.write_text(own)
    endpoint.connect().close()
    # Half written or gone for a moment, it leaves the trust as it was.
    pem.write_text(own[: len(own) // 2])
    endpoint.connect().close()
    pem.unlink()
    endpoint.connect().close()
    other.write_to_path(str(pem))
    with pytest.raises(BadRequest, match=r"not the pinned one in .*pinned\.pem"):
        endpoint.connect()


def test_a_certificate_file_that_is_none_is_named(world: World, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("hello")
    with pytest.raises(BadRequest, match=r"server_cert_file .*bad\.pem cannot be used"):
        SessionPool(world.settings(ca_file=None, server_cert_file=bad))
    with pytest.raises(BadRequest, match=r"ca_file .*bad\.pem cannot be used"):
        SessionPool(world.settings(ca_file=bad, server_cert_file=None))


def test_skipping_verification_is_loud_each_time(world: World) -> None:
    insecure = world.settings(ca_file=None, server_cert_file=None, insecure_skip_verify=True)
    with capture_logs() as logs, SessionPool(insecure) as pool:
        for _ in range(2):
            with pool.session() as si:
                si._stub.DropConnections()
                si.CurrentTime()
    warnings = [entry for entry in logs if entry["event"] == "tls_verification_off"]
    assert len(warnings) >= 3
    assert {(entry["log_level"], entry["vcenter"]) for entry in warnings} == {("warning", world.name)}


def test_a_vcenter_that_is_down_is_unreachable(world: World) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings = world.settings(url=f"127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(Unreachable, match="nothing was sent"), SessionPool(settings).session():
            pass


def test_a_server_that_never_answers_is_unreachable_in_time(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = world.settings(url=f"127.0.0.1:{silent.getsockname()[1]}", connect_timeout_s=0.3)
        with pytest.raises(Unreachable, match=r"no connection within 0\.3 s"), SessionPool(settings).session():
            pass


def test_sessions_are_bounded_and_shared(world: World) -> None:
    with SessionPool(world.settings(max_sessions=2)) as pool:
        with pool.session() as first, pool.session() as second, pool.session() as third:
            assert first is not second
            assert third in (first, second)
        with pool.session() as again:
            assert again in (first, second)


def test_many_threads_open_no_more_than_the_limit(world: World) -> None:
    stubs = set()
    with SessionPool(world.settings(max_sessions=2)) as pool:

        def read() -> None:
            with pool.session() as si:
                si.CurrentTime()
                stubs.add(id(si._stub))

        threads = [threading.Thread(target=read) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= len(stubs) <= 2


def test_reads_log_in_again_after_the_session_ended(world: World) -> None:
    with SessionPool(world.settings()) as pool, pool.session() as si:
        before = si._stub.cookie
        content(si).sessionManager.Logout()
        assert host_index(si, world.name).find(world.hosts[0]).cluster_name == world.cluster
        assert si._stub.cookie != before


def test_an_idle_session_is_kept_alive_and_logged_in(world: World) -> None:
    with SessionPool(world.settings(keep_alive_s=0.2)) as pool:
        with pool.session() as si:
            content(si).sessionManager.Logout()
            ended = si._stub.cookie
        for _ in range(100):
            if si._stub.cookie != ended:
                break
            threading.Event().wait(0.05)
        assert content(si).sessionManager.currentSession is not None


def test_connections_that_the_server_closed_disturb_neither_reads_nor_changes(world: World) -> None:
    with SessionPool(world.settings()) as pool, pool.session() as si:
        host = find_host(si, world.name, world.hosts[1])

        def close_idle_connections() -> None:
            assert si._stub.pool
            for connection, _ in si._stub.pool:
                connection.sock.shutdown(socket.SHUT_RDWR)

        close_idle_connections()
        assert si.CurrentTime() is not None
        close_idle_connections()
        task = vim.HostSystem(host.moid, si._stub).EnterMaintenanceMode_Task(60, False, None)
        assert task._moId
        vim.HostSystem(host.moid, si._stub).ExitMaintenanceMode_Task(60)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_change_whose_answer_is_lost_is_not_sent_again(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance, moment: str
) -> None:
    host = find_host(gpu_si, "simulated", f"esx-01-0{'3' if moment == 'before' else '4'}.gpu.test")
    before = hosts.current_time(gpu_si)
    simulator.add_fault(method="EnterMaintenanceMode_Task", drop=moment, times=1)
    try:
        with pytest.raises(Unreachable, match="unknown whether it was carried out"):
            hosts.enter_maintenance(gpu_si, host, 600)
    finally:
        simulator.clear_faults()
    tasks = hosts.find_recent_tasks(gpu_si, host, hosts.ENTER_MAINTENANCE, before - timedelta(seconds=1))
    assert len(tasks) == (0 if moment == "before" else 1)


def test_a_repeatable_read_survives_a_lost_answer_but_a_second_loss_is_told(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance
) -> None:
    simulator.add_fault(method="RetrievePropertiesEx", drop="after", times=1)
    assert host_index(gpu_si, "simulated").hosts
    simulator.add_fault(method="RetrievePropertiesEx", drop="after", times=2)
    try:
        with pytest.raises(Unreachable, match="no usable answer to RetrievePropertiesEx"):
            host_index(gpu_si, "simulated")
    finally:
        simulator.clear_faults()


def test_a_call_that_ends_after_its_session_was_closed_leaves_no_connection(world: World) -> None:
    stub = GatewayStub(Endpoint(world.settings()), "vim.version.version9")
    late = stub.GetConnection()
    stub.close()
    stub.ReturnConnection(late)
    assert late.sock is None
    assert stub.pool == []
