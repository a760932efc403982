"""`python -m simulator`: the simulator alone."""

from __future__ import annotations

import typer

from simulator.command import simulate

if __name__ == "__main__":
    typer.run(simulate)
