"""A web server of package depots under `/simulator/depots`: what a vendor's site or a mirror is in real life."""

from __future__ import annotations

from aiohttp import web

from simulator.depots import DEPOTS, Depot

__all__ = ["DepotSite"]


class DepotSite:
    """Open to everybody.

    | request | answer |
    |---|---|
    | `GET /simulator/depots` | the depots with their checksums and packages, as JSON |
    | `GET /simulator/depots/{name}.zip` | an offline bundle |
    | `GET /simulator/depots/{name}/{path}` | one of its files: `metadata.zip`, `vib20/…` |
    """

    def add_routes(self, app: web.Application) -> None:
        """Put the site's paths into an application."""
        app.router.add_get("/simulator/depots", self.index)
        app.router.add_get("/simulator/depots/{name}.zip", self.bundle)
        app.router.add_get("/simulator/depots/{name}/{path:.+}", self.member)

    async def index(self, request: web.Request) -> web.Response:
        return web.json_response({"depots": {name: _shown(depot) for name, depot in DEPOTS.items()}})

    async def bundle(self, request: web.Request) -> web.Response:
        depot = DEPOTS.get(request.match_info["name"])
        if depot is None:
            raise web.HTTPNotFound
        return web.Response(body=depot.content, content_type="application/zip")

    async def member(self, request: web.Request) -> web.Response:
        depot = DEPOTS.get(request.match_info["name"])
        try:
            content = depot.member(request.match_info["path"]) if depot else None
        except KeyError:
            content = None
        if content is None:
            raise web.HTTPNotFound
        return web.Response(body=content, content_type="application/octet-stream")


def _shown(depot: Depot) -> dict[str, object]:
    vib = depot.vib
    return {
        "url": f"/simulator/depots/{depot.name}.zip",
        "datastore_path": f"depots/{depot.name}.zip",
        "sha256": depot.sha256,
        "size_bytes": len(depot.content),
        "vib": {
            "name": vib.name,
            "version": vib.version,
            "vendor": vib.vendor,
            "acceptance_level": vib.acceptance_level,
            "signed": vib.signed,
            "platform": vib.platform,
            "path": depot.vib_path,
        },
        "component": {"name": vib.component, "version": vib.version},
    }
