"""What the live tail promises in a real browser: order, bounds, filters, pauses, and that it says what it skips."""

import pytest
from browser import REFUSED, Window, eventually, expect, needs_chromium, started
from fake_dashboard import FakeDashboard, entry, stats
from serving import served

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(browser):
    """One window for all tests, each of which loads the page anew: a window of its own would double their time."""
    with served(FakeDashboard()) as fake:
        window = Window(browser, f"http://127.0.0.1:{fake.port}/")
        yield fake, window
        window.context.close()


@pytest.fixture
def fake(opened):
    opened[0].forget()
    return opened[0]


@pytest.fixture
def window(opened, fake):
    window = opened[1]
    window.page.mouse.move(0, 0)
    window.page.reload()
    expect(window.page.locator("#tail-state")).to_have_text("live")
    yield window
    assert window.errors == []


@pytest.fixture
def page(window):
    return window.page


def lines(page):
    return page.locator("#lines .message")


def send_numbered(fake, count, start=0):
    fake.send(*[entry(f"line {n}") for n in range(start, start + count)])


def scroll_up(page):
    page.locator("#lines").hover()
    page.mouse.wheel(0, -300)


def test_entries_come_by_in_their_order(page, fake):
    """Time, level, service, message and what else an entry has; text that is no entry as it is; the end is in sight."""
    page.locator("#lines").scroll_into_view_if_needed()
    fake.send(entry("first", level="warn", service="web", host="a", user={"id": 7}), "no JSON", '["no object"]')
    expect(lines(page)).to_have_text(["first", "no JSON", '["no object"]'])
    expect(page.locator(".line").first.locator("b")).to_have_text("WARNING")
    expect(page.locator(".line .more").first).to_have_text('host=a  user={"id":7}')
    send_numbered(fake, 60)
    expect(lines(page).last).to_have_text("line 59")
    expect(lines(page).last).to_be_in_viewport()


def test_text_levels_and_services_are_asked_of_the_receiver(page, fake):
    """The chips are the levels that occurred and the services that came by; what is chosen goes into the question."""
    fake.stats = stats(levels={"INFO": 1, "NOTICE": 2, "": 3})
    fake.send(entry("a", service="web"), entry("b", service="db"), entry("c", service=""))
    expect(page.locator("#level-chips button")).to_have_text(
        ["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "none", "NOTICE"], use_inner_text=False
    )
    expect(page.locator("#service-chips button")).to_have_text(["web", "db", "none"])
    page.locator("#level-chips").get_by_role("button", name="ERROR").click()
    page.locator("#level-chips").get_by_role("button", name="none").click()
    page.locator("#service-chips").get_by_role("button", name="db").click()
    page.locator("#tail-text").fill("50 % & more")
    asked = "api/tail?q=50+%25+%26+more&level=ERROR%2C-&service=db&last=100"
    eventually(page, lambda: asked in fake.questions)
    page.locator("#level-chips").get_by_role("button", name="ERROR").click()
    eventually(page, lambda: "api/tail?q=50+%25+%26+more&level=-&service=db&last=100" in fake.questions)
    eventually(page, lambda: fake.viewers == 1)


def test_a_regular_expression_is_the_browsers(page, fake):
    """It is searched in message and fields, and the receiver never hears of it."""
    asked = len([question for question in fake.questions if "tail" in question])
    page.locator("#tail-regex").fill(r"^user \d+ .*host=web-[12]$")
    page.locator("#tail-regex").press("Enter")
    fake.send(
        entry("user 17 left", host="web-1"),
        entry("user x left", host="web-1"),
        entry("user 18 left", host="web-3"),
        entry("user 19 left", host="web-2"),
    )
    expect(lines(page)).to_have_text(["user 17 left", "user 19 left"])
    assert len([question for question in fake.questions if "tail" in question]) == asked


def test_a_bad_regular_expression_says_so(page, fake):
    """What is wrong with it stands there, every line is shown; corrected, it counts again."""
    page.locator("#tail-regex").fill("(user")
    expect(page.locator("#regex-said")).to_have_text("no regular expression (Unterminated group): every line is shown")
    expect(page.locator("#tail-regex")).to_have_attribute("aria-invalid", "true")
    fake.send(entry("anything"))
    expect(lines(page)).to_have_text(["anything"])
    page.locator("#tail-regex").fill("(user)")
    expect(page.locator("#regex-said")).to_be_empty()
    fake.send(entry("something"), entry("a user"))
    expect(lines(page)).to_have_text(["anything", "a user"])


def test_a_slow_regular_expression_does_not_hang_the_page(page, fake):
    """One that would take hours is switched off after a second and says why; the page answers all the while."""
    page.locator("#tail-regex").fill("^(a+)+$")
    page.locator("#tail-regex").press("Enter")
    fake.send(entry("a" * 60 + "!"))
    page.evaluate(
        """() => {
          window.longest = 0;
          let before = performance.now();
          setInterval(() => {
            const now = performance.now();
            window.longest = Math.max(window.longest, now - before);
            before = now;
          }, 20);
        }"""
    )
    expect(page.locator("#regex-said")).to_contain_text("is switched off")
    expect(lines(page)).to_have_count(1)
    assert page.evaluate("window.longest") < 5000  # in the page itself it would take hours
    fake.send(entry("next"))
    expect(lines(page).last).to_have_text("next")


def test_it_pauses_on_scroll_and_resumes_by_button(page, fake):
    """Scrolled up, nothing moves and what waits is counted; the button shows it in order, and the end again."""
    send_numbered(fake, 100)
    expect(lines(page).last).to_have_text("line 99")
    scroll_up(page)
    expect(page.locator("#pause")).to_have_text("Resume")
    top = page.locator("#lines").evaluate("box => box.scrollTop")
    send_numbered(fake, 5, start=100)
    expect(page.locator("#tail-paused")).to_have_text("paused, 5 new")
    expect(lines(page)).to_have_count(100)
    assert page.locator("#lines").evaluate("box => box.scrollTop") <= top
    page.locator("#pause").click()
    expect(lines(page).last).to_have_text("line 104")
    expect(lines(page).last).to_be_in_viewport()
    expect(page.locator("#pause")).to_have_text("Pause")
    expect(page.locator("#tail-paused")).to_be_empty()


def test_the_keyboard_pauses_it_too(page, fake):
    """A key that goes up in the lines pauses; Space on the button resumes."""
    send_numbered(fake, 60)
    expect(lines(page).last).to_have_text("line 59")
    for key in ("PageUp", "Home", "ArrowUp"):
        page.locator("#lines").focus()
        page.keyboard.press(key)
        expect(page.locator("#pause")).to_have_text("Resume")
        page.locator("#pause").focus()
        page.keyboard.press("Space")
        expect(page.locator("#pause")).to_have_text("Pause")


def test_what_was_skipped_is_said_where_it_was_skipped(page, fake):
    """The receiver's skips stand between the lines, added up where they follow each other, and in the count."""
    fake.send(entry("before"))
    fake.skip(1000)
    fake.skip(234)
    fake.send(entry("after"))
    fake.skip(1)
    expect(page.locator("#lines > *")).to_have_count(4)
    expect(page.locator("#lines .skipped")).to_have_text(["1,234 lines skipped", "1 line skipped"])
    expect(page.locator("#lines > * >> nth=1")).to_have_class("skipped")
    expect(page.locator("#tail-counts")).to_have_text("2 shown, 1,235 skipped")
    fake.skip(0, restarted=True)
    expect(page.locator("#lines .skipped").last).to_have_text(
        "the receiver was restarted: what came by meanwhile is not shown"
    )


def test_a_flood_is_bounded_and_what_it_skips_is_said(page, fake):
    """Paused for long, it keeps the newest thousand and counts the others; five hundred rows are all the page holds."""
    fake.send(entry("first"))
    expect(lines(page)).to_have_count(1)
    page.locator("#pause").click()
    for start in range(0, 5000, 500):
        send_numbered(fake, 500, start)
    expect(page.locator("#tail-paused")).to_have_text("paused, 999 new, 4,001 lines skipped")
    page.locator("#pause").click()
    expect(lines(page).last).to_have_text("line 4999")
    expect(page.locator("#tail-counts")).to_have_text("1,000 shown, 4,001 skipped")
    assert page.locator("#lines > *").count() == 500


def test_a_broken_connection_is_taken_up_where_it_was(page, fake):
    """The browser says what it saw last (Last-Event-ID), so nothing is shown twice and nothing is missing."""
    send_numbered(fake, 3)
    expect(lines(page).last).to_have_text("line 2")
    fake.cut()
    send_numbered(fake, 2, start=3)  # nobody looks
    expect(lines(page)).to_have_text([f"line {n}" for n in range(5)])
    assert fake.resumed[-1] == str(fake.last_id - 1)
    expect(page.locator("#tail-state")).to_have_text("live")


def test_a_refused_tail_says_why_and_the_rest_of_the_page_goes_on(window, fake):
    """No place left: the receiver's words stand there; a tail that is refused is asked for again."""
    fake.tail_refusal = "There is no place left"
    window.page.locator("#tail-text").fill("x")
    said = window.page.locator("#tail-state")
    expect(said).to_have_text("not available: There is no place left; trying again every 3 s")
    expect(window.page.locator("#word")).to_have_text("OK")
    fake.tail_refusal = None
    expect(said).to_have_text("live")
    window.forgive(REFUSED)


def test_a_line_of_any_length_has_its_place(page, fake):
    """A megabyte is cut to what can be read, and the length is said; many fields are cut to twenty."""
    fake.send(entry("m" * 1_000_000), entry("fields", **{f"field{n}": n for n in range(50)}))
    expect(lines(page).first).to_contain_text("… (1,000,000 characters)")
    assert len(lines(page).first.text_content()) < 3_000
    expect(page.locator(".line .more").last).to_contain_text("… 30 more fields")
