"""Sphinx extension: pages that ask no other host, log no error and show their text before they run scripts.

The scripts that themes and extensions take from public networks (CDN) are replaced by those in _static/vendor, when
book/tools/vendor.py has put them there. Thebe's script is dropped: the book starts no remote kernel, and its settings
are declared twice on a page. So are the widgets' scripts and states: a widget needs a kernel, and the chapters have a
player without one in its place.
"""

import sys
from pathlib import Path

from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import vendor  # noqa: E402

MATHJAX = "vendor/mathjax/es5/startup.js"
# Its parts: TeX without MathML, no menu; a formula is set when it comes near the window, and is read out as MathML.
FORMULAS = {
    "loader": {"load": ["input/tex", "output/chtml", "ui/lazy", "a11y/assistive-mml"]},
    "options": {"lazyMargin": "600px"},
}
NEEDED_AT_ONCE = ("documentation_options.js", "doctools.js")  # by the theme's scripts between the tags
LIVE = "book/live"
RUNTIME = "onnxruntime-web"


def use_vendored(app, config):
    config.nb_ipywidgets_js = {}
    config.mathjax3_config = FORMULAS
    if vendor.is_vendored():
        config.mathjax_path = MATHJAX
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


def thin_out(app, pagename, templatename, context, doctree):
    """Drops scripts that do nothing here; the others wait for the text, in their order."""
    context["script_files"] = [script for script in context.get("script_files", []) if not _is_idle(script)]
    for script in context["script_files"]:
        if (name := str(getattr(script, "filename", None) or "")) and not name.endswith(NEEDED_AT_ONCE):
            script.attributes["defer"] = "defer"


def _is_idle(script) -> bool:
    attributes = getattr(script, "attributes", {})
    return (
        "thebe" in str(getattr(script, "filename", script))
        or "THEBE" in str(attributes.get("body", ""))
        or attributes.get("type") == "application/vnd.jupyter.widget-state+json"
    )


def setup(app):
    app.connect("config-inited", use_vendored, priority=400)
    app.connect("html-page-context", thin_out, priority=900)
    app.connect("html-page-context", add_live_scripts)
    app.connect("html-page-context", link_pdf, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
