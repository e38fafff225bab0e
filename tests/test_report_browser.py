"""The report in a browser: clicked through, at the width of a desk and of a phone, with hostile names in it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pictures import portrait, scenery, write_loose
from tables_of_rows import Row, face_row, image_row, write_output

from facemill.pipeline.report.make import make_report
from facemill.transforms.ops.units import Unit

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
by = pytest.importorskip("selenium.webdriver.common.by").By
keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

pytestmark = pytest.mark.slow
WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SCRIPT = "<script>document.title='hacked';window.hacked=1;alert(1)</script>"
LOOK_ALIKE = ("Anna", "Anna ", "\u0410nna")
HOSTILE = (
    SCRIPT,
    "</script><img src=x onerror=window.hacked=1>",
    "\"'><svg onload=window.hacked=1>",
    "javascript:window.hacked=1",
    "{{ 7 * 7 }}{% raw %}${7*7}",
    "\u202egpj.exe\u2066\u200b\x1b[31m\x00\n\r\t",
    "x" * 4000,
    "i\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308" * 60,
    r"invalid \xff\xfe utf-8",
    *LOOK_ALIKE,
    "a b " * 1000,
    "__proto__",
    "&lt;b&gt;&amp;<b>bold",
)
NUM_LABELS = 12  # that the page has room for


class Browser:
    """A browser without a head, which remembers what it was asked to load and what its console says."""

    def __init__(self, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)

    def open(self, page: Path, width: str, fragment: str = "") -> None:
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        metrics = {**size, "deviceScaleFactor": 1, "mobile": width == "phone"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        self.driver.get_log("performance"), self.driver.get_log("browser")
        self.driver.get(page.as_uri() + fragment)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(by.CSS_SELECTOR, selector)

    def shown(self, selector: str) -> list[Any]:
        return [found for found in self.driver.find_elements(by.CSS_SELECTOR, selector) if found.is_displayed()]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, key: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(key).perform()

    def requests(self) -> list[str]:
        """The URLs that were asked for, but for pictures within the page."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        patch.setenv("SE_AVOID_STATS", "true")
        started = Browser(tmp_path_factory.mktemp("browser"))
        yield started
        started.driver.quit()


def write_page(folder: Path, label_of: Callable[[int], str], *, name_of: Callable[[int], str]) -> Path:
    """Twenty portraits of two archives, kept, rejected for two reasons; scenes without a face; failures."""
    folder.mkdir()
    photos = write_loose(folder / "photos", {f"{i}.jpg": portrait(i) for i in range(20)})
    write_loose(folder / "more", {f"{i}.jpg": scenery(i) for i in range(20, 24)})
    images: list[Row] = []
    faces: list[Row] = []
    for i in range(20):
        label = label_of(i)
        images.append(image_row(f"photos/{i}.jpg", label=label))
        values = {1: {"reason": "yaw", "yaw_deg": 22.0 + i}, 2: {"reason": "score", "score": 0.01 * i}}.get(i % 4, {})
        faces.append(face_row(f"photos/{i}.jpg", label=label, sharpness=0.1 * i, **values))
    images += [image_row(f"more/{i}.jpg", label=label_of(i)) for i in range(20, 24)]
    for i in range(24, 40):
        image_id = f"more/{name_of(i)}/{i}"
        failure = {"status": "failed", "reason": "decode_error" if i % 2 else "truncated", "message": name_of(i)}
        images.append(image_row(image_id, label=label_of(i), format=None, width=None, height=None, **failure))
    names = tuple(image["image_id"] for image in images)
    units = [
        Unit("unit-000000", "files", tuple(n for n in names if n.startswith(root)), (1,) * count, 1)
        for root, count in (("photos/", 20), ("more/", 20))
    ]
    for row in (*images, *faces):
        row["unit"] = "unit-000000" if row["image_id"].startswith("photos/") else "unit-000001"
    units[1] = Unit("unit-000001", "files", units[1].sources, units[1].sizes, 1)
    inputs = {"photos": f"file://{photos}", "more": f"file://{folder}/more"}
    settings = ["write.crops=none", "judge.max_yaw_deg=15"]
    make_report(write_output(folder / "out", images, faces, inputs=inputs, units=units, settings=settings))
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(
        tmp_path_factory.mktemp("plain") / "made", lambda i: f"person {i % 3}", name_of=lambda i: f"file {i}"
    )


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=window.hacked=1>"
    return write_page(folder, lambda i: HOSTILE[i % NUM_LABELS], name_of=lambda i: HOSTILE[(i + 7) % len(HOSTILE)])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["page", "hostile_page"])
def test_it_loads_nothing_complains_of_nothing_and_fits(
    browser: Browser, request: pytest.FixtureRequest, name: str, width: str
) -> None:
    path = request.getfixturevalue(name)
    browser.open(path, width)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    browser.run("document.querySelectorAll('img').forEach(one => one.loading = 'eager')")
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []
    assert browser.run("return document.documentElement.scrollWidth") == WIDTHS[width][0]
    wide = browser.run(
        """return [...document.querySelectorAll('body *')].filter(one => {
             const box = one.getBoundingClientRect();
             return box.width && box.right > innerWidth + 1 && !one.closest('.unseen, .skip, .flow');
           }).map(one => one.outerHTML.slice(0, 200))"""
    )
    assert wide == []
    assert len(browser.shown(".wide" if width == "desk" else ".strip")) == 1
    assert len(browser.shown(".strip" if width == "desk" else ".wide")) == 0
    assert browser.run("return [...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert browser.run("return document.images.length") == 24


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_names_do_nothing(browser: Browser, hostile_page: Path, width: str) -> None:
    browser.open(hostile_page, width)
    assert browser.run("return window.hacked") is None
    assert "hacked" not in browser.driver.title
    assert browser.run("return document.scripts.length") == 2
    assert browser.run("return document.querySelectorAll('[onerror], [onload], main script, b').length") == 0
    labels = browser.run("return [...document.querySelectorAll('#identities tbody th')].map(one => one.textContent)")
    assert SCRIPT in labels
    assert {"Anna", "Anna\\x20", "\u0410nna"} <= set(labels), "three labels that look alike"
    assert "{{ 7 * 7 }}{% raw %}${7*7}" in labels
    text = browser.run("return document.body.textContent")
    assert "\u202e" not in text and "\\u202egpj.exe\\u2066\\u200b\\x1b[31m\\x00\\n\\r\\t" in labels
    tall = browser.run(
        "return Math.max(...[...document.querySelectorAll('.tiles li')].map(one => one.getBoundingClientRect().height))"
    )
    assert tall < 260, "a long name takes no room beside its picture"


@pytest.mark.parametrize("width", WIDTHS)
def test_every_row_can_be_opened_and_says_what_the_table_says(browser: Browser, hostile_page: Path, width: str) -> None:
    browser.open(hostile_page, width)
    rows = json.loads(browser.run("return document.getElementById('rows').textContent"))
    tiles = browser.run("return [...document.querySelectorAll('.tile')].map(one => one.id)")
    assert len(tiles) == len(rows) == 40
    browser.one(f"#{tiles[0]}").click()
    for key in tiles:
        assert browser.run("return location.hash") == f"#{key}"
        cells = browser.run(
            "return [...document.querySelectorAll('#row-tables tr')].map(one => [...one.cells].map(c => c.textContent))"
        )
        expected = [[name, "none" if value is None else value] for _, values in rows[key] for name, value in values]
        assert cells == expected
        assert browser.run("return document.querySelector('#row .body').scrollWidth <= innerWidth")
        browser.press(keys.ARROW_RIGHT)
    assert browser.run("return location.hash") == f"#{tiles[0]}", "after the last comes the first"
    assert browser.run("return window.hacked") is None
    assert browser.complaints() == []
    messages = {dict(rows[key][-1][1])["message"] for key in tiles if key.startswith("failed")}
    assert SCRIPT in messages and "x" * 4000 in messages


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_is_opened_left_and_linked_to(browser: Browser, page: Path, width: str) -> None:
    browser.open(page, width)
    assert not browser.shown("dialog")
    browser.one("#rejected-yaw-2").click()
    (dialog,) = browser.shown("dialog")
    assert "Rejected: yaw · 2 of 5" in dialog.text and "yaw_deg" in dialog.text
    assert len(browser.shown("#row-picture img")) == 1
    assert browser.driver.current_url.endswith("#rejected-yaw-2")
    browser.press(keys.ESCAPE)
    assert not browser.shown("dialog")
    assert "#" not in browser.driver.current_url
    assert browser.run("return document.activeElement.id") == "rejected-yaw-2"
    browser.press(keys.ENTER)
    assert browser.shown("dialog")
    browser.press(keys.ARROW_LEFT)
    assert browser.driver.current_url.endswith("#rejected-yaw-1")
    browser.one("#next").click()
    browser.one("#close").click()
    assert not browser.shown("dialog")
    assert browser.run("return document.activeElement.id") == "rejected-yaw-2"
    browser.open(page, width, "#failed-truncated-3")
    assert "Failed: truncated · 3 of 8" in browser.one("#row-title").text
    browser.open(page, width, "#%E0%A4%A")
    assert not browser.shown("dialog")
    assert browser.complaints() == []


def test_the_rest_of_the_page_is_out_of_reach_while_a_row_is_open(browser: Browser, page: Path) -> None:
    browser.open(page, "desk", "#kept-1")
    for _ in range(8):
        browser.press(keys.TAB)
        assert browser.run("return document.activeElement.matches('body, dialog, dialog *')")
    browser.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", browser.one("dialog"))
    assert not browser.shown("dialog"), "a click beside it closes it"


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_are_chosen_by_outcome_and_input(browser: Browser, page: Path, width: str) -> None:
    browser.open(page, width)

    def shown() -> dict[str, int]:
        """Pictures by sheet."""
        items = browser.shown("#pictures .sheet li")
        return dict(Counter(item.find_element(by.XPATH, "ancestor::section[1]").get_attribute("id") for item in items))

    everything = {"kept": 10, "rejected-score": 5, "rejected-yaw": 5, "no_face": 4}
    everything |= {"failed-decode_error": 8, "failed-truncated": 8}
    assert shown() == everything
    assert browser.one("#shown").text == "40 shown"
    browser.one("input[value=rejected]").click()
    assert shown() == {"rejected-score": 5, "rejected-yaw": 5}
    browser.press(keys.ARROW_RIGHT)
    assert shown() == {"no_face": 4}, "the choice is made by keys as well"
    browser.one("#root option[value=photos]").click()
    assert shown() == {}
    assert browser.shown("#nothing") and browser.one("#shown").text == "0 shown"
    browser.one("input[name=group][value='']").click()
    assert shown() == {"kept": 10, "rejected-score": 5, "rejected-yaw": 5}
    browser.one("#kept-10").click()
    browser.press(keys.ARROW_RIGHT)
    assert browser.driver.current_url.endswith("#rejected-score-1"), "what is hidden is passed over"
    browser.press(keys.ESCAPE)
    browser.run("location.hash = '#no_face-2'")
    assert "No face · 2 of 4" in browser.one("#row-title").text
    browser.press(keys.ESCAPE)
    assert shown() == everything, "a link to what the choice hides takes the choice back"


def test_boxes_and_points_are_on_the_face_and_can_be_taken_off(browser: Browser, page: Path) -> None:
    browser.open(page, "desk")
    assert len(browser.shown("#rejected-yaw-1 .marks")) == 1
    places = browser.run(
        """const tile = document.getElementById('rejected-yaw-1').getBoundingClientRect();
           return [...document.querySelectorAll('#rejected-yaw-1 circle')].map(one => {
             const box = one.getBoundingClientRect();
             return [(box.x + box.width / 2 - tile.x) / tile.width, (box.y + box.height / 2 - tile.y) / tile.height];
           })"""
    )
    # The picture of 144 px is shown whole; the points are those of the made row.
    assert places == [pytest.approx([(x + 0.5) / 144, (y + 0.5) / 144], abs=0.01) for x, y in _points()]
    browser.one("#marks").click()
    assert not browser.shown("#rejected-yaw-1 .marks")


def _points() -> list[tuple[float, float]]:
    values = face_row("a")["landmarks"]
    return list(zip(values[::2], values[1::2], strict=True))


def test_charts_say_what_the_tables_say(browser: Browser, page: Path) -> None:
    browser.open(page, "desk")
    yaw = browser.one("#measure-yaw_deg")
    assert "median" in yaw.text
    assert len(yaw.find_elements(by.CSS_SELECTOR, "rect.kept")) == 1, "all kept faces have a yaw of 0"
    limits = [title.get_attribute("textContent") for title in yaw.find_elements(by.CSS_SELECTOR, "line.limit title")]
    assert limits == ["max_yaw_deg = 15°"], "the other side lies beyond the axis"
    yaw.find_element(by.TAG_NAME, "summary").click()
    lines = [line.text.split() for line in yaw.find_elements(by.CSS_SELECTOR, "tbody tr")]
    assert [sum(int(line[column]) for line in lines) for column in (2, 3)] == [10, 10]
    assert "10kept" in [label.text for label in browser.shown(".flow text")]
    browser.one(".flow a[href='#rejected-yaw']").click()
    assert browser.driver.current_url.endswith("#rejected-yaw")
    assert 0 <= browser.run("return document.getElementById('rejected-yaw').getBoundingClientRect().top") < 900


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(browser: Browser, page: Path, scheme: str) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 to 1."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.open(page, "desk")
    colors = browser.run(
        """const style = getComputedStyle(document.documentElement);
           const read = name => {
             const probe = document.body.appendChild(document.createElement('i'));
             probe.style.color = style.getPropertyValue(name);
             const found = getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number);
             probe.remove();
             return found;
           };
           const names = ['--paper', '--card', '--ink', '--soft', '--link', '--good', '--warn'];
           return Object.fromEntries(names.map(name => [name, read(name)]))"""
    )
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    for ground in ("--paper", "--card"):
        for text in ("--ink", "--soft", "--link"):
            assert _contrast(colors[ground], colors[text]) >= 4.5, (ground, text)
    for ground in ("--good", "--warn"):
        assert _contrast(colors[ground], colors["--ink"]) >= 4.5


def _contrast(first: list[float], second: list[float]) -> float:
    """WCAG 2.1's contrast ratio of two sRGB colours."""

    def luminance(color: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color[:3])]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_without_scripts_everything_is_there(browser: Browser, page: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(page, "desk")
        assert len(browser.shown("#pictures .sheet")) == 6
        assert not browser.shown(".controls"), "what would do nothing is not shown"
        assert len(browser.shown(".chart")) >= 3
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
