"""`synapsed-bench`, and `python -m harness.cli`."""

from __future__ import annotations

import sys

from harness.errors import INTERRUPTED


def main() -> None:
    """Run the command line. Ctrl-C ends it as quietly while it is still being loaded."""
    try:
        from harness.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
