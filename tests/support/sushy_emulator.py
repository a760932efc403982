"""sushy-tools' emulator, whose fake systems get a BIOS: `python -m tests.support.sushy_emulator --fake …`.

Its Redfish routes for a BIOS need a driver that has one, and among sushy-tools' own only that for libvirt does. As
there, `Bios` and its settings resource are one and the same, so that a change shows at once, before any boot. A fake
system without `bios` in the configuration has none.
"""

import sys
from typing import Any

from sushy_tools import error
from sushy_tools.emulator import main
from sushy_tools.emulator.resources.systems import fakedriver


class _SystemWithBios(fakedriver.FakeDriver):
    def get_bios(self, identity: str) -> dict[str, Any]:
        bios = self._get(identity).get("bios")
        if bios is None:
            raise error.NotSupportedError("this system has no BIOS")
        return dict(bios)

    def set_bios(self, identity: str, attributes: dict[str, Any]) -> None:
        system = self._get(identity)
        if not system.get("bios_loses_orders"):
            self._update(system, bios=self.get_bios(identity) | attributes)


if __name__ == "__main__":
    fakedriver.FakeDriver = _SystemWithBios
    sys.exit(main.main())
