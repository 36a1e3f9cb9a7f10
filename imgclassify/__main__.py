"""`python -m imgclassify`, and the console script's target."""

import sys


def main() -> None:
    """Runs the command line; an interrupt while it is still being imported ends quietly too."""
    try:
        from imgclassify.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
