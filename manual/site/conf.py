"""The documentation as a site, made by Sphinx (`make docs`): its menu, and what is strict about it.

Sources are the pages as they lie in the repository. A link that leads nowhere, and a page in no menu, end the build.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# What the menu shows, in this order. A page stands where people look for it: they learn, do, look up, or want to know.
MENU = {
    "Start": ["docs/index", "docs/install", "docs/faq", "CHANGELOG"],
    "Tutorial": ["docs/tutorial"],
    "How to": [
        "docs/how-to",
        "docs/building-images",
        "docs/boot",
        "docs/updates",
        "docs/trust",
        "docs/local-changes",
        "docs/any-command",
        "docs/tarballs",
        "docs/moving-over",
        "docs/integration",
        "docs/server",
        "docs/server/index",
        "docs/server/running",
        "docs/server/rollouts",
        "docs/server/deltas",
        "docs/server/pages",
    ],
    "Reference": [
        "docs/commands",
        "docs/json",
        "docs/configuration",
        "docs/server/commands",
        "docs/consent-api",
        "docs/format",
        "docs/legacy",
    ],
    "Explanation": [
        "docs/how-it-works",
        "docs/comparison",
        "docs/benchmarks",
        "docs/server/security",
        "docs/server/scale",
        "docs/adr/README",
    ],
    "Contributing": ["CONTRIBUTING", "SECURITY", "docs/adding-a-chooser", "docs/releasing"],
}
FRONT = "README"

project = "tb-update"
author = copyright = "tb-update developers"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = FRONT
include_patterns = ["*.md", "docs/**"]
exclude_patterns = [".*", "build", "dist", "**/*.egg-info"]
myst_heading_anchors = 4
# Blocks in a format that no highlighter knows are shown as they are.
highlight_language = "none"
html_theme = "furo"
html_title = "tb-update"
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None


def _menu() -> str:
    """The menu, in words of MyST; what is in no other menu are the decisions, below their own page."""
    parts = []
    for caption, pages in MENU.items():
        parts.append(
            f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "".join(f"/{page}\n" for page in pages) + "```\n"
        )
    return "\n" + "\n".join(parts)


def _add_menus(_app: Any, page: str, source: list[str]) -> None:
    if page == FRONT:
        source[0] += _menu()
    if page == "docs/adr/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def _lead_in(app: Any, exception: Exception | None) -> None:
    """Whoever opens the directory comes to the front page."""
    if exception is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={FRONT}.html">'
        Path(app.outdir, "index.html").write_text(f'{page}<a href="{FRONT}.html">tb-update</a>\n')


def setup(app: Any) -> None:
    """What Sphinx calls first."""
    app.connect("source-read", _add_menus)
    app.connect("build-finished", _lead_in)
