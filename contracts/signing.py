"""Signed decisions: who may say yes is proven by a key, not by access to Temporal.

A decision is a JWT signed with Ed25519 (`alg: EdDSA`, RFC 8037); `kid` names the key, so that keys can be rotated:
the newest signs, all trusted ones verify. The same token is the grant that disruptive activities check.

The validator of the update `decide` verifies signatures inside the worker, where a workflow may not read files;
`trust` is called once at the worker's start. Validators do not run in replay, so rotation cannot break histories.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contracts.approvals import DecisionClaims
from contracts.errors import Conflict

__all__ = ["Keyring", "key_id", "read_unverified", "sign", "trust", "trusted"]

_ISSUER = "gpuwright"


def key_id(key: Ed25519PublicKey) -> str:
    """The name of a key: 16 hex digits of the SHA-256 of its raw bytes."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def sign(claims: DecisionClaims, key: Ed25519PrivateKey) -> str:
    """The decision as a compact token."""
    payload = {"iss": _ISSUER, "decision": claims.model_dump(mode="json")}
    return jwt.encode(payload, key, algorithm="EdDSA", headers={"kid": key_id(key.public_key())})


def read_unverified(token: str) -> DecisionClaims:
    """What a token says, without asking who signed it: for handlers, after the validator has verified it.

    Raises `Conflict` when it says nothing.
    """
    try:
        payload = jwt.decode(token, options={"verify_signature": False})
        return DecisionClaims.model_validate(payload.get("decision"))
    except (jwt.PyJWTError, ValueError) as error:
        raise Conflict(f"the decision cannot be read: {error}") from error


class Keyring:
    """The public keys whose signatures count, by key ID."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def of(cls, *keys: Ed25519PublicKey) -> "Keyring":
        """A keyring of these keys."""
        return cls({key_id(key): key for key in keys})

    @property
    def key_ids(self) -> frozenset[str]:
        """The IDs of the keys."""
        return frozenset(self._keys)

    def verify(self, token: str) -> DecisionClaims:
        """What a token says; raises `Conflict` when it is malformed or not signed by a trusted key."""
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            key = self._keys.get(kid)
            if key is None:
                known = ", ".join(sorted(self._keys)) or "none"
                raise Conflict(f"the decision is signed by key {kid!r}, which is not trusted here; trusted: {known}")
            payload = jwt.decode(token, key, algorithms=["EdDSA"], issuer=_ISSUER)
            return DecisionClaims.model_validate(payload.get("decision"))
        except (jwt.PyJWTError, ValueError) as error:
            raise Conflict(f"the decision's signature does not hold: {error}") from error

    def verify_grant(
        self, token: str, *, workflow_id: str, run_id: str, plan_hash: str, now: datetime | None = None
    ) -> DecisionClaims:
        """Verify that a token allows steps of this very plan in this very run; raises `Conflict` when not.

        `now` is the time to hold against the expiry; None leaves it out.
        """
        claims = self.verify(token)
        if claims.verdict != "approve":
            raise Conflict(f"the decision by {claims.approver} is {claims.verdict}, not approve")
        if (claims.workflow_id, claims.run_id) != (workflow_id, run_id):
            raise Conflict(f"the grant is for run {claims.run_id} of {claims.workflow_id}, not for this run")
        if claims.plan_hash != plan_hash:
            raise Conflict(f"the grant is for plan {claims.plan_hash}, not for plan {plan_hash}")
        if now is not None and now >= claims.expires_at.astimezone(UTC):
            raise Conflict(f"the grant by {claims.approver} expired at {claims.expires_at:%Y-%m-%d %H:%M:%S %Z}")
        return claims


_trusted = Keyring({})


def trust(keyring: Keyring) -> None:
    """Set the keyring that this process's validators use."""
    global _trusted
    _trusted = keyring


def trusted() -> Keyring:
    """The keyring set by `trust`; empty, so that nothing verifies, before that."""
    return _trusted
