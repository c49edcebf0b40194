"""Sphinx extension: pages that ask no other host and log no error.

The scripts that themes and extensions take from public networks (CDN) are replaced by those in _static/vendor, when
book/tools/vendor.py has put them there. Thebe's script is dropped: the book starts no remote kernel, and its settings
are declared twice on a page.
"""

import sys
from pathlib import Path

from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import vendor  # noqa: E402

MATHJAX = "vendor/mathjax/es5/tex-mml-chtml.js"
LIVE = "book/live"
RUNTIME = "onnxruntime-web"
WIDGETS = {
    "require-base.js": {},
    "vendor/requirejs/require.js": {},
    "vendor/@jupyter-widgets/html-manager/dist/embed-amd.js": {"data-jupyter-widgets-cdn-only": ""},
}


def use_vendored(app, config):
    if vendor.is_vendored():
        config.mathjax_path = MATHJAX
        config.nb_ipywidgets_js = WIDGETS
    else:
        logging.getLogger(__name__).info("scripts are not vendored: pages take them from public networks (CDN)")


def add_live_scripts(app, pagename, templatename, context, doctree):
    """The live page alone runs networks; its script is told where their runtime is, as seen from its own folder."""
    if pagename == LIVE:
        afar = f"https://cdn.jsdelivr.net/npm/{RUNTIME}@{vendor.PACKAGES[RUNTIME]['version']}/dist/"
        runtime = f"../vendor/{RUNTIME}/dist/" if vendor.is_vendored() else afar
        app.add_css_file("live/live.css")
        app.add_js_file("live/turn.js", defer="defer")
        app.add_js_file("live/live.js", defer="defer", **{"data-runtime": runtime})


def link_pdf(app, pagename, templatename, context, doctree):
    if (vendor.VENDOR / "book.pdf").exists():
        address = context["pathto"]("_static/vendor/book.pdf", resource=True)
        context["theme_extra_footer"] = f'<a href="{address}">The whole book as one PDF</a>'


def drop_thebe(app, pagename, templatename, context, doctree):
    context["script_files"] = [script for script in context.get("script_files", []) if not _is_thebe(script)]


def _is_thebe(script) -> bool:
    return "thebe" in str(getattr(script, "filename", script)) or "THEBE" in str(
        getattr(script, "attributes", {}).get("body", ""))


def setup(app):
    app.connect("config-inited", use_vendored, priority=400)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", add_live_scripts)
    app.connect("html-page-context", link_pdf, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
