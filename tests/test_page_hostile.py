"""What peers may write into lines and names, in a real browser: it is shown as text, and does nothing."""

import json

import pytest
from browser import Window, expect, needs_chromium, started
from fake_dashboard import FakeDashboard, client, history, stats
from serving import served

pytestmark = needs_chromium

CORPUS = [
    "<script>window.pwned = 1; alert(1)</script>",
    "</script><script>window.pwned = 2</script>",
    "<img src=x onerror='window.pwned = 3'>",
    '"><svg/onload=alert(4)>',
    "' onmouseover='alert(5)",
    "javascript:alert(6)",
    "<a href=javascript:alert(7)>click</a>",
    "<iframe srcdoc='<script>parent.pwned = 8</script>'></iframe>",
    "<style>body { display: none }</style>",
    "<meta http-equiv=refresh content='0;url=https://attacker.example/'>",
    "</title></textarea></noscript><base href=https://attacker.example/>",
    "{{constructor.constructor('alert(9)')()}} ${alert(10)}",
    "line\u2028separator\u2029paragraph",
    "invoice\u202egnp.exe\u202c \u2066hidden\u2069",
    "zero\u200bwidth\ufeff \u00adsoft",
    "\x1b[31mred\x07\x00\x9b0m",
    "__proto__",
    "constructor",
    "\ud800 half a pair",
    "é" * 5_000,
    "",
]
UNSEEN = {
    "\u2028",
    "\u2029",
    "\u202e",
    "\u202c",
    "\u2066",
    "\u2069",
    "\u200b",
    "\ufeff",
    "\u00ad",
    "\x1b",
    "\x07",
    "\x00",
    "\x9b",
}


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


def hostile_stats():
    """Statistics that have the texts wherever a peer, a disk or a message could bring one."""
    alarm = {"severity": CORPUS[0], "since": 1_764_144_000.0}
    counts = dict.fromkeys(CORPUS, 3)
    return stats(
        state="DEGRADED", why=" ".join(CORPUS[:5]), host=CORPUS[0], version=CORPUS[1],
        info={text: text for text in CORPUS},
        alarms=[alarm | {"id": text, "text": text, "todo": text} for text in CORPUS],
        levels=counts, errors=counts, shippers=stats()["shippers"] | {"dropped": counts},
    )  # fmt: skip


def hostile_client(number, text):
    """A client all of whose texts are this one."""
    report = {text or "empty": text, "nested": {text: [text]}, "changes": [[1, 2, 3, text], text], "level_reason": text}
    names = dict.fromkeys(("stream", "name", "host", "agent", "address", "identity", "algorithm", "level_reason"), text)
    return client(f"{number}{text}", **names, dropped={text: 3}, report=report)


def hostile_history(span, now):
    """A history with a change of level for each text."""
    change = {"time": now - 10, "from": 6, "to": 8}
    changes = [change | {"stream": text, "host": text, "reason": text} for text in CORPUS]
    return history(1, 60, now) | {"level_changes": changes}


def test_hostile_texts_are_shown_and_do_nothing(browser):
    """Each text in every place at once: no element comes of it, no script runs, nothing is asked elsewhere."""
    with served(FakeDashboard()) as fake:
        fake.stats, fake.history = hostile_stats(), hostile_history
        fake.clients["clients"] = [hostile_client(number, text) for number, text in enumerate(CORPUS)]
        window = Window(browser, f"http://127.0.0.1:{fake.port}/", hurried=True)
        page = window.page
        expect(page.locator("#clients .client")).to_have_count(len(CORPUS))
        page.evaluate("document.querySelectorAll('.opener').forEach((button) => button.click())")
        for text in CORPUS:
            fake.send(
                json.dumps({"timestamp": text, "level": text, "service": text, "message": text, text or "empty": text})
            )
        expect(page.locator(".line")).to_have_count(len(CORPUS))
        for place in ("#why", "#identity", "#alarms", "#errors", "#levels", "#info", ".changes"):
            expect(page.locator(place)).to_contain_text("<script>window.pwned = 1;")
        made = page.evaluate(
            """[...document.querySelectorAll("script, img, svg, iframe, object, a, base, meta, style, link")]
               .map((e) => e.localName + ":" + (e.getAttribute("src") ?? e.getAttribute("href") ?? e.name ?? ""))"""
        )
        files = ["link:vendor/uPlot.min.css", "link:style.css", "link:panels.css", "script:vendor/uPlot.iife.min.js"]
        more = ["meta:", "meta:viewport", "meta:color-scheme", "link:icon.svg", "script:app.js", "img:icon.svg"]
        assert sorted(made) == sorted([*files, *more, "a:#charts", "a:#clients", "a:#tail"])
        assert page.evaluate("typeof window.pwned") == "undefined"
        assert page.evaluate("Object.keys(Object.prototype)") == []
        assert window.hosts == {f"127.0.0.1:{fake.port}"}
        handlers = page.evaluate(
            """[...document.querySelectorAll("*")]
               .flatMap((e) => e.getAttributeNames().filter((name) => name.startsWith("on")))"""
        )
        assert handlers == []
        shown = page.locator("main").text_content() + page.locator("header").text_content()
        assert {mark for mark in UNSEEN if mark in shown} == set()
        for seen in (r"invoice\u202egnp.exe", r"line\u2028separator", r"zero\u200bwidth", r"\u001b[31mred"):
            assert seen in shown
        assert window.errors == []
        window.context.close()


def test_a_name_that_turns_the_text_turns_only_itself(browser):
    """Right-to-left names stand in their cell, and the numbers beside them stay where they are."""
    with served(FakeDashboard()) as fake:
        fake.clients["clients"] = [client("a", host="شبكة-1 (خادم)"), client("b")]
        window = Window(browser, f"http://127.0.0.1:{fake.port}/", hurried=True)
        expect(window.page.locator("#clients .client")).to_have_count(2)
        rate = "[...document.querySelectorAll('.client')].map((row) => row.children[4].getBoundingClientRect().left)"
        first, second = window.page.evaluate(rate)
        assert first == second
        fake.send(
            json.dumps({"message": "عربي 123", "level": "INFO", "service": "خدمة", "host": "web"}, ensure_ascii=False)
        )
        fake.send(json.dumps({"message": "plain", "level": "INFO", "service": "web12", "host": "web"}))
        expect(window.page.locator(".line")).to_have_count(2)
        edges = window.page.evaluate(
            """[...document.querySelectorAll(".line")]
               .map((line) => [...line.children].map((e) => Math.round(e.getBoundingClientRect().left)))"""
        )
        assert edges[0] == edges[1]
        assert window.errors == []
        window.context.close()


def test_numbers_that_are_none_are_dashes(browser):
    """A row with texts, lists and nulls for numbers, and a report of the wrong shape, is shown all the same."""
    wrong = {"entries": "many", "raw_bytes": None, "wire_bytes": [], "ratio": {}, "entries_per_second": "NaN"}
    more = {"level": None, "lag_batches": "x", "lag_seconds": None, "spool_bytes": [1], "reconnects": None}
    with served(FakeDashboard()) as fake:
        rows = [
            client("a", **wrong, **more, dropped=None, report=[1, 2]),
            client("b", report="text"),
            client("c", report={"changes": 7}),
        ]
        fake.clients["clients"] = rows
        window = Window(browser, f"http://127.0.0.1:{fake.port}/", hurried=True)
        expect(window.page.locator("#clients .client")).to_have_count(3)
        window.page.evaluate("document.querySelectorAll('.opener').forEach((button) => button.click())")
        expect(window.page.locator(".detail:visible")).to_have_count(3)
        for word in ("NaN", "undefined", "[object"):
            expect(window.page.locator("#clients")).not_to_contain_text(word)
        assert window.errors == []
        window.context.close()
