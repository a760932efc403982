"""What becomes of those who still use the sessions of a vCenter that is removed while they work."""

from collections.abc import Iterator

import pytest

from contracts.errors import Unreachable
from tests.listeners.posting import PostingVcsim
from vsphere.inventory import host_index
from vsphere.sessions import SessionPool


@pytest.fixture(scope="module")
def vcsim() -> Iterator[PostingVcsim]:
    with PostingVcsim() as running:
        yield running


def sessions(vcsim: PostingVcsim) -> int:
    return len(vcsim.si.content.sessionManager.sessionList)


def test_calls_under_way_are_refused_and_log_in_no_more(vcsim: PostingVcsim) -> None:
    before = sessions(vcsim)
    pool = SessionPool(vcsim.settings("lab"))
    with pool.session() as si:
        assert host_index(si, "lab").by_moid
        assert sessions(vcsim) == before + 1
        pool.close()
        with pytest.raises(Unreachable, match="the session ended"):
            host_index(si, "lab")
        assert sessions(vcsim) == before


def test_who_comes_afterwards_is_told_why_there_are_none(vcsim: PostingVcsim) -> None:
    pool = SessionPool(vcsim.settings("lab"))
    pool.close()
    with (
        pytest.raises(
            Unreachable, match="vCenter lab: its sessions were closed: it was removed from the configuration"
        ),
        pool.session(),
    ):
        pass
