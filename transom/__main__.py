"""`transom` and `python -m transom`."""

from transom.cli.app import app


def main() -> None:
    """Runs the command line; the process ends with its exit code."""
    app(prog_name="transom")


if __name__ == "__main__":
    main()
