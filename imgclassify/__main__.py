"""Runs the command line, for `python -m imgclassify` and for the console script."""

import sys


def main() -> None:
    """Runs the command line. An interrupt ends it without a traceback, even during the imports."""
    try:
        if sys.getfilesystemencoding() != "utf-8":
            from imgclassify.cli.utf8_mode import restart_in_utf8_mode

            restart_in_utf8_mode()
        from imgclassify.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # ExitStatus.INTERRUPTED, without importing it


if __name__ == "__main__":
    main()
