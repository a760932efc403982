"""A decision counts only with a trusted signature, for one plan of one run."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.approvals import DecisionClaims, Verdict
from contracts.errors import Conflict
from contracts.signing import Keyring, read_unverified, sign

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
RING = Keyring.of(KEY.public_key())
CLAIMS = DecisionClaims(
    workflow_id="prepare-gpu-host/vc/h",
    run_id="run-1",
    plan_hash="abc",
    verdict=Verdict.APPROVE,
    approver="cli:bob",
    nonce="n",
    decided_at=NOW,
    expires_at=NOW + timedelta(hours=1),
)
GOOD = {"workflow_id": CLAIMS.workflow_id, "run_id": "run-1", "plan_hash": "abc"}


def test_a_signed_decision_reads_back() -> None:
    token = sign(CLAIMS, KEY)
    assert RING.verify(token) == CLAIMS
    assert read_unverified(token) == CLAIMS
    assert RING.verify_grant(token, **GOOD, now=NOW) == CLAIMS


def test_an_old_key_verifies_as_long_as_it_is_trusted() -> None:
    new = Ed25519PrivateKey.generate()
    assert Keyring.of(new.public_key(), KEY.public_key()).verify(sign(CLAIMS, KEY)) == CLAIMS
    with pytest.raises(Conflict, match="not trusted here"):
        Keyring.of(new.public_key()).verify(sign(CLAIMS, KEY))


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "junk",
        "a.b.c",
        sign(CLAIMS, KEY)[:-4] + "AAAA",
        sign(CLAIMS, Ed25519PrivateKey.generate()),
        jwt.encode({"iss": "gpuwright", "decision": CLAIMS.model_dump(mode="json")}, "k" * 32, algorithm="HS256"),
        jwt.encode({"iss": "gpuwright", "decision": CLAIMS.model_dump(mode="json")}, None, algorithm="none"),
        jwt.encode({"iss": "gpuwright"}, KEY, algorithm="EdDSA"),
    ],
)
def test_forged_and_broken_tokens_are_refused(forged: str) -> None:
    with pytest.raises(Conflict):
        RING.verify(forged)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"run_id": "run-2"}, "not for this run"),
        ({"workflow_id": "prepare-gpu-host/vc/other"}, "not for this run"),
        ({"plan_hash": "def"}, "not for plan def"),
        ({"now": NOW + timedelta(hours=1)}, "expired"),
    ],
)
def test_a_grant_counts_for_its_run_plan_and_time_only(changed: dict[str, object], words: str) -> None:
    with pytest.raises(Conflict, match=words):
        RING.verify_grant(sign(CLAIMS, KEY), **{**GOOD, "now": NOW, **changed})  # type: ignore[arg-type]


def test_a_denial_is_no_grant() -> None:
    with pytest.raises(Conflict, match="deny"):
        RING.verify_grant(sign(CLAIMS.model_copy(update={"verdict": Verdict.DENY}), KEY), **GOOD)
