"""Workers that kill themselves at chosen points and are started again: `python -m tests.support.dying_workers`.

Reads one JSON order from standard input and runs until standard input closes:
`{"address", "vcenter": {…}, "public_key": PEM, "profiles": […], "queues": [{"name", "ssh", "bmcs", "lives": [{…}]}]}`;
about VMs a queue has `vm_limits` and `guests` too, about audits `audit_limits`, `remedy_policy`, `terms` and `rules`;
`workflows` where it needs a few by name only, and `vcenter` with settings of its own.
Each queue is served by one process at a time. Each life is how a process ends, by SIGKILL (see `Life`); the one after
the last lives on. All are forks of this one, which has imported everything and started nothing, so that many of them
cost little. What has died is printed as `{queue} {number of the life}`.

The workflows' time-outs for lost workers are shorter than in service, so that tests need not wait for minutes.
"""

import asyncio
import dataclasses
import functools
import gc
import importlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    StartActivityInput,
    StartChildWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from contracts.approvals import ApprovalTerms
from contracts.audit import AuditLimits, RemedyPolicy
from contracts.gate import GateLimits
from contracts.names import TaskQueues
from contracts.profiles import Profile
from contracts.provision import VmLimits
from contracts.rules import Rule
from contracts.signing import Keyring
from tests.support.gap import AfterGap
from tests.support.lab import KEY, host_parts
from vsphere.sessions import SessionPool
from vsphere.settings import BmcSettings, GuestCredentials, SshSettings, VCenterSettings
from workers.assembly import build_workers
from workers.client import connect
from workers.settings import TemporalSettings

ATTEMPT = timedelta(seconds=15)
HEARTBEAT = timedelta(seconds=12)
_ON_THE_WAY_S = 0.3
_LABEL = "label"


@dataclass(frozen=True)
class Life:
    """Where a process dies: `before` an activity acts, `after` it acted and before anybody knows, or `reported`, when
    the workflow hears of its end. Or at a call of a function: before, during (a moment after it was begun) or after it.
    """

    when: str = "after"
    at: str = ""
    """`reboot 1`: the first activity (or child workflow) of that name in a run; `await_task reboot 1` says which."""
    call: str = ""
    """The function's dotted name, with a colon before a class."""
    sent: str = ""
    """A regular expression that the arguments of the call have to match, joined by spaces."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Interceptor):
    """Ends this process as its life says, and shortens time-outs."""

    def __init__(self, life: Life | None) -> None:
        self.life = life

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        life = self.life
        if life is None or not life.at or life.when == "reported":
            return next

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                mine = life.at == input.headers[_LABEL].data.decode()
                if mine and life.when == "before":
                    die()
                result = await super().execute_activity(input)
                if mine:
                    die()
                return result

        return Inbound(next)

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        life = self.life

        class Outbound(WorkflowOutboundInterceptor):
            def __init__(self, next: WorkflowOutboundInterceptor) -> None:
                super().__init__(next)
                self.seen: Counter[str] = Counter()

            def label(self, name: str) -> str:
                self.seen[name] += 1
                return f"{name} {self.seen[name]}"

            def die_at(self, label: str, when: str) -> None:
                if life is not None and (life.at, life.when) == (label, when) and not workflow.unsafe.is_replaying():
                    die()

            def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
                if input.heartbeat_timeout:
                    input.heartbeat_timeout = min(input.heartbeat_timeout, HEARTBEAT)
                elif input.start_to_close_timeout:
                    input.start_to_close_timeout = min(input.start_to_close_timeout, ATTEMPT)
                followed = f" {input.args[0].what.split()[0]}" if input.activity == "await_task" else ""
                label = self.label(input.activity + followed)
                input.headers = {**input.headers, _LABEL: Payload(data=label.encode())}
                handle = super().start_activity(input)
                handle.add_done_callback(lambda _: self.die_at(label, "reported"))
                return handle

            async def start_child_workflow(
                self, input: StartChildWorkflowInput
            ) -> workflow.ChildWorkflowHandle[Any, Any]:
                label = self.label(input.workflow)
                self.die_at(label, "before")
                handle = await super().start_child_workflow(input)
                self.die_at(label, "after")
                handle.add_done_callback(lambda _: self.die_at(label, "reported"))
                return handle

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound


def arm(life: Life) -> None:
    """Put a deadly wrapper around the function that `life` names."""
    owner_name, _, name = life.call.rpartition(".")
    module, _, cls = owner_name.partition(":")
    owner = importlib.import_module(module)
    owner = getattr(owner, cls) if cls else owner
    deadly = getattr(owner, name)

    @functools.wraps(deadly)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        said = " ".join(getattr(argument, "wsdlName", str(argument)) for argument in args)
        mine = re.search(life.sent, said) is not None
        if mine and life.when == "before":
            die()
        if mine and life.when == "during":
            threading.Timer(_ON_THE_WAY_S, die).start()
        result = deadly(*args, **kwargs)
        if mine:
            die()
        return result

    setattr(owner, name, wrapper)


async def work(order: dict[str, Any], queue: dict[str, Any], life: Life | None) -> None:
    client = await connect(TemporalSettings(address=order["address"]))
    key = load_pem_public_key(order["public_key"].encode())
    assert isinstance(key, Ed25519PublicKey)
    if life is not None and life.call:
        arm(life)
    names = TaskQueues(queue["name"])
    with SessionPool(VCenterSettings.model_validate(order["vcenter"] | queue.get("vcenter", {}))) as pool:
        parts = host_parts(
            pool,
            # The forks share a key of their own, with which they approve what policy approves.
            Keyring.of(key, KEY.public_key()),
            tuple(map(Profile.model_validate, order["profiles"])),
            # Nobody waits for another's lease here, and the sweeps of many gates would cost more than the runs.
            gate_limits=GateLimits(hosts_down=64, sweep_s=30, holder_grace_s=2),
            ssh=SshSettings.model_validate(queue["ssh"]) if queue.get("ssh") else None,
            bmcs=tuple(map(BmcSettings.model_validate, queue.get("bmcs", ()))),
            vm_limits=VmLimits.model_validate(queue.get("vm_limits", {})),
            guests={name: GuestCredentials.model_validate(login) for name, login in queue.get("guests", {}).items()},
            audit_limits=AuditLimits.model_validate(queue.get("audit_limits", {})),
            remedy_policy=RemedyPolicy.model_validate(queue.get("remedy_policy", {})),
            terms=ApprovalTerms.model_validate(queue.get("terms", {})),
            rules=tuple(map(Rule.model_validate, queue.get("rules", ()))),
            queue=names.main,
        )
        if only := queue.get("workflows"):
            # The sandbox loads each anew, in every process.
            own = [each for each in (*parts.workflows, AfterGap) if each.__name__ in only]
            parts = dataclasses.replace(parts, workflows=own)
        async with AsyncExitStack() as stack:
            for worker in build_workers(client, names, parts, interceptors=[Deadly(life)]):
                await stack.enter_async_context(worker)
            await asyncio.Event().wait()


def fork(order: dict[str, Any], queue: dict[str, Any], born: int) -> int:
    pid = os.fork()
    if pid == 0:
        # Standard output is for the dead only; what workers log goes elsewhere.
        os.dup2(2, 1)
        lives = queue["lives"]
        asyncio.run(work(order, queue, Life(**lives[born]) if born < len(lives) else None))
        os._exit(0)
    return pid


def main() -> None:
    order = json.loads(sys.stdin.readline())
    # What was imported is never garbage, and collecting it would copy its pages in each fork.
    gc.freeze()
    alive = {fork(order, queue, 0): (queue, 0) for queue in order["queues"]}

    def end() -> None:
        sys.stdin.read()
        for pid in tuple(alive):
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    while alive:
        pid, status = os.wait()
        queue, life = alive.pop(pid)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and life < len(queue["lives"]):
            print(queue["name"], life, flush=True)
            alive[fork(order, queue, life + 1)] = (queue, life + 1)
        else:
            print(f"the worker of {queue['name']} ended by itself with {status}", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
