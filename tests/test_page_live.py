"""The page in a real browser over a real receiver and a real shipper: what is written to a file is seen."""

import pytest
from browser import REFUSED, Window, expect, needs_chromium, started
from cli_process import receiver, running

from chaos.processes import free_port

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


def ship(tmp_path, address, *arguments):
    return running(
        tmp_path, "ship", "--to", address, "--batch-interval", "0.1", "--spool-dir", tmp_path / "spool", *arguments
    )


def test_what_is_written_is_seen_at_once(browser, tmp_path):
    """Lines of a file come by in the tail, by level; the numbers move and add up, the client has its row."""
    log = tmp_path / "app.log"
    log.touch()
    with receiver(tmp_path, "--dashboard", "--dashboard-port", "0") as process:
        window = Window(browser, process.says(r"http://[\d.:]+/")[0], hurried=True)
        page = window.page
        expect(page.locator("#why")).to_have_text("listening; no shipper is connected")
        expect(page.locator("#clients .empty")).to_be_visible()
        with ship(tmp_path, process.address, log):
            expect(page.locator("#clients .client")).to_have_count(1)
            with log.open("a") as file:
                file.write("INFO all is well\nERROR no <b>disk</b> \u202eleft\n" + "DEBUG detail\n" * 500)
            expect(page.locator("#lines .message", has_text=r"no <b>disk</b> \u202eleft")).to_have_count(1)
            expect(page.locator(".tile", has_text="Entries")).to_contain_text("502 in all")
            expect(page.locator("#levels tbody tr").first).to_contain_text("DEBUG500")
            # Both sums: the shipper's comes with its next status, within five seconds.
            expect(page.locator(".equation").nth(1)).to_have_text("502read=502delivered+0rejected+0dropped+0waiting")
            expect(page.locator(".verdict")).to_have_text(["✓ adds up", "✓ adds up"])
            page.locator("#level-chips").get_by_role("button", name="ERROR").click()
            expect(page.locator("#lines .message")).to_have_count(1)
            page.locator(".opener").click()
            expect(page.locator(".detail")).to_contain_text("Delivered502")
            expect(page.locator("figure:visible")).to_have_count(6)
        expect(page.locator(".client.gone")).to_have_count(1)
        expect(page.locator("#word")).to_have_text("OK")
        assert window.errors == []
        window.context.close()


def test_a_browser_that_has_the_password_sees_all_of_the_page(browser, tmp_path):
    """The numbers, the clients and the live tail come with it; without it there is no page."""
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("sesam-open-up\n")
    log = tmp_path / "app.log"
    log.write_text("INFO all is well\n")
    with receiver(tmp_path, "--dashboard", "--dashboard-port", "0", "--dashboard-password-file", password) as process:
        url = process.says(r"http://[\d.:]+/")[0]
        window = Window(browser, url, http_credentials={"username": "me", "password": "sesam-open-up"})
        with ship(tmp_path, process.address, "--from-start", log):
            expect(window.page.locator("#lines .message")).to_have_text("INFO all is well")
            expect(window.page.locator("#clients .client")).to_have_count(1)
        assert [error for error in window.errors if REFUSED not in error] == []
        window.context.close()


def test_a_receiver_that_is_killed_is_stopped_and_its_successor_is_found(browser, tmp_path):
    """STOPPED while it is gone; then OK, the tail goes on by itself and says that it missed something."""
    log = tmp_path / "app.log"
    log.touch()
    page_port = ("--dashboard", "--dashboard-port", free_port())
    with receiver(tmp_path, *page_port) as first:
        url = first.says(r"http://[\d.:]+/")[0]
        address = first.address
        window = Window(browser, url, hurried=True)
        page = window.page
        with ship(tmp_path, address, log):
            expect(page.locator("#clients .client")).to_have_count(1)
            log.write_text("INFO before\n")
            expect(page.locator("#lines .message", has_text="before")).to_have_count(1)
            first.process.kill()
            first.process.wait()
            expect(page.locator("#word")).to_have_text("STOPPED")
            expect(page.locator("#tail-state")).to_have_text("connection lost, trying again …")
            again = ("receive", "--listen", address, "--archive", tmp_path / "archive")
            with running(tmp_path, *again, *page_port):
                expect(page.locator("#word")).to_have_text("OK")
                expect(page.locator("#tail-state")).to_have_text("live")
                expect(page.locator("#lines .skipped")).to_contain_text("the receiver was restarted")
                with log.open("a") as file:
                    file.write("INFO after\n")
                expect(page.locator("#lines .message", has_text="after")).to_have_count(1)
                window.forgive(REFUSED)
                assert window.errors == []
                window.context.close()
