"""vCenter's REST API as far as images go: sessions, offline depots, drafts and tasks of one cluster, over TLS.

Shapes are those of the vSphere Automation API (`esx/settings`, `cis/tasks`).
"""

import base64
import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import trustme

__all__ = ["CLUSTER", "HOST", "USER", "VlcmServer"]

CLUSTER, HOST, USER, PASSWORD = "domain-c8", "host-12", "administrator@vsphere.local", "S3cret"
_SOFTWARE = f"/api/esx/settings/clusters/{CLUSTER}/software"


class Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error_type": kind, "messages": [{"id": "x", "default_message": message, "args": []}]}


class VlcmServer:
    """A cluster with an image; its state is in plain attributes."""

    def __init__(self, folder: Path) -> None:
        self.components = {"VMware-VM-Tools": "12.3"}
        self.depots: dict[str, Any] = {}
        self.drafts: dict[str, Any] = {}
        self.owners: dict[str, str] = {}
        self.tasks: dict[str, Any] = {}
        self.compliance = {HOST: "NON_COMPLIANT", "host-13": "COMPLIANT"}
        self.invalid = ""
        self.commit_error = ""
        self.looks_until_done = 1
        self.sessions: set[str] = set()
        self.requests: list[str] = []
        self.ended_before: dict[str, list[str]] = {}
        """The tasks that had ended when an action was asked for."""
        self.lose: str | None = None
        """The request whose answer is lost."""
        self.thrown_away_before: str | None = None
        """The method of the next request to a draft that finds it gone."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        self.ca_file, self.password_file = folder / "ca.pem", folder / "password"
        self.password_file.write_text(PASSWORD)
        world = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                """Say nothing."""

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                world.requests.append(f"{self.command} {self.path}")
                try:
                    status, answer = 200, world.answer(self.command, self.path, body, dict(self.headers))
                except Refused as refused:
                    status, answer = refused.status, refused.body
                if world.lose == f"{self.command} {self.path}":
                    world.lose = None
                    self.connection.close()
                    return
                content = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status if content else 204)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        if path == "/api/session" and method == "POST":
            wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if headers.get("Authorization") != f"Basic {wanted}":
                raise Refused(401, "UNAUTHENTICATED", "Authentication failed.")
            self.sessions.add(token := f"token-{len(self.requests)}")
            return token
        token = headers.get("vmware-api-session-id", "")
        if token not in self.sessions:
            raise Refused(401, "UNAUTHENTICATED", "The session is not authenticated.")
        if path == "/api/session":
            return self.sessions.remove(token)
        if path.startswith("/api/cis/tasks"):
            return self.task(path)
        path, _, query = path.partition("?")
        if path == "/api/esx/settings/depots/offline":
            if method == "GET":
                return self.depots
            self.depots[f"depot-{len(self.depots)}"] = body
            return self.start({})
        if match := re.fullmatch(r"/api/esx/settings/depots/offline/([^/]+)/content", path):
            versions = [{"version": "550.54.16", "display_version": "550"}]
            component = {"NVD-VGPU-800": {"display_name": match[1], "versions": versions}}
            return {"metadata_bundles": {"x": [{"file_name": "m.zip", "independent_components": component}]}}
        if path == _SOFTWARE and method == "GET":
            shown = {name: {"version": version, "details": {}} for name, version in self.components.items()}
            return {"base_image": {"version": "8.0.2-0.0.22380479"}, "components": shown}
        if path == f"{_SOFTWARE}/compliance":
            status = "COMPLIANT" if set(self.compliance.values()) == {"COMPLIANT"} else "NON_COMPLIANT"
            hosts = {host: {"status": status} for host, status in self.compliance.items()}
            return {"status": status, "impact": "REBOOT_REQUIRED", "hosts": hosts}
        if path == _SOFTWARE and query == "action=scan&vmw-task=true":
            self.ended_before["scan"] = [name for name, task in self.tasks.items() if task["status"] != "RUNNING"]
            return self.start({})
        if path == _SOFTWARE and query == "action=apply&vmw-task=true":
            self.compliance.update(dict.fromkeys(body.get("hosts") or self.compliance, "COMPLIANT"))
            return self.start({"status": "OK"}, operation="apply$task")
        if path.startswith(f"{_SOFTWARE}/drafts"):
            return self.draft(method, path.removeprefix(f"{_SOFTWARE}/drafts").strip("/"), query, body)
        raise Refused(404, "NOT_FOUND", f"There is nothing at {path}.")

    def draft(self, method: str, rest: str, query: str, body: Any) -> Any:
        draft = rest.partition("/")[0]
        if not draft:
            if method == "GET":
                return {name: {"owner": owner, "status": "VALID"} for name, owner in self.owners.items()}
            if "VSPHERE.LOCAL\\Administrator" in self.owners.values():
                raise Refused(400, "ALREADY_EXISTS", "This user has a draft already.")
            self.owners[name := f"draft-{len(self.requests)}"] = "VSPHERE.LOCAL\\Administrator"
            self.drafts[name] = dict(self.components)
            return name
        if method == self.thrown_away_before:
            self.thrown_away_before = None
            del self.owners[draft], self.drafts[draft]
        if draft not in self.owners:
            raise Refused(404, "NOT_FOUND", f"There is no draft {draft}.")
        if method == "DELETE":
            del self.owners[draft], self.drafts[draft]
        elif method == "PATCH":
            self.drafts[draft] |= body.get("components_to_set") or {}
            for name in body.get("components_to_delete") or ():
                self.drafts[draft].pop(name, None)
        elif query == "action=validate&vmw-task=true":
            errors = [{"message": {"default_message": self.invalid}}] if self.invalid else []
            return self.start({"notifications": {"errors": errors}})
        elif query == "action=commit&vmw-task=true":
            if not self.commit_error:
                self.components = self.drafts.pop(draft)
                del self.owners[draft]
            return self.start("commit-1", error=self.commit_error)
        return None

    def start(self, result: Any, *, operation: str = "x", error: str = "") -> str:
        name = f"{len(self.tasks)}:com.vmware.esx.settings"
        self.tasks[name] = {
            "status": "RUNNING",
            "operation": operation,
            "service": "com.vmware.esx.settings.clusters.software",
            "target": {"type": "ClusterComputeResource", "id": CLUSTER},
            "progress": {"total": 100, "completed": 40},
            "looks": 0,
            "end": {"status": "FAILED", "error": Refused(500, "ERROR", error).body}
            if error
            else {"status": "SUCCEEDED", "result": result},
        }
        return name

    def task(self, path: str) -> Any:
        shown = ("status", "operation", "service", "target", "progress", "result", "error")
        if "?" in path:
            running = {name: task for name, task in self.tasks.items() if task["status"] == "RUNNING"}
            return {name: {key: task[key] for key in shown if key in task} for name, task in running.items()}
        task = self.tasks.get(unquote(path.removeprefix("/api/cis/tasks/")))
        if task is None:
            raise Refused(404, "NOT_FOUND", "The task was forgotten.")
        task["looks"] += 1
        if task["looks"] > self.looks_until_done:
            task.update(task["end"])
        return {key: task[key] for key in shown if key in task}
