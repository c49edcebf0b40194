"""The live page in a real browser: it answers as torch does, and it can be used by mouse, touch and keyboard."""

import base64
import json
import re

import live
import numpy as np
import pytest
import selfcontained
import torch
from selenium.webdriver import ActionChains, Keys

from conftest import ROOT, require
from e2vit.actions import rotate
from e2vit.experiments import EXPERIMENTS, run
from e2vit.groups import cyclic
from e2vit.models import Symmetrized

PANELS = ("upright ViT", "ViT", "ViT, post-hoc", "G-CNN", "hybrid")
SETTLED = """
const done = arguments[1], root = document.getElementById('live');
const settled = () => arguments[0] ? root.dataset.state === 'ready' : root.dataset.answered === root.dataset.asked;
const look = () => root.dataset.state === 'failed' ? done(document.getElementById('live-status').textContent)
  : root.dataset.answered && settled() ? done('') : setTimeout(look, 20);
requestAnimationFrame(() => setTimeout(look));
"""
DIGITS = json.loads(live.DIGITS.read_text(encoding="utf-8"))["digits"]


def pixels(digit: dict) -> torch.Tensor:
    values = np.frombuffer(base64.b64decode(digit["pixels"]), np.uint8) / 255
    return torch.from_numpy(values).float().reshape(1, 1, 28, 28)


@pytest.fixture(scope="module")
def page(browser, site):
    """The live page with its networks loaded."""
    require(selfcontained.is_vendored() and not live.missing(), "npm or onnx, and so the networks of the live page,")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("browser")
    browser.get(f"{site}/book/live.html")
    settle(browser)
    return browser


def settle(page, whole: bool = False) -> None:
    """Until every network has answered at the angle shown, or at every angle."""
    assert page.execute_async_script(SETTLED, whole) == ""


def element(page, name: str):
    return page.find_element("id", f"live-{name}")


def choose(page, number: int, degrees: int = 0) -> None:
    """A test digit, turned by the slider."""
    page.execute_script(
        "document.querySelectorAll('#live-digits input')[arguments[0]].click();"
        "const range = document.getElementById('live-degrees'); range.value = arguments[1];"
        "range.dispatchEvent(new Event('input'))",
        number,
        degrees,
    )
    settle(page)


def answers(page) -> dict[str, np.ndarray]:
    found = page.find_elements("css selector", ".live-panel")
    return {
        name: np.array(json.loads(panel.get_attribute("data-probabilities")))
        for name, panel in zip(PANELS, found, strict=True)
    }


@pytest.fixture(scope="module")
def models():
    trained = {name: run(EXPERIMENTS[experiment], "report", 0).model.eval() for name, experiment in live.MODELS.items()}
    post_hoc = {
        views: Symmetrized(trained["vit"], cyclic(views), "mean_logits", interpolation="bilinear") for views in (4, 16)
    }
    return {
        "upright ViT": trained["upright"],
        "ViT": trained["vit"],
        "ViT, post-hoc": post_hoc[4],
        "G-CNN": trained["gcnn"],
        "hybrid": trained["hybrid"],
        "16 views": post_hoc[16],
    }


@torch.no_grad()
def expected(model, image: torch.Tensor) -> np.ndarray:
    return model(image).softmax(-1)[0].numpy()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference of two log-probabilities: it sees what certain answers hide."""
    return float(abs(np.log(found) - np.log(wanted)).max())


@pytest.mark.parametrize("degrees", [0, 90, 35])
@pytest.mark.parametrize("number", [4, 13])
def test_a_known_digit_is_classified_as_torch_does(page, models, number, degrees):
    choose(page, number, degrees)
    turned = rotate(pixels(DIGITS[number]), degrees)
    for name, found in answers(page).items():
        assert abs(found - expected(models[name], turned)).max() < 1e-4, name
        assert distance(found, expected(models[name], turned)) < 1e-3, name


def test_more_views_are_those_of_torch(page, models):
    select = element(page, "views")
    page.execute_script("arguments[0].value = '16'; arguments[0].dispatchEvent(new Event('change'))", select)
    choose(page, 5, 20)
    found = answers(page)["ViT, post-hoc"]
    page.execute_script("arguments[0].value = '4'; arguments[0].dispatchEvent(new Event('change'))", select)
    settle(page)
    image = rotate(pixels(DIGITS[5]), 20)
    assert distance(found, expected(models["16 views"], image)) < 1e-3
    assert distance(found, expected(models["ViT, post-hoc"], image)) > 1e-2  # else this test would see nothing


def test_a_mirror_is_the_mirror_of_the_pixels(page, models):
    choose(page, 10)
    element(page, "mirror").click()
    settle(page)
    found = answers(page)
    element(page, "mirror").click()
    settle(page)
    for name in PANELS:
        assert distance(found[name], expected(models[name], pixels(DIGITS[10]).flip(-1))) < 1e-3, name


def test_quarter_turns_change_the_vit_alone(page):
    """The control among the panels: what is not equivariant is seen to change."""
    changes = {name: 0.0 for name in PANELS}
    for number in (8, 12, 17):
        choose(page, number)
        settle(page, whole=True)
        for name, panel in zip(PANELS, page.find_elements("css selector", ".live-panel"), strict=True):
            changes[name] = max(changes[name], float(panel.get_attribute("data-quarter")))
    assert changes.pop("ViT") > 1e-3 and changes.pop("upright ViT") > 1e-3
    assert max(changes.values()) < 1e-5, changes


def test_the_trace_ends_with_all_angles(page):
    choose(page, 2)
    settle(page, whole=True)
    said = [e.text for e in page.find_elements("css selector", ".live-same")]
    assert all(re.fullmatch(r"\d+ of 36 right", text) for text in said), said
    times = [float(e.text.removesuffix(" ms")) for e in page.find_elements("css selector", ".live-time")]
    assert all(0 < milliseconds < 1000 for milliseconds in times), times


def blank(page) -> None:
    """An empty picture: no network is asked."""
    choose(page, 0)
    element(page, "clear").click()
    assert ink(page) == 0
    assert {e.text for e in page.find_elements("css selector", ".live-answer")} == {"–"}


def grays(page, name: str) -> list[int]:
    """What a canvas shows, pixel by pixel, from 0 to 255."""
    return page.execute_script(
        "const context = document.getElementById(arguments[0]).getContext('2d');"
        "return [...context.getImageData(0, 0, 28, 28).data].filter((_, k) => k % 4 === 0)",
        f"live-{name}",
    )


def ink(page) -> float:
    return sum(grays(page, "draw")) / 255


def seen(page) -> torch.Tensor:
    """The picture that the page says the networks see, in steps of 1/255."""
    return torch.tensor(grays(page, "seen"), dtype=torch.float32).reshape(1, 1, 28, 28) / 255


def assert_answered(page, models) -> None:
    """The networks answer the drawing that is there, and as torch does, up to the steps of the canvas."""
    settle(page)
    assert ink(page) > 10
    for name, found in answers(page).items():
        assert abs(found - expected(models[name], seen(page))).max() < 0.03, name


RING = [(0, -70), (50, -50), (20, 50), (-20, 50), (-50, 20), (-50, -20), (-20, -50), (20, -50), (50, -50)]  # steps


def test_drawing_with_the_mouse_is_answered(page, models):
    blank(page)
    stroke = ActionChains(page, duration=50).move_to_element(element(page, "draw"))
    stroke.move_by_offset(*RING[0]).click_and_hold()
    for step in RING[1:]:
        stroke.move_by_offset(*step)
    stroke.release().perform()
    assert_answered(page, models)


def test_drawing_with_a_finger_is_answered(page, models):
    blank(page)
    box = page.execute_script(
        "const b = document.getElementById('live-draw').getBoundingClientRect();return [b.left + b.width / 2, b.top]"
    )
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for kind, down in (("touchStart", 40), ("touchMove", 110), ("touchMove", 180), ("touchEnd", None)):
        points = [] if down is None else [{"x": box[0], "y": box[1] + down}]
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert_answered(page, models)


def test_drawing_with_the_keyboard_is_answered(page, models):
    blank(page)
    element(page, "draw").send_keys(Keys.ARROW_UP * 8 + Keys.SPACE)
    one = ink(page)
    assert one > 0
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ARROW_DOWN * 16).key_up(Keys.SHIFT).perform()
    assert_answered(page, models)
    assert "painted" in element(page, "place").get_attribute("textContent")
    whole = ink(page)
    element(page, "draw").send_keys(Keys.BACKSPACE)
    assert one < ink(page) < whole


def test_a_wrong_answer_has_the_color_of_wrong_and_a_new_picture_stands_upright(page):
    choose(page, 8, 90)
    wrong = page.find_elements("css selector", ".live-panel")[0].find_elements("css selector", ".live-bad")
    right = page.find_elements("css selector", ".live-panel")[-1].find_elements("css selector", ".live-bad")
    assert len(wrong) == 1 and not right  # the upright ViT and the hybrid on a 4 that lies on its side
    element(page, "mirror").click()
    page.execute_script("document.querySelectorAll('#live-digits input')[9].click()")
    settle(page)
    assert element(page, "degrees").get_attribute("value") == "0"
    assert element(page, "mirror").get_attribute("aria-pressed") == "false"
    element(page, "clear").click()
    assert element(page, "says").get_attribute("textContent") == "Nothing is drawn."


def test_a_picture_from_a_file_is_classified(page, models, tmp_path):
    from PIL import Image

    gray = (255 - 255 * pixels(DIGITS[8])[0, 0].numpy()).astype(np.uint8)  # dark on bright, as on paper
    Image.fromarray(gray).resize((280, 280), Image.Resampling.NEAREST).save(tmp_path / "digit.png")
    element(page, "file").send_keys(str(tmp_path / "digit.png"))
    assert_answered(page, models)
    assert answers(page)["hybrid"].argmax() == DIGITS[8]["label"]


def test_everything_is_reached_with_the_tab_key(page):
    reached = set()
    page.execute_script("document.getElementById('live-draw').focus()")
    for _ in range(14):
        reached.add(page.execute_script("const e = document.activeElement; return e.id || e.name || e.tagName"))
        ActionChains(page).send_keys(Keys.TAB).perform()
    wanted = "draw clear mirror file digit left degrees right views".split()
    assert {f"live-{name}" for name in wanted} <= reached


def test_a_drawing_is_centered_and_a_test_digit_is_not(page):
    shifted = page.execute_script(
        "const image = new Float32Array(784); image[5 * 28 + 3] = 1;"
        "const c = centered(image); return [c.indexOf(1), c.reduce((a, b) => a + b)]"
    )
    assert shifted == [14 * 28 + 14, 1]


def test_no_error_on_the_way(page):
    assert [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_without_networks_the_page_says_so(browser, site, built):
    require(selfcontained.is_vendored(), "npm, and so the vendored scripts,")
    path = built / "_static" / "vendor" / "live" / "models.json"
    hidden = path.with_name("away.json")
    if path.exists():
        path.rename(hidden)
    try:
        browser.get(f"{site}/book/live.html")
        assert "make book" in browser.execute_async_script(SETTLED, False)
    finally:
        if hidden.exists():
            hidden.rename(path)


def test_the_networks_are_those_of_the_checkpoints():
    """What lies beside the page was exported from the committed checkpoints; a changed one is seen."""
    require(not live.missing(), "onnx, and so the networks of the live page,")
    made = json.loads((live.FOLDER / "models.json").read_text(encoding="utf-8"))
    for name, experiment in live.MODELS.items():
        record = json.loads((ROOT / "data/results" / experiment / "seed0.json").read_text(encoding="utf-8"))
        assert made[name]["accuracy"] == record["test"]["accuracy"]
        content = (live.FOLDER / f"{name}.onnx").read_bytes()
        assert str(ROOT).encode() not in content and b"site-packages" not in content


def test_a_changed_checkpoint_is_exported_again(monkeypatch):
    require(not live.missing(), "onnx, and so the networks of the live page,")
    monkeypatch.setattr(live, "made_from", lambda experiment: "another")
    assert live.missing() == list(live.MODELS)


def test_the_test_digits_are_few_and_of_every_class():
    assert sorted(digit["label"] for digit in DIGITS) == sorted(2 * list(range(10)))
    assert live.DIGITS.stat().st_size < 30_000
