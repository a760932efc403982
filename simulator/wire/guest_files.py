"""The web server behind guest file transfers, and a site with NVIDIA's guest drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from pyVmomi import vim

from simulator.installers import INSTALLERS
from simulator.laws import guest_transfers
from simulator.laws.guest_transfers import TransferRefused
from simulator.world import World

if TYPE_CHECKING:
    from simulator.service import Simulator

__all__ = ["GuestFiles"]


class GuestFiles:
    """
    | request | answer |
    |---|---|
    | `PUT /guestFile?id=…&token=…` | the file goes into the guest; the token is good once |
    | `GET /guestFile?id=…&token=…` | the file from the guest |
    | `GET /simulator/drivers` | the guest drivers with their checksums, as JSON; open to everybody |
    | `GET /simulator/drivers/{name}` | one of them |
    """

    def __init__(self, simulator: Simulator) -> None:
        if not isinstance(simulator.world, World):
            raise TypeError("guests need VMs")
        self.simulator = simulator
        self.world: World = simulator.world

    def add_routes(self, app: web.Application) -> None:
        """Put the paths into an application."""
        app.router.add_put(guest_transfers.PATH, self.upload)
        app.router.add_get(guest_transfers.PATH, self.download)
        app.router.add_get("/simulator/drivers", self.index)
        app.router.add_get("/simulator/drivers/{name}", self.driver)

    async def close(self) -> None:
        """Forget the transfers that nobody used."""
        self.world.transfers.clear()

    async def upload(self, request: web.Request) -> web.Response:
        try:
            transfer = guest_transfers.claim(self.world, request.query.get("token", ""), upload=True)
            guest_transfers.finish(transfer, await request.read())
        except TransferRefused as refused:
            return web.Response(status=403, text=f"{refused}\n")
        except vim.fault.FileFault as fault:
            return web.Response(status=500, text=f"{fault.msg}\n")
        return web.Response(status=200)

    async def download(self, request: web.Request) -> web.Response:
        try:
            transfer = guest_transfers.claim(self.world, request.query.get("token", ""), upload=False)
            content = transfer.disk.read(transfer.path)
        except TransferRefused as refused:
            return web.Response(status=403, text=f"{refused}\n")
        except vim.fault.FileFault as fault:
            return web.Response(status=404, text=f"{fault.msg}\n")
        return web.Response(body=content, content_type="application/octet-stream")

    async def index(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "drivers": {
                    name: {
                        "url": f"/simulator/drivers/{name}",
                        "kind": found.driver.kind,
                        "version": found.driver.version,
                        "sha256": found.sha256,
                        "size_bytes": len(found.content),
                    }
                    for name, found in INSTALLERS.items()
                }
            }
        )

    async def driver(self, request: web.Request) -> web.Response:
        found = INSTALLERS.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=found.content, content_type="application/octet-stream")
