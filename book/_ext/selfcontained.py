"""Sphinx extension: pages that ask no other host, log no error and show their text before they run scripts.

The scripts that themes and extensions take from public networks (CDN) are replaced by those that npm ci has fetched
into book/node_modules. Thebe's script is dropped: the book starts no remote kernel, and its settings are declared twice
on a page. So are the widgets' scripts and states: a widget needs a kernel, and the chapters have a player without one.
"""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

from sphinx.util import logging

BOOK = Path(__file__).resolve().parents[1]
MODULES = BOOK / "node_modules"
PDFS = {"article.pdf": "The article as a PDF", "book.pdf": "The whole book as a PDF"}  # when make pdf printed them
KEPT = {  # package → the files that pages need
    "mathjax": (
        "es5/startup.js",
        "es5/core.js",
        "es5/input/tex.js",
        "es5/input/tex/extensions/*",
        "es5/output/chtml.js",
    )
    + ("es5/output/chtml/fonts/tex.js", "es5/output/chtml/fonts/woff-v2/*", "es5/ui/lazy.js")
    + ("es5/a11y/assistive-mml.js", "LICENSE"),
    "onnxruntime-web": ("dist/ort.wasm.min.js", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
}
MATHJAX = "vendor/mathjax/es5/startup.js"
# Its parts: TeX without MathML, no menu; a formula is set when it comes near the window, and is read out as MathML.
FORMULAS = {
    "loader": {"load": ["input/tex", "output/chtml", "ui/lazy", "a11y/assistive-mml"]},
    "options": {"lazyMargin": "600px"},
}
NEEDED_AT_ONCE = ("documentation_options.js", "doctools.js")  # by the theme's scripts between the tags
STYLE = re.compile(r'<link\b[^>]*href="[^"]*_static/([^"?]+\.css)[^>]*>')
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]{16000,})")  # from 12 kB on
LIVE = "book/live"
RUNTIME = "onnxruntime-web"


def is_vendored() -> bool:
    """Tell whether npm ci has fetched the scripts; it writes this file last."""
    return (MODULES / ".package-lock.json").exists()


def copy_scripts(app, exception):
    if exception is None and app.builder.format == "html" and is_vendored():
        for package, patterns in KEPT.items():
            for path in (found for pattern in patterns for found in (MODULES / package).glob(pattern)):
                target = Path(app.outdir) / "_static" / "vendor" / path.relative_to(MODULES)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def lighten_pages(app, exception):
    """Lets the text of a page wait for one style sheet instead of nine, and for no large picture within it."""
    if exception is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            if "</head>" in text:
                root = "../" * len(page.relative_to(app.outdir).parents[1:])
                lighter = PICTURE.sub(lambda found, root=root: root + _kept(app, found[1]), _bundled(app, text, root))
                page.write_text(lighter, encoding="utf-8")


def _bundled(app, text: str, root: str) -> str:
    """The page with one style sheet."""
    folder = (Path(app.outdir) / "_static").resolve()
    links = list(STYLE.finditer(text, 0, text.index("</head>")))
    if len(links) < 2:
        return text
    rules = "\n".join(_rules(folder / link[1], folder) for link in links)
    bundle = f"_static/styles/{hashlib.sha256(rules.encode()).hexdigest()[:16]}.css"
    (Path(app.outdir) / bundle).write_text(rules, encoding="utf-8")
    for link in reversed(links[1:]):
        text = text[: link.start()] + text[link.end() :]
    return f'{text[: links[0].start()]}<link rel="stylesheet" href="{root}{bundle}" />{text[links[0].end() :]}'


def _kept(app, picture: str) -> str:
    """The address of a picture that stood in a page, in the folder of images."""
    data = base64.b64decode(picture)
    name = f"_images/{hashlib.sha256(data).hexdigest()[:16]}.png"
    (Path(app.outdir) / name).write_bytes(data)
    return name


def _rules(sheet: Path, folder: Path) -> str:
    """A style sheet with those that it imports, and with addresses as seen from the folder styles."""
    text = re.sub(r"url\((?=\w+\.)", "url(../" if sheet.parent == folder else "url(", sheet.read_text(encoding="utf-8"))
    return re.sub(r'@import "([^"]+)";', lambda found: _rules((sheet.parent / found[1]).resolve(), folder), text)


def use_vendored(app, config):
    config.nb_ipywidgets_js = {}
    config.mathjax3_config = FORMULAS
    if is_vendored():
        config.mathjax_path = MATHJAX
    else:
        logging.getLogger(__name__).info("scripts are not vendored: pages take them from public networks (CDN)")


def add_live_scripts(app, pagename, templatename, context, doctree):
    """The live page alone runs networks; its script is told where their runtime is, as seen from its own folder."""
    if pagename == LIVE:
        version = json.loads((BOOK / "package.json").read_text(encoding="utf-8"))["dependencies"][RUNTIME]
        afar = f"https://cdn.jsdelivr.net/npm/{RUNTIME}@{version}/dist/"
        runtime = f"../vendor/{RUNTIME}/dist/" if is_vendored() else afar
        app.add_css_file("live/live.css")
        app.add_js_file("live/turn.js", defer="defer")
        app.add_js_file("live/live.js", defer="defer", **{"data-runtime": runtime})


def link_pdf(app, pagename, templatename, context, doctree):
    links = [
        f'<a href="{context["pathto"](f"_static/vendor/{name}", resource=True)}">{title}</a>'
        for name, title in PDFS.items()
        if (BOOK / "_static" / "vendor" / name).exists()
    ]
    if links:
        context["theme_extra_footer"] = " · ".join(links)


def thin_out(app, pagename, templatename, context, doctree):
    """Drops scripts and styles that do nothing here; the other scripts wait for the text, in their order."""
    styles = context.get("css_files", [])
    context["css_files"] = [style for style in styles if "thebe" not in str(getattr(style, "filename", style))]
    context["script_files"] = [script for script in context.get("script_files", []) if not _is_idle(script)]
    for script in context["script_files"]:
        if (name := str(getattr(script, "filename", None) or "")) and not name.endswith(NEEDED_AT_ONCE):
            script.attributes["defer"] = "defer"


def size_images(app, pagename, templatename, context, doctree):
    """Images below the first screen are loaded when they come near, into a space that is kept for them."""
    if app.builder.name == "html" and "body" in context:
        sources = {name: uri for uri, name in app.builder.images.items()}

        def sized(found: re.Match) -> str:
            head = (Path(app.srcdir) / sources.get(found[2], "")).open("rb").read(24) if found[2] in sources else b""
            wide, tall = (int.from_bytes(head[a : a + 4], "big") for a in (16, 20))
            size = f' width="{wide}" height="{tall}"' if head[:4] == b"\x89PNG" else ""
            return f'<img loading="lazy" decoding="async"{size}{found[1]}'

        context["body"] = re.sub(r'<img((?=[^>]*src="[^"]*_images/([^"]+)")[^>]*>)', sized, context["body"])


def _is_idle(script) -> bool:
    attributes = getattr(script, "attributes", {})
    return (
        "thebe" in str(getattr(script, "filename", script))
        or "THEBE" in str(attributes.get("body", ""))
        or attributes.get("type") == "application/vnd.jupyter.widget-state+json"
    )


def setup(app):
    app.connect("config-inited", use_vendored, priority=400)
    app.connect("build-finished", copy_scripts)
    app.connect("build-finished", lighten_pages, priority=900)
    app.connect("html-page-context", size_images)
    app.connect("html-page-context", thin_out, priority=900)
    app.connect("html-page-context", add_live_scripts)
    app.connect("html-page-context", link_pdf, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
