"""`inbound-audit` and `python -m inbound_audit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

EXTRAS = {
    **dict.fromkeys(("click", "rich", "prompt_toolkit", "lark", "dateparser", "backports"), "cli"),
    "aiosmtpd": "smtp",
    "PIL": "map",
    "textual": "watch",
    **dict.fromkeys(("starlette", "uvicorn", "h11"), "web"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status. The message about a missing library names its extra."""
    try:
        from inbound_audit.cli import run

        return run(arguments)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        print(f"inbound-audit: needs {library}: pip install 'inbound-audit[{EXTRAS[library]}]'", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
