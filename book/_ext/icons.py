"""Sphinx extension: of the two thousand icons of the theme the pages keep those that they show.

The theme's script holds each icon as  name:[width,height,[other names],"code","path"],  which is what is looked for.
"""

import re
from pathlib import Path

ICON = re.compile(r'(?:"([\w-]+)"|([\w$]+)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[(?:"[^"]*",?)*\])\],?')
USED = re.compile(r"\bfa-([a-z0-9-]+)")


def keep_used(app, exception):
    script = Path(app.outdir) / "_static" / "scripts" / "fontawesome.js"
    if exception is None and app.builder.format == "html" and script.exists():
        text = script.read_text(encoding="utf-8")
        script.write_text(reduced(text, used_icons(Path(app.outdir))), encoding="utf-8")


def used_icons(pages: Path) -> set[str]:
    """The names of icons in the pages, and in the scripts that put icons there later."""
    vendored = pages / "_static" / "vendor"
    files = [
        path
        for pattern in ("*.html", "*.js")
        for path in pages.rglob(pattern)
        if path.name != "fontawesome.js" and vendored not in path.parents
    ]
    return {name for path in files for name in USED.findall(path.read_text(encoding="utf-8"))}


def reduced(script: str, used: set[str]) -> str:
    """The script without the icons of which neither the name nor another name is used."""

    def kept(icon: re.Match) -> str:
        names = {icon[1] or icon[2], *re.findall(r'"([\w-]+)"', icon[3])}
        return icon[0] if names & used else ""

    return ICON.sub(kept, script)


def setup(app):
    app.connect("build-finished", keep_used)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
