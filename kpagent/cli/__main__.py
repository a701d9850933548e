"""`python -m kpagent.cli`, the same as `kpagent`."""

from kpagent.cli import main

main()
