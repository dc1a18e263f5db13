"""What the page promises in a real browser, against a receiver whose numbers the tests set."""

import json
import time

import pytest
from browser import REFUSED, Window, eventually, expect, needs_chromium, started
from fake_dashboard import FakeDashboard, client, history, stats
from serving import served

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


@pytest.fixture
def fake():
    with served(FakeDashboard()) as fake:
        yield fake


@pytest.fixture
def opened(browser, fake):
    """opened(…) is a window with the page; whatever it complained of fails the test."""
    windows = []

    def open_window(**options):
        windows.append(Window(browser, f"http://127.0.0.1:{fake.port}/", hurried=True, **options))
        return windows[-1]

    yield open_window
    for window in windows:
        window.context.close()
        assert window.errors == []


@pytest.fixture
def page(opened):
    return opened().page


def tile(page, name):
    return page.locator(".tile", has=page.get_by_role("heading", name=name, exact=True))


# the top


def test_the_page_shows_the_numbers_and_asks_nobody_else(opened, fake):
    """One word, why, and the tiles; every request goes to this server."""
    window = opened()
    expect(window.page.locator("#word")).to_have_text("OK")
    expect(window.page.locator("#why")).to_have_text("2 shippers connected; what arrives is stored")
    for name, shown in {
        "Entries": "98,800/s360,400 in all",
        "Raw": "23.5MB/s82.9 MB in all",
        "Wire": "2.58MB/s9.11 MB in all",
        "Ratio": "9.109.10 over all",
        "Saved": "73.8MB89.0 % of raw",
        "Durable after": "4.00msp99 12.0 ms",
        "Clients": "23 connections",
        "Disk free": "73.0GB29.0 % free",
    }.items():
        expect(tile(window.page, name)).to_have_text(f"{name}{shown}")
    expect(window.page).to_have_title("OK · 98,800/s · logbale")
    assert window.hosts == {f"127.0.0.1:{fake.port}"}


def test_the_numbers_move_and_nothing_else_does(page, fake):
    """What changes is shown within moments, in its place: the layout stays."""
    expect(tile(page, "Entries").locator("b")).to_have_text("98,800")
    page.wait_for_timeout(300)  # what is laid out once, at the start, is no shift
    page.evaluate(
        """() => { window.shifts = [];
        new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map((e) => e.value)))
          .observe({type: "layout-shift"}); }"""
    )
    fake.stats = stats(rates={"entries": 7.1, "raw_bytes": 1_234.0, "wire_bytes": 99.0})
    expect(tile(page, "Entries").locator("b")).to_have_text("7.10")
    expect(tile(page, "Raw").locator("p")).to_have_text("1.23kB/s")
    assert sum(page.evaluate("window.shifts")) < 0.01


def test_a_degraded_receiver_says_why_and_what_to_do(page, fake):
    """The reason of the state, and for each alarm its severity, its text and its way out."""
    alarm = {"id": "disk", "severity": "critical", "text": "the disk has 1.2 % free", "since": 1_764_144_000.0}
    fake.stats = stats(state="DEGRADED", why="no space", alarms=[alarm | {"todo": "delete segments"}])
    expect(page.locator("#word")).to_have_text("DEGRADED")
    expect(page.locator("#why")).to_have_text("no space")
    expect(page.locator("#alarms li")).to_contain_text("the disk has 1.2 % free")
    expect(page.locator("#alarms .todo")).to_have_text("delete segments")
    fake.stats = stats()
    expect(page.locator("#word")).to_have_text("OK")
    expect(page.locator("#alarms li")).to_have_count(0)


def test_a_sum_that_does_not_add_up_is_red_and_degrades(page, fake):
    """Each sum row on its own, by word and by colour; a sound one says that it adds up."""
    rows = page.locator(".sum")
    for changed, row, verdict in [
        ({"stored_entries": 360_000}, "Receiver", "✗ 350 unaccounted for"),
        ({"stored_entries": 360_351}, "Receiver", "✗ 1 too many"),
        ({"shippers": stats()["shippers"] | {"read_entries": 361_007}}, "Shippers", "✗ 7 unaccounted for"),
    ]:
        fake.stats = stats()
        expect(rows.locator(".verdict")).to_have_text(["✓ adds up", "✓ adds up"])
        expect(page.locator("#word")).to_have_text("OK")
        fake.stats = stats(**changed)
        wrong = rows.filter(has=page.get_by_role("heading", name=row))
        expect(wrong.locator(".verdict")).to_have_text(verdict)
        expect(page.locator(".wrong")).to_have_count(1)
        expect(page.locator("#word")).to_have_text("DEGRADED")
        red = page.evaluate("getComputedStyle(document.querySelector('.wrong .term b')).color")
        assert red != page.evaluate("getComputedStyle(document.querySelector('.sum:not(.wrong) .term b')).color")


def test_a_receiver_that_goes_away_is_stopped_and_comes_back(opened, fake):
    """STOPPED since when, with the last numbers; as soon as it answers again it is OK."""
    window = opened()
    expect(window.page.locator("#word")).to_have_text("OK")
    fake.is_silent = True
    expect(window.page.locator("#word")).to_have_text("STOPPED")
    expect(window.page.locator("#why")).to_contain_text("no answer since ")
    expect(tile(window.page, "Entries").locator("b")).to_have_text("98,800")
    fake.is_silent = False
    expect(window.page.locator("#word")).to_have_text("OK")
    window.forgive(REFUSED)


def test_an_unused_receiver_says_how_to_use_it(page, fake):
    """Without clients, entries and samples every part says so, and the way to a first shipper."""
    nothing = {"batches": 0, "entries": 0, "raw_bytes": 0, "wire_bytes": 0}
    fake.history = lambda span, now: history(1, 0, now)
    fake.clients = {"clients": [], "left_out": 0}
    none = {"received": nothing, "stored_entries": 0, "waiting_entries": 0, "by_algorithm": {}, "levels": {}}
    still = {"entries": 0.0, "raw_bytes": 0.0, "wire_bytes": 0.0}
    silent = {"reporting": 0, "read_entries": 0, "delivered_entries": 0, "dropped": {}, "waiting_entries": 0}
    unknown = {"p50": None, "p99": None, "count": 0}
    fake.stats = stats(clients=0, **none, rates=still, shippers=silent, latency=unknown, disk=None, last_sync=None)
    page.reload()
    expect(page.locator("#why")).to_have_text("listening; no shipper is connected")
    expect(page.locator("#clients .empty")).to_contain_text("logbale ship --to HOST:PORT")
    expect(page.locator("#tail .empty")).to_be_visible()
    expect(page.locator("figure .empty").first).to_be_visible()
    expect(page.locator("#tiles")).not_to_contain_text("NaN")
    expect(page.locator(".sum .verdict")).to_have_text(["✓ adds up"])


def test_a_shipper_has_the_same_page_without_what_it_does_not_know(opened, fake):
    """Its own sum and charts of what came since the page was opened; no clients, no live tail, no wrong question."""
    sent = {"batches": 3, "entries": 60, "raw_bytes": 12_000, "wire_bytes": 1_500}
    rates = {"entries": 10.0, "raw_bytes": 2_000.0, "wire_bytes": 250.0}
    fake.stats = {
        **{"end": "shipper", "version": "0.1.0", "host": "web-1", "info": {}, "state": "OK", "why": "", "uptime": 9.0},
        **{"connected": True, "read_entries": 60, "delivered_entries": 50, "dropped": {"rejected": 2}, "sent": sent},
        **{"waiting_batches": 1, "waiting_entries": 8, "ratio": 8.0, "rates": rates, "mean_rates": rates},
        **{"bypassed": 1, "compress_seconds": 0.01, "algorithm": "zstd", "level": 6, "level_reason": "fixed"},
        **{"level_changes": {}, "backlog_bytes": 1_000, "stalled_seconds": 0.1, "reconnects": 0, "errors": {}},
    }
    page = opened().page
    expect(page.locator(".equation")).to_have_text("60read=50delivered+2rejected+8waiting")
    expect(page.locator("#clients")).to_be_hidden()
    expect(page.locator("#tail")).to_be_hidden()
    later = {"uptime": 10.0, "level": 8, "level_reason": "the link is slow: 6 → 8"}
    fake.stats = fake.stats | later | {"sent": {"batches": 4, "entries": 90, "raw_bytes": 18_000, "wire_bytes": 2_250}}
    expect(page.locator("figure:visible h3")).to_have_text(
        ["Entries", "Throughput", "Ratio by algorithm", "Time to durable", "Compression level"]
    )
    expect(page.locator("figure .legend").first).to_have_text("30.0/sentries")
    expect(page.locator(".changes li")).to_contain_text("6 → 8web-1: the link is slow")
    assert {question.split("?")[0] for question in fake.questions} == {"api/stats"}


# how it looks


def luminance(colour):
    """WCAG's relative luminance of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(page, selector, behind):
    """Between the colour of an element's text and the background of what is behind it."""
    colour = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")
    background = page.evaluate(f"getComputedStyle(document.querySelector('{behind}')).backgroundColor")
    light, dark = sorted([luminance(colour), luminance(background)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_theme_can_be_read(opened, fake, scheme):
    """As the system asks, light or dark, and text stands out from what is behind it (WCAG AA)."""
    page = opened(color_scheme=scheme).page
    fake.send(json.dumps({"level": "ERROR", "service": "web", "message": "no"}))
    expect(page.locator(".line")).to_have_count(1)
    page_is_dark = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.1
    assert page_is_dark == (scheme == "dark")
    for selector in (".tile b", ".tile small", ".sum .verdict", "#clients td", ".legend > span > span"):
        assert contrast(page, selector, ".card") >= 4.5, selector
    for selector in (".line .message", ".line time"):
        assert contrast(page, selector, "#lines") >= 4.5, selector


def test_the_theme_can_be_chosen_and_is_kept(page):
    """The button goes from the system's to light and dark; a reload keeps the choice, and the charts follow."""

    def axis_ink():
        return page.evaluate("getComputedStyle(document.querySelector('figcaption h3')).color")

    button = page.locator("#theme")
    button.click()
    expect(button).to_have_text("Theme: light")
    light = axis_ink()
    button.click()
    expect(button).to_have_text("Theme: dark")
    assert axis_ink() != light
    page.reload()
    expect(button).to_have_text("Theme: dark")


def test_every_width_has_room_for_the_page(opened, fake):
    """Nothing is wider than the window, also with long names and long lines; what has no room scrolls by itself."""
    name = "x" * 300
    fake.clients["clients"] = [client("a", host=name, name=name, stream=name, address=name, identity=name)]
    texts = {"host": name, "info": {"archive": name}, "why": name, "errors": {name: 3}, "levels": {name: 1}}
    fake.stats = stats(state="DEGRADED", **texts)
    page = opened().page
    fake.send(json.dumps({"level": name, "service": name, "message": name * 10, name: name}))
    expect(page.locator(".line")).to_have_count(1)
    expect(page.locator("#clients .client")).to_have_count(1)
    rightmost = "Math.max(...[...document.querySelectorAll('.line *')].map((e) => e.getBoundingClientRect().right))"
    cut = """[...document.querySelectorAll('#algorithms table')].map((table) => [table, table.parentElement])
        .filter(([table, card]) => table.getBoundingClientRect().right > card.getBoundingClientRect().right).length"""
    for width in (320, 400, 768, 1280, 2000):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")  # a chart follows a frame later
        page.wait_for_function(f"{rightmost} <= {width}")
        assert page.evaluate(cut) == 0


def test_who_wants_no_motion_gets_none(opened):
    """With prefers-reduced-motion nothing glides and nothing is animated."""
    page = opened(reduced_motion="reduce").page
    expect(page.locator("#word")).to_have_text("OK")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert page.evaluate("document.getAnimations().length") == 0


# charts


def pixels(page, title, tone):
    """In how many rows each column of pixels of a chart has a line's colour, from left to right over its plot."""
    return page.evaluate(
        """([title, tone]) => {
        const titled = (figure) => figure.querySelector("h3").textContent === title;
        const figure = [...document.querySelectorAll("figure")].find(titled);
        const probe = document.querySelector("#probe");
        probe.className = tone;
        const want = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
        const canvas = figure.querySelector("canvas");
        const over = figure.querySelector(".u-over");
        const box = [over.offsetLeft, over.offsetTop, over.clientWidth, over.clientHeight];
        const device = box.map((v) => Math.round(v * devicePixelRatio));
        const { data, width, height } = canvas.getContext("2d").getImageData(...device);
        return Array.from({ length: width }, (_, x) => {
          let found = 0;
          for (let y = 0; y < height; y++) {
            const at = 4 * (y * width + x);
            if (data[at + 3] > 200 && want.every((v, i) => Math.abs(v - data[at + i]) < 30)) found++;
          }
          return found;
        });
      }""",
        [title, tone],
    )


def test_a_gap_stays_a_gap(page, fake):
    """Where nothing was measured no line is drawn, neither for nulls nor for samples that are not there."""

    def with_gaps(span, now):
        answer = history(1, 900, now)
        keep = [n for n in range(900) if not 600 <= n < 700]
        for name, values in answer["columns"].items():
            known = [None if name != "time" and 200 <= n < 300 else value for n, value in enumerate(values)]
            answer["columns"][name] = [known[n] for n in keep]
        return answer

    fake.history = with_gaps
    page.reload()
    expect(page.locator("figure .legend b").first).to_have_text("1,000/s")
    drawn = pixels(page, "Entries", "entries")
    at = [drawn[int(len(drawn) * n / 900)] for n in (100, 250, 450, 650, 800)]
    assert [bool(found) for found in at] == [True, False, True, False, True]


def test_the_charts_have_both_ranges(page, fake):
    """Fifteen minutes by seconds at first, a day by minutes on request; then only what is new is asked for."""
    expect(page.locator("figure .legend b").first).to_have_text("1,000/s")
    assert any(question.startswith("api/history?range=15m") for question in fake.questions)
    page.get_by_role("button", name="24 h").click()
    expect(page.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "true")
    eventually(page, lambda: "api/history?range=24h" in fake.questions)
    page.get_by_role("button", name="15 min").click()
    eventually(page, lambda: any("range=15m&since=" in question for question in fake.questions[-3:]))


def test_the_legend_reads_the_chart_under_the_pointer(page, fake):
    """The newest values by itself, those of one moment while the pointer is there, in all charts at once."""
    ramp = [float(n) for n in range(300)]
    fake.history = lambda span, now: history(1, 300, now, entries=ramp, p99=[n / 1000 for n in ramp])
    page.reload()
    values = page.locator("figure", has_text="Entries").first.locator(".legend b")
    expect(values).to_have_text("299/s")
    page.locator("figure .u-over").first.hover(position={"x": 100, "y": 40})
    expect(values).not_to_have_text("299/s")
    expect(page.locator("figcaption time").nth(3)).to_have_text(page.locator("figcaption time").first.text_content())
    page.mouse.move(5, 5)
    expect(values).to_have_text("299/s")


def test_a_change_of_level_has_its_reason(page, fake):
    """Each change is a point in the chart, a line below it, and a tip under the pointer."""

    reason = "the link is what everything waits for"
    change = {"time": time.time() - 60, "stream": "s", "host": "web-1", "from": 6, "to": 8, "reason": reason}
    fake.history = lambda span, now: history(1, 120, now) | {"level_changes": [change]}
    page.reload()
    expect(page.locator(".changes li")).to_contain_text("6 → 8web-1: the link is what everything waits for")
    plot, tip = page.locator(".level-plot .u-over"), page.locator(".tip")
    middle = plot.bounding_box()["width"] / 2

    def is_found():
        for left in range(int(middle), 0, -5):  # it moves on while the pointer comes
            plot.hover(position={"x": left, "y": 20})
            page.wait_for_timeout(20)
            if tip.is_visible():
                return True
        return False

    eventually(page, is_found)
    expect(tip).to_have_text("6 → 8 web-1: the link is what everything waits for")
    assert sum(pixels(page, "Compression level", "level")) > 0


# clients


def names(page):
    return page.locator("#clients .name").all_text_contents()


def test_clients_are_sorted_by_any_column(page, fake):
    """By number or by name, in both directions; what is not known comes last; the header says which."""
    rates = {"a": 5.0, "b": 100.0, "c": None, "d": 20.0}
    fake.clients["clients"] = [client(id, entries_per_second=rate) for id, rate in rates.items()]
    expect(page.locator("#clients .client")).to_have_count(4)
    assert names(page) == ["web-a", "web-b", "web-c", "web-d"]
    header = page.get_by_role("columnheader", name="Entries/s")
    header.get_by_role("button").click()
    assert names(page) == ["web-b", "web-d", "web-a", "web-c"]
    expect(header).to_have_attribute("aria-sort", "descending")
    header.get_by_role("button").click()
    assert names(page) == ["web-a", "web-d", "web-b", "web-c"]
    expect(header).to_have_attribute("aria-sort", "ascending")


def test_shippers_of_one_host_are_told_apart_by_their_names(page, fake):
    """Each row has its shipper's name beside the host, or else a part of the stream; the filter and the detail too."""
    stream = f"vm:4ebbf2{'0' * 26}"
    fake.clients["clients"] = [
        client("a", host="vm", name="web-log-9"),
        client("b", host="vm", name="app-log-1"),
        client("c", host="vm", stream=stream),
    ]
    openers = page.locator(".opener")
    expect(openers).to_have_text(["vm4ebbf2", "vmapp-log-1", "vmweb-log-9"])
    page.locator("#client-filter").fill("app-log")
    expect(openers).to_have_text(["vmapp-log-1"])
    openers.first.click()
    expect(page.locator(".detail:visible")).to_contain_text("Nameapp-log-1")


def test_a_long_name_leaves_room_for_the_host(page, fake):
    """And is seen to its end, on a narrow window too: the end is what differs."""
    fake.clients["clients"] = [client("a", host="vm", name="application-server-log-file-3f2a91c0b4d2")]
    expect(page.locator(".opener")).to_have_text(["vmapplication-server-log-file-3f2a91c0b4d2"])
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        host, name = (page.locator(f".opener {part}").bounding_box() for part in (".name", "small"))
        assert host["width"] > 10
        assert name["width"] > 30
        assert page.locator(".opener small").evaluate("(e) => e.scrollWidth <= e.clientWidth || e.clientWidth === 0")


def test_clients_that_are_here_come_before_those_that_have_gone(page, fake):
    """Whatever they are sorted by, and in either direction."""
    fake.clients["clients"] = [client("b"), client("c"), client("a", connected=False), client("d", connected=False)]
    expect(page.locator("#clients .client")).to_have_count(4)
    assert names(page) == ["web-b", "web-c", "web-a", "web-d"]
    page.get_by_role("columnheader", name="Client").get_by_role("button").click()
    assert names(page) == ["web-c", "web-b", "web-d", "web-a"]


def test_clients_are_filtered_by_what_they_are_called(page, fake):
    """A part of the host, name, stream, address, identity or agent; how many match is said."""
    fake.clients["clients"] = [client("a", identity="CN=alpha"), client("b", address="198.51.100.9:1"), client("c")]
    expect(page.locator("#clients .client")).to_have_count(3)
    for text, found in {
        "ALPHA": ["web-a"],
        "198.51": ["web-b"],
        "web-": ["web-a", "web-b", "web-c"],
        "nobody": [],
    }.items():
        page.locator("#client-filter").fill(text)
        assert names(page) == found
        expect(page.locator("#clients-said")).to_have_text(f"{len(found)} of 3 match")


def test_a_row_opens_its_detail_with_the_keyboard_too(page, fake):
    """All that is known of a client and all that it reported; it stays open while the numbers move."""
    expect(page.locator("#clients .client")).to_have_count(2)
    opener = page.locator(".opener").first
    opener.focus()
    page.keyboard.press("Enter")
    expect(opener).to_have_attribute("aria-expanded", "true")
    detail = page.locator(".detail:visible")
    expect(detail).to_contain_text("a-3f2a91c0b4d2")
    expect(detail).to_contain_text("CPU12.5 %")
    fake.clients["clients"] = [client("a", entries=77_777), client("b")]
    expect(detail).to_contain_text("77,777 in all")
    page.keyboard.press("Enter")
    expect(detail).to_have_count(0)
    page.locator(".client td").nth(4).click()
    expect(detail).to_have_count(1)


def test_rows_stay_where_they_are_under_the_pointer(page, fake):
    """While somebody points at the table, other numbers do not put another row there; then they do."""
    rank = page.get_by_role("columnheader", name="Entries/s").get_by_role("button")
    expect(page.locator("#clients .client")).to_have_count(2)
    rank.click()
    page.locator(".client").first.hover()
    first = names(page)
    fake.clients["clients"] = [client("a", entries_per_second=1.0), client("b", entries_per_second=900.0)]
    expect(page.locator(".client", has_text="900")).to_have_count(1)
    assert names(page) == first == ["web-a", "web-b"]
    page.mouse.move(5, 5)
    rank.evaluate("button => button.blur()")
    expect(page.locator(".name").first).to_have_text("web-b")


def test_a_thousand_clients_are_shown_by_the_hundred(page, fake):
    """The first hundred and a button for more; what the receiver left out is said."""
    fake.clients = {"clients": [client(f"{n:04}") for n in range(1000)], "left_out": 7}
    expect(page.locator("#clients .client")).to_have_count(100)
    expect(page.locator("#clients-said")).to_have_text("1,000 in all, 7 more are not listed")
    page.locator("#more-clients").click()
    expect(page.locator("#clients .client")).to_have_count(200)


# keyboard


def test_everything_can_be_reached_and_seen_with_the_keyboard(page, fake):
    """Tab comes to each control and each box that scrolls, and where it is is marked."""
    expect(page.locator("#clients .client")).to_have_count(2)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        marked = page.evaluate(
            """() => {
              const at = document.activeElement;
              const { outlineStyle, outlineWidth } = getComputedStyle(at);
              const name = at === document.body ? "" : at.id || at.className || at.textContent;
              return [name, outlineStyle !== "none" && parseFloat(outlineWidth) >= 1];
            }"""
        )
        if marked[0] == "":
            break
        assert marked[1], marked[0]
        reached.add(marked[0])
    assert {
        "theme",
        "client-filter",
        "opener",
        "pause",
        "tail-text",
        "tail-regex",
        "chip",
        "lines",
        "15 min",
    } <= reached
