"""`python -m vqrf`: the command line."""

from vqrf.cli.main import main

main()
