"""`transom` and `python -m transom`."""

import sys

_EXIT_INTERRUPTED = 130


def main() -> None:
    """Runs the command line; the process ends with its exit code. Ctrl-C is no traceback, not even while importing."""
    try:
        from transom.cli.app import app

        app(prog_name="transom")
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
