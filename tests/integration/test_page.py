"""The page in a real Chromium: what it shows, at which width, for whom, and what it costs. With PICTURES=DIRECTORY
it leaves pictures of itself there (docs/pictures/page.png)."""

import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from playwright.sync_api import Browser, Page, expect, sync_playwright

from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from tests.integration.test_status import watched
from worker.base import keys
from worker.watching.host import Host
from worker.watching.points import Point

#: They run beside the others, with services of their own (make watching).
pytestmark = pytest.mark.watching
ROOT = Path(__file__).parents[2]
HOSTILE = '<img src=x onerror="document.title=1">'


# Its event loop is the thread's own, and would be in the way of other modules' tests.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address(programs: Programs) -> str:
    dashboard = programs.start("dashboard", "--port", "0")
    dashboard.wait_for("shows the fleet")
    found = re.search(r"http://\S+/", dashboard.text())
    assert found
    return found[0]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1100})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: problems.append(request.url) if "127.0.0.1" not in request.url else None)
    yield page
    context.close()
    assert [problem for problem in problems if "503" not in problem and "ERR_CONNECTION" not in problem] == []


def history(queue: redis.Redis, campaign: str, minutes: int = 180) -> None:
    """A campaign's afternoon."""
    now = int(time.time()) // 60 * 60
    accepted = 0
    for ago in range(minutes, 0, -1):
        done = minutes - ago
        accepted += 48 + done * 7 % 13 + (40 if done > minutes // 2 else 0)
        at, waiting = now - ago * 60, max(16_000 - accepted, 0)
        point = Point(at, waiting, 12, 3, accepted, done // 9, 2, 0, 5000, {campaign: accepted})
        queue.lpush(keys.POINTS, point.as_json())


def picture(page: Page, name: str) -> None:
    if directory := os.environ.get("PICTURES"):
        page.screenshot(path=f"{directory}/{name}.png", full_page=True)


def test_it_shows_a_campaign_and_why_somebody_got_nothing(
    page: Page,
    address: str,
    programs: Programs,
    make_campaign: MakeCampaign,
    services: Services,
    queue: redis.Redis,
    tmp_path: Path,
) -> None:
    campaign = make_campaign(150)
    history(queue, campaign.id)
    queue.hset(
        keys.TROUBLES, "disk:mail1", f'{{"sentence": "mail1 has 10 MB of disk left {HOSTILE}: remove something."}}'
    )
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    programs.start("run")
    recorder = programs.start("record")
    wait_until(lambda: tally(services, campaign).status == "sent")
    recorder.stop()  # It would take back what follows.
    queue.hset(keys.TROUBLES, "disk:mail1", json.dumps({"sentence": f"mail1 has 10 MB of disk left {HOSTILE}."}))
    queue.sadd(keys.OPEN_CAMPAIGNS, campaign.id)
    page.goto(address)
    expect(page.locator("#verdict")).to_have_text("1 thing is wrong")
    expect(page.locator("#troubles")).to_contain_text(HOSTILE)
    assert page.title() == "(1) mail-worker"
    counted = tally(services, campaign)
    expect(page.locator(".campaign")).to_contain_text(f"{counted.accepted} sent, {counted.failed} failed")
    expect(page.locator("#numbers")).to_contain_text("accepted, ever")
    expect(page.locator("#age")).to_contain_text("numbers of")
    # The plots have their numbers in tables.
    expect(page.locator("#rate svg")).to_have_attribute("role", "img")
    page.locator("#rate summary").click()
    expect(page.locator("#rate tbody tr").first).to_be_visible()
    page.get_by_role("button", name="6 h").click()
    expect(page.get_by_role("button", name="6 h")).to_have_attribute("aria-pressed", "true")
    page.locator(".campaign summary").click()
    expect(page.locator(".campaign table")).to_contain_text("550 5.1.1 there is no such mailbox")
    page.get_by_label("Address or subscriber's id").fill(campaign.address(50))
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_contain_text("550 5.1.1 there is no such mailbox")
    queue.delete(keys.TROUBLES)
    page.locator("#rate summary").click()
    expect(page.locator("#verdict")).to_have_text("All is well", timeout=30_000)
    picture(page, "page")
    page.emulate_media(color_scheme="dark")
    picture(page, "page-dark")


@pytest.mark.parametrize(
    ("waiting", "labels"), [(0, ["2", "1", "0"]), (3, ["4", "2", "0"]), (1000, ["1,000", "500", "0"])]
)
def test_a_plots_lines_have_their_numbers(
    page: Page, address: str, queue: redis.Redis, waiting: int, labels: list[str]
) -> None:
    now = int(time.time()) // 60 * 60
    for ago in (2, 1):
        queue.lpush(keys.POINTS, Point(now - ago * 60, waiting, 0, 0, 0, 0, 0, 0, 0, {}).as_json())
    page.goto(address)
    expect(page.locator("#waiting svg text[text-anchor=end]:not(:last-child)")).to_have_text(
        [*labels[::-1], re.compile("[AP]M$")]
    )


def test_it_fits_a_phone_and_works_by_keyboard(
    browser: Browser, address: str, queue: redis.Redis, make_campaign: MakeCampaign
) -> None:
    campaign = make_campaign(1)
    history(queue, campaign.id)
    queue.sadd(keys.OPEN_CAMPAIGNS, campaign.id)
    host = Host("mail1.example.org", time.time(), "1.2", 500.0, 2000, 900, 0.5, 2, 20_000, 9_000, True, False, 4, 3, 1)
    queue.hset(keys.HOSTS, host.name, host.as_json())
    with browser.new_context(viewport={"width": 360, "height": 800}, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#rate svg")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        # Nothing of a host's line is cut either.
        expect(page.locator("#hosts td")).to_have_count(7)
        assert page.evaluate(
            "[...document.querySelectorAll('.wide')].every((one) => one.scrollWidth <= one.clientWidth)"
        )
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        picture(page, "page-phone")


def test_it_says_how_old_its_numbers_are_when_redis_is_away(
    page: Page, address: str, services: Services, queue: redis.Redis
) -> None:
    page.goto(address)
    expect(page.locator("#verdict")).to_contain_text("is wrong")  # No worker.
    services.control("redis", "stop")
    try:
        expect(page.locator("#verdict")).to_contain_text("Redis", timeout=60_000)
        expect(page.locator("#age")).to_contain_text("numbers of")
        expect(page.locator("body")).to_have_class("stale")
    finally:
        services.control("redis", "start")
    expect(page.locator("body")).not_to_have_class("stale", timeout=60_000)


def test_it_costs_the_same_for_ten_who_look_and_rests_when_nobody_does(
    browser: Browser, address: str, services: Services, queue: redis.Redis
) -> None:
    pages = [browser.new_page() for _ in range(10)]
    for page in pages:
        page.goto(address)
        expect(page.locator("#numbers dd").first).to_be_visible()
    seen = watched(services, lambda: time.sleep(31))
    assert len(seen) <= 2 * 3 + 3
    assert seen
    for page in pages:
        page.close()
    assert watched(services, lambda: time.sleep(17)) == []


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_others_get_nothing(address: str, headers: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(f"{address}api/fleet", headers=headers), timeout=10)


def test_it_writes_nothing_and_has_no_other_pages(address: str) -> None:
    for method, path in (("POST", ""), ("GET", "../etc/passwd"), ("GET", "api/else"), ("DELETE", "api/fleet")):
        request = urllib.request.Request(address + path, method=method)
        with pytest.raises(urllib.error.HTTPError, match=r"404|501"):
            urllib.request.urlopen(request, timeout=10)


def test_a_port_that_is_taken(address: str, programs: Programs) -> None:
    port = address.rsplit(":", 1)[1].strip("/")
    code, said = programs.run("dashboard", "--port", port)
    assert code == 1
    assert f"127.0.0.1:{port} can't be listened at (Address already in use): choose another --port." in said
