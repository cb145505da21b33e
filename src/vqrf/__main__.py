"""`vqrf` and `python -m vqrf`: the command line."""

import sys


def run() -> None:
    """Run a verb. Where Ctrl-C comes while the program is still read, that is one line too."""
    try:
        from vqrf.cli.main import main
    except KeyboardInterrupt:
        print("vqrf: stopped", file=sys.stderr)
        sys.exit(130)
    main()


if __name__ == "__main__":
    run()
