"""The dashboard's password: who gets an answer, who is locked out, and dashboards that would be open by mistake."""

import base64
import re
from collections import Counter

import pytest
from certificates import Certificates
from cli_process import logbale_run, running
from serving import get, served
from test_dashboard import dashboard

from logbale.config import Settings
from logbale.config.credentials import dashboard_password
from logbale.config.exposure import refuse_unsafe_receiver, warn_of_open_receiver
from logbale.config.secret import Secret
from logbale.dashboard.password import Password
from logbale.errors import ConfigError
from logbale.lockout import Lockout

SECRET = "sesam-öffne-dich"


def basic(password, user="anybody"):
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


@pytest.fixture(scope="module")
def errors():
    return Counter()


@pytest.fixture(scope="module")
def server(errors):
    """A dashboard with a password, for all tests that only ask."""
    with served(dashboard(password=Password(SECRET, Lockout(3, 60.0), errors))) as server:
        yield server


@pytest.mark.parametrize("path", ["/", "/api/stats", "/healthz", "/app.js", "/nothing"])
def test_nothing_is_answered_without_the_password(server, path):
    """Not the page, not the numbers, not even whether there is such a path; the browser is told how to ask."""
    status, headers, body = get(server, path)
    assert status == 401
    assert headers["www-authenticate"].startswith('Basic realm="logbale"')
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert b"wants a password" in body
    assert get(server, path, headers=basic(SECRET))[0] == (404 if path == "/nothing" else 200)


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic AAAA",
        "Bearer abc",
        basic(SECRET)["Authorization"][:-4],
        basic(SECRET[:-1])["Authorization"],
        basic("")["Authorization"],
        "Basic " + "A" * 5000,
        "",
    ],
)
def test_what_is_not_the_password_is_refused_and_counted(server, errors, authorization):
    """Whatever the header holds, also nothing that makes sense."""
    before = errors["dashboard_password"]
    assert get(server, "/api/stats", headers={"Authorization": authorization})[0] == 401
    assert errors["dashboard_password"] == before + 1


def test_the_name_does_not_matter_and_the_host_does_before_the_password(server):
    """Any user's name; a page of somebody else's learns nothing of the password."""
    assert get(server, "/", headers=basic(SECRET, user=""))[0] == 200
    assert get(server, "/", host="evil.example", headers=basic("guess"))[0] == 421


def test_an_address_that_guesses_passwords_is_locked_out(caplog):
    """429, with the right one too; said once, without any; loopback is exempt."""
    errors = Counter()
    password = Password(SECRET, Lockout(3, 60.0), errors)
    right, wrong = basic(SECRET)["Authorization"], basic("guess-guess")["Authorization"]
    assert [password.refusal(wrong, "192.0.2.1").status_code for _ in range(4)] == [401, 401, 401, 429]
    assert password.refusal(right, "192.0.2.1").status_code == 429
    assert password.refusal(right, "192.0.2.2") is None
    assert errors == {"dashboard_password": 3, "dashboard_locked_out": 2}
    assert caplog.text.count("locked out") == 1
    assert "guess" not in caplog.text
    assert [password.refusal(wrong, "127.0.0.1").status_code for _ in range(9)] == [401] * 9
    assert password.refusal(right, "127.0.0.1") is None


def test_a_password_can_be_changed():
    """A reload gives another one; the old one opens nothing any more."""
    password = Password(SECRET, Lockout(3, 60.0), Counter())
    password.change("another-one")
    assert password.refusal(basic("another-one")["Authorization"], "192.0.2.1") is None
    assert password.refusal(basic(SECRET)["Authorization"], "192.0.2.1").status_code == 401


@pytest.mark.parametrize("text", ["", "\n\n", "short\n", "first-password\nsecond-password\n"])
def test_a_password_file_that_makes_no_sense_is_refused(tmp_path, text):
    """One line of eight characters or more; the message does not repeat it."""
    file = tmp_path / "password"
    file.write_text(text)
    with pytest.raises(ConfigError, match="expected one line, a password of 8 characters") as refused:
        dashboard_password(Settings(dashboard_password_file=str(file)))
    assert not re.search(r"short|first|second", str(refused.value))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "logs.example.org"])
def test_a_dashboard_off_loopback_without_a_password_refuses_to_start(host):
    """It looks guarded and is not; the three ways out are in the message, and each of them is one."""
    with pytest.raises(ConfigError) as refused:
        refuse_unsafe_receiver(Settings(dashboard_enabled=True, dashboard_host=host))
    for way in ("DASHBOARD_PASSWORD_FILE", "DASHBOARD_HOST=127.0.0.1", "DASHBOARD_OPEN=true"):
        assert way in str(refused.value)
    refuse_unsafe_receiver(Settings(dashboard_enabled=True, dashboard_host=host, dashboard_password_file="x"))
    refuse_unsafe_receiver(Settings(dashboard_enabled=True, dashboard_host=host, dashboard_open=True))
    refuse_unsafe_receiver(Settings(dashboard_enabled=True, dashboard_host="localhost"))
    refuse_unsafe_receiver(Settings(dashboard_enabled=False, dashboard_host=host, metrics_port=9100))


def test_what_is_wrong_is_said_at_once():
    """All of it, a line each; open with a password is one more contradiction."""
    settings = Settings(dashboard_open=True, dashboard_password_file="x", tokens=Secret("x" * 16))
    with pytest.raises(ConfigError) as refused:
        refuse_unsafe_receiver(settings)
    assert len(str(refused.value).splitlines()) == 2


def test_a_password_is_asked_for_by_a_receiver_and_given_by_its_viewers(tmp_path):
    """Real processes: refused without it, in words; from the file or the URL it opens; nobody ever prints it."""
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text("sesam-open/up\n")
    options = ["receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive", "-v"]
    options += ["--dashboard", "--dashboard-host", "0.0.0.0", "--dashboard-port", "0"]
    refused = logbale_run(*options)
    assert refused.returncode == 78
    assert "DASHBOARD_HOST='0.0.0.0' without a password" in refused.stderr
    with running(tmp_path, *options, "--dashboard-password-file", file) as end:
        port = end.says(r"dashboard on http://0\.0\.0\.0:(\d+)/")[1]
        end.says("over plain HTTP")
        none = logbale_run("top", "--once", f"127.0.0.1:{port}")
        assert none.returncode == 69
        assert "answers 401" in none.stderr
        assert "Name its file with --dashboard-password-file (DASHBOARD_PASSWORD_FILE)" in none.stderr
        wrong = logbale_run("top", "--once", f"http://:sesam-shut@127.0.0.1:{port}")
        assert wrong.returncode == 69
        by_file = logbale_run("top", "--once", f"127.0.0.1:{port}", DASHBOARD_PASSWORD_FILE=str(file))
        assert by_file.returncode == 0, by_file.stderr
        by_flag = logbale_run("top", "--once", f"127.0.0.1:{port}", "--dashboard-password-file", file)
        assert by_flag.returncode == 0, by_flag.stderr
        by_url = logbale_run("top", "--once", f"http://me:sesam-open%2Fup@127.0.0.1:{port}")
        assert by_url.returncode == 0, by_url.stderr
        nonsense = logbale_run("top", "--once", "http://:sesam-open@a b/")
        assert nonsense.returncode == 78
        assert end.end() == 0
    said = [run.stdout + run.stderr for run in (none, wrong, by_file, by_url, nonsense)]
    assert not [text for text in (*said, end.messages.read_text()) if "sesam" in text]


def test_a_password_inside_tls_is_no_secret_told_to_all(tmp_path):
    """Off loopback the page speaks HTTPS where there is a certificate: nothing is warned of, and viewers get in."""
    files = Certificates(tmp_path / "tls")
    pair = files.receiver()
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text("sesam-open-up\n")
    options = ["receive", "--listen", "127.0.0.1:0", "--archive", tmp_path / "archive", "--dashboard"]
    options += ["--dashboard-host", "0.0.0.0", "--dashboard-port", "0", "--dashboard-password-file", file]
    options += ["--tls-cert-file", pair["tls_cert_file"], "--tls-key-file", pair["tls_key_file"]]
    with running(tmp_path, *options) as end:
        port = end.says(r"dashboard on https://0\.0\.0\.0:(\d+)/")[1]
        ask = ["top", "--once", f"https://localhost:{port}", "--tls-ca-file", files.trust()["tls_ca_file"]]
        assert "answers 401" in logbale_run(*ask).stderr
        shown = logbale_run(*ask, "--dashboard-password-file", file)
        assert shown.returncode == 0, shown.stderr
        assert end.end() == 0
    assert "plain HTTP" not in end.messages.read_text()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"server_host": "0.0.0.0"}, True),
        ({"server_host": "192.0.2.7"}, True),
        ({"server_host": "::"}, True),
        ({"server_host": "127.0.0.1"}, False),
        ({"server_host": "::1"}, False),
        ({"server_host": "0.0.0.0", "tls_cert_file": "c"}, False),
    ],
)
def test_a_receiver_that_is_open_to_all_says_so_once(caplog, settings, says):
    """It does not look safe, so it starts; one warning names the ways out."""
    warn_of_open_receiver(Settings(**settings))
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == says
    assert all(
        "TLS_CERT_FILE and TOKENS_FILE or TLS_CLIENT_CA_FILE, or SERVER_HOST=127.0.0.1" in line for line in found
    )
