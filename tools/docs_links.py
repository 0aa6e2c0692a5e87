"""MkDocs hook: a link to a file outside of docs/ leads to the page that the repository has of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?:\.\./)+([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Raises FileNotFoundError if the file does not exist."""
    source = (ROOT / config.docs_dir / page.file.src_path).parent

    def to_repository(link: re.Match[str]) -> str:
        target = (source / link.group(0)[2:-1].partition("#")[0]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link.group(0)
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_path}: {link.group(0)} leads nowhere")
        kind = "tree" if target.is_dir() else "blob"
        return f"]({config.repo_url.rstrip('/')}/{kind}/main/{target.relative_to(ROOT)}{link.group(2) or ''})"

    return LINK.sub(to_repository, markdown)
