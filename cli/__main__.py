"""`python -m cli`: the same as `gpuwright`."""

from cli.main import main

main()
