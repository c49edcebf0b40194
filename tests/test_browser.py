"""Every page of the built book in headless Chromium: no error, no outside request, legible on a phone."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import selfcontained
import yaml
from selenium.webdriver.support.ui import WebDriverWait

from conftest import ROOT, require
from e2vit_book.style import DPI, TYPE

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
SCREENSHOTS = ROOT / "_build" / "screenshots"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}

READY = """
const done = arguments[0];
document.querySelectorAll('details').forEach(fold => { fold.open = true; });
document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; });
const pictures = () => Promise.allSettled([...document.images].map(image => image.decode()));
const all = () => MathJax.startup.document.lazyTypesetAll();    // those far from the window, too
const whole = (tries) => window.MathJax && !MathJax.startup && tries
  ? new Promise(go => setTimeout(go, 50)).then(() => whole(tries - 1))
  : window.MathJax && MathJax.startup ? MathJax.startup.promise.then(all) : Promise.resolve();
const typeset = () => whole(100);
typeset().then(pictures).then(() => document.fonts.ready).then(() => setTimeout(done, 300));
"""
FACTS = """
const shown = [...document.querySelectorAll('main img')];
const words = [], walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
const verbatim = 'pre, code, script, style, svg, .cell_output';
while (walker.nextNode())
  if (!walker.currentNode.parentElement.closest(verbatim)) words.push(walker.currentNode.data);
const scrolls = (e) => e.tagName !== 'ARTICLE'
  && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
const cut = (e) => e.getBoundingClientRect().right > e.closest('article, main').getBoundingClientRect().right + 1
  && !scrolls(e.parentElement);
const name = (e) => `${e.tagName} ${e.className}`.slice(0, 80);
return {
  width: document.documentElement.scrollWidth,
  wide: [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
         && !e.closest('.cell_output, .math, pre, table, .pst-scrollable-table-container')).slice(0, 5).map(name),
  raw: [...document.querySelectorAll('main .math')].filter(
         e => !e.querySelector('mjx-container:not(:has(mjx-lazy))')).length,
  dollars: words.filter(text => /\\$/.test(text)),
  cut: [...document.querySelectorAll('main mjx-container')].filter(cut).map(e => e.textContent.slice(0, 80)),
  wrong: document.querySelectorAll('mjx-merror').length,
  broken: shown.filter(i => !i.naturalWidth).map(i => i.src),
  mute: shown.filter(i => !i.alt || /\\.(png|svg)$/.test(i.alt)).map(i => i.src),
  figures: [...document.querySelectorAll('article figure > img[width]')].map(i => [
    i.clientWidth / i.getAttribute('width'),
    parseFloat(getComputedStyle(i.closest('figure').querySelector('figcaption') || i).fontSize)]),
  headings: [...document.querySelectorAll('article h1, article h2, article h3, article h4')].map(h => +h.tagName[1]),
};
"""


def documents(node) -> list[str]:
    """The files of a table of contents, in reading order."""
    if isinstance(node, list):
        return [name for child in node for name in documents(child)]
    here = [node[key] for key in ("root", "file") if key in node]
    return here + [name for key in ("parts", "chapters", "sections") for name in documents(node.get(key, []))]


PAGES = [*documents(TOC), "search", "genindex"]


@pytest.fixture(params=PAGES)
def page(request, browser, site) -> SimpleNamespace:
    """One page, loaded and typeset at desktop width; what the console and the network said meanwhile."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(f"{site}/{request.param}.html")
    browser.execute_async_script(READY)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    picture(browser, request.param, "desktop")
    return SimpleNamespace(name=request.param, requests=requests, errors=errors)


def picture(browser, name: str, kind: str) -> None:
    path = SCREENSHOTS / f"{name.replace('/', '-')}-{kind}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(path))


def test_a_page_is_whole_and_asks_no_other_host(page, browser, site):
    require(selfcontained.is_vendored(), "npm, and so the vendored scripts,")
    facts = browser.execute_script(FACTS)
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith((site, "data:", "blob:", "chrome"))] == []
    assert (facts["raw"], facts["wrong"], facts["dollars"]) == (0, 0, []), "formulas that are not typeset"
    assert facts["cut"] == [], "formulas wider than their column that can't be scrolled"
    assert facts["broken"] == [] and facts["mute"] == [], "pictures that are missing or have no text in their place"
    steps = zip(facts["headings"], facts["headings"][1:], strict=False)
    assert facts["headings"].count(1) == (page.name not in ("search", "genindex")) or facts["headings"].count(1) == 1
    assert all(after <= before + 1 for before, after in steps), f"headings skip a level: {facts['headings']}"

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.execute_async_script(READY)
    picture(browser, page.name, "phone")
    facts = browser.execute_script(FACTS)
    assert facts["cut"] == [], "formulas wider than their column that can't be scrolled"
    assert all(scale * DPI * TYPE / 72 > 0.95 * caption for scale, caption in facts["figures"]), (
        "type below the captions"
    )
    assert facts["width"] <= PHONE["width"], f"wider than a phone: {facts['wide']}"


def set_theme(browser, theme: str) -> None:
    browser.execute_script(
        "document.documentElement.dataset.theme = document.documentElement.dataset.mode = arguments[0];"
        "document.body.style.transition = 'none'",
        theme,
    )
    browser.execute_async_script(READY)


def serious(browser, name: str, theme: str) -> list[tuple[str, list[str]]]:
    set_theme(browser, theme)
    picture(browser, name, theme)
    found = browser.execute_async_script(
        "axe.run({exclude: [['mjx-container'], ['div.highlight']]}, {resultTypes:['violations']}).then(arguments[0])"
    )
    return [
        (violation["id"], [node["html"][:150] for node in violation["nodes"][:3]])
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


def test_a_page_keeps_nobody_out(page, browser, axe):
    """axe-core finds nothing serious, on a light and on a dark page: contrast, names, structure."""
    browser.execute_script(axe)
    for theme in ("light", "dark"):
        assert serious(browser, page.name, theme) == [], theme


LEGIBLE = "axe.run(document, {runOnly: ['color-contrast']}).then(r => arguments[0](r.violations.length))"


def test_a_dark_page_that_is_hard_to_read_is_seen(browser, site, axe):
    """The control: gray words on the dark background."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(f"{site}/book/credits.html")
    browser.execute_script(axe)
    set_theme(browser, "dark")
    assert browser.execute_async_script(LEGIBLE) == 0
    browser.execute_script("document.querySelector('article p').style.color = '#444'")
    assert browser.execute_async_script(LEGIBLE) == 1


FOUND = """
const done = arguments[0];
const look = () => {
  const leads = [...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'));
  /Search finished|did not match/.test(document.body.textContent) ? done(leads) : setTimeout(look, 100);
};
look();
"""


def printed(browser) -> str:
    return browser.execute_cdp_cmd("Page.printToPDF", {})["data"]


WAITING = "return [...document.querySelectorAll('mjx-lazy')].filter(e => e.checkVisibility()).length"


@pytest.mark.parametrize("name", [name for name in documents(TOC) if name.startswith("notebooks/")])
def test_formulas_are_set_when_they_are_scrolled_to_and_when_the_page_is_printed(browser, site, name):
    require(selfcontained.is_vendored(), "npm, and so the vendored scripts,")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(f"{site}/{name}.html")
    browser.execute_async_script("setTimeout(arguments[0], 2500)")
    assert browser.execute_script(WAITING) > 0, "formulas far from the window wait"
    first = len(printed(browser))
    WebDriverWait(browser, 5).until(lambda _: browser.execute_script(WAITING) == 0)
    browser.execute_async_script("document.fonts.ready.then(() => setTimeout(arguments[0], 500))")
    assert abs(len(printed(browser)) - first) < 200, "the first print has gaps"

    browser.get(f"{site}/{name}.html")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    for top in range(0, height + 900, 900):
        browser.execute_async_script(f"scrollTo({{top: {top}, behavior: 'instant'}}); setTimeout(arguments[0], 100)")
    WebDriverWait(browser, 5).until(lambda _: browser.execute_script(WAITING) == 0)


def test_a_fold_opens_by_keyboard_and_its_formulas_are_set_then(browser, site):
    require(selfcontained.is_vendored(), "npm, and so the vendored scripts,")
    browser.get(f"{site}/notebooks/02_positional_encodings.html")
    formulas = (
        "const inside = [...document.querySelectorAll('details.deeper .math')];"
        "return [inside.length, inside.filter(e => e.checkVisibility({contentVisibilityAuto: true})).length]"
    )
    count, seen = browser.execute_script(formulas)
    assert count > 0 and seen == 0, "a fold is closed"
    for summary in browser.find_elements("css selector", "details.deeper > summary"):
        summary.send_keys("\n")
    assert browser.execute_script(formulas) == [count, count]
    browser.execute_async_script(READY)
    assert browser.execute_script(FACTS)["raw"] == 0


def test_the_search_finds_what_is_there_and_nothing_else(browser, site):
    browser.get(f"{site}/search.html?q=Cayley")
    leads = browser.execute_async_script(FOUND)
    assert any("02_positional_encodings" in lead for lead in leads) and any("glossary" in lead for lead in leads)
    browser.get(f"{site}/search.html?q=zygomorphic")
    assert browser.execute_async_script(FOUND) == []


MOVED = """
const root = document.querySelector('.e2-player'), range = root.querySelector('input[type=range]');
const state = () => [root.querySelector('.e2-digit').style.backgroundPosition, root.querySelector('output').textContent,
                     root.querySelector('.e2-text').textContent];
const before = state();
range.value = 18;
range.dispatchEvent(new Event('input'));
return [before, state()];
"""


def test_the_slider_turns_the_digit(browser, site):
    from selenium.webdriver import Keys

    browser.get(f"{site}/book/intro.html")
    before, after = browser.execute_script(MOVED)
    assert after[1] == "90°" and all(was != now for was, now in zip(before, after, strict=True))
    browser.find_element("css selector", ".e2-player input[type=range]").send_keys(Keys.ARROW_RIGHT)
    assert browser.find_element("css selector", ".e2-player output").text == "95°"


def test_a_broken_page_is_seen(browser, site, built):
    """The control: a page with an error, an outside request, a raw formula, a mute picture and a wide block."""
    path = Path(built) / "broken.html"
    path.write_text(
        "<main><article><h1>a</h1><h3>b</h3><span class='math'>x</span> $y$ <p>"
        "<mjx-container style='display:block; width:2800px'>z</mjx-container></p><img src='none.png'>"
        "<div style='width:900px'>wide</div></article><script>nothing()</script>"
        "<img src='http://outside.invalid/a.png'></main>"
    )
    browser.get_log("browser")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.get(f"{site}/broken.html")
    facts = browser.execute_script(FACTS)
    path.unlink()
    assert "outside.invalid" in json.dumps(browser.get_log("performance"))
    assert facts["raw"] == 1 and facts["dollars"] == [" $y$ "] and facts["cut"] == ["z"]
    assert len(facts["broken"]) == 2 and len(facts["mute"]) == 2 and facts["headings"] == [1, 3]
    assert facts["width"] > PHONE["width"]
    assert len([entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]) >= 2
