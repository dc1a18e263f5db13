"""Settings: where a value may come from, which one wins, and what a wrong one is told."""

import difflib
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.config import SETTINGS, Settings, connect_host, format_address, load, sink_names, split_address
from logbale.config.docs import env_example, settings_page
from logbale.config.load import _LIKENESS, _NAMES, CONFIG_VARIABLE, _may_be_like, mistyped
from logbale.errors import ConfigError

ROOT = Path(__file__).parent.parent


def settings(environ=None, flags=None, file=None, **more):
    return load(flags or {}, environ or {}, file, **more).settings


def refusal(environ=None, flags=None, file=None):
    """The lines that say what is wrong."""
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ or {}, file)
    assert caught.value.exit_code == 78
    return str(caught.value).splitlines()


@pytest.fixture
def toml(tmp_path):
    """Writes a settings file; returns its path."""

    def write(text):
        path = tmp_path / "logbale.toml"
        path.write_text(text)
        return path

    return write


# Names and defaults


def test_the_names_and_defaults_are_those_that_were_agreed():
    """They are the contract with everybody's environment files."""
    promised = {
        "SERVER_HOST": "0.0.0.0",
        "SERVER_PORT": 5000,
        "BATCH_SIZE": 50,
        "BATCH_INTERVAL": 5.0,
        "COMPRESSION_ALGORITHM": "gzip",
        "COMPRESSION_LEVEL": 6,
        "COMPRESSION_ENABLED": True,
        "LOG_RATE": 100,
        "RUN_TIME": 30,
        "BYPASS_THRESHOLD": 256,
        "ADAPTIVE_ENABLED": False,
        "ADAPTIVE_POLICY": "balanced",
        "ADAPTIVE_MIN_LEVEL": 1,
        "ADAPTIVE_MAX_LEVEL": 9,
        "ADAPTIVE_CHECK_INTERVAL": 5.0,
        "BATCH_MAX_BYTES": 1048576,
        "DRAIN_TIMEOUT": 10.0,
        "ARCHIVE_DIR": "archive",
        "ARCHIVE_SEGMENT_BYTES": 64 * 1024 * 1024,
        "ARCHIVE_SEGMENT_SECONDS": 3600,
        "SINK": "archive",
        "DASHBOARD_ENABLED": False,
        "DASHBOARD_HOST": "127.0.0.1",
        "DASHBOARD_PORT": 8080,
        "METRICS_PORT": 0,
    }
    loaded = load({}, {"SESSION_MODE": "off"})
    assert {name: getattr(loaded.settings, name.lower()) for name in promised} == promised
    assert loaded.origins.pop("session_mode") == "the environment"
    assert set(loaded.origins.values()) == {"the default"}
    assert loaded.origins.keys() | {"session_mode"} == SETTINGS.keys()
    assert loaded.given == {"session_mode"}


def test_settings_are_frozen():
    """Loaded once, the same for everybody."""
    with pytest.raises(AttributeError, match="immutable"):
        Settings().batch_size = 1


def test_every_setting_has_a_flag_and_a_description():
    """Nothing can be set that is not documented and reachable."""
    for setting in SETTINGS.values():
        assert setting.commands or setting.is_secret
        assert all(flag.startswith("--") for flag in setting.flags)
        assert setting.description
        assert setting.allowed


# Which value wins


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(toml):
    """Four layers, and each value remembers its own."""
    file = toml("batch_size = 1\nlog_rate = 1\nserver_port = 1\n")
    loaded = load({"batch_size": "3"}, {"BATCH_SIZE": "2", "LOG_RATE": "2"}, file)
    assert (loaded.settings.batch_size, loaded.settings.log_rate, loaded.settings.server_port) == (3, 2, 1)
    names = ("batch_size", "log_rate", "server_port", "run_time")
    assert [loaded.origins[name] for name in names] == ["--batch-size", "the environment", str(file), "the default"]


def test_an_empty_variable_counts_as_unset():
    """Compose files pass variables on that have no value."""
    assert settings({"BATCH_SIZE": "", "SINK": "", CONFIG_VARIABLE: ""}) == settings({})


def test_a_flag_of_none_was_not_given():
    """The command line passes all of them."""
    assert settings({"BATCH_SIZE": "2"}, dict.fromkeys(SETTINGS)).batch_size == 2


def test_a_variable_names_the_file_where_no_flag_does(toml):
    """LOGBALE_CONFIG, and --config beats it."""
    file = toml("batch_size = 7\n")
    assert settings({CONFIG_VARIABLE: str(file)}).batch_size == 7
    assert settings({CONFIG_VARIABLE: "/nowhere.toml"}, file=file).batch_size == 7


def test_an_entry_point_has_defaults_of_its_own():
    """They are the weakest layer, and say that they are defaults."""
    loaded = load({}, {}, defaults={"sink": "archive,console"})
    assert (loaded.settings.sink, loaded.origins["sink"]) == ("archive,console", "the default")
    assert settings({"SINK": "null"}, defaults={"sink": "archive,console"}).sink == "null"


def test_a_session_compresses_with_zstd_unless_it_is_told_otherwise(toml):
    """A flag, a variable or the file decides, gzip too; where none does, a session takes zstd, and its origin says why.
    The base protocol keeps gzip.
    """
    loaded = load({}, {})
    assert loaded.settings.compression_algorithm == "zstd"
    assert loaded.origins["compression_algorithm"].startswith("the default with SESSION_MODE=on: ")
    assert not loaded.given
    assert settings({"SESSION_MODE": "off"}).compression_algorithm == "gzip"
    assert settings({}, {"session_mode": "off"}).compression_algorithm == "gzip"
    for algorithm in ("gzip", "zlib", "none"):
        for told in (
            load({"compression_algorithm": algorithm}, {}),
            load({}, {"COMPRESSION_ALGORITHM": algorithm}),
            load({}, {}, toml(f'compression_algorithm = "{algorithm}"\n')),
            load({}, {}, defaults={"compression_algorithm": algorithm}),
        ):
            assert told.settings.compression_algorithm == algorithm
            assert "SESSION_MODE" not in told.origins["compression_algorithm"]


def test_a_derived_default_is_documented():
    """In the help, on the settings page and in .env.example."""
    assert SETTINGS["compression_algorithm"].default_words == "zstd; gzip without SESSION_MODE=on"
    assert "| zstd; gzip without SESSION_MODE=on |" in settings_page()
    assert "# Unset, it is zstd with SESSION_MODE=on.\n#COMPRESSION_ALGORITHM=gzip\n" in env_example()


SINKS_EXPECTED = (
    "archive, console, null, logbale://HOST:PORT or kafka://BROKER[:PORT],BROKER…/TOPIC, several with commas"
)
ONE_SINK = "one of archive, null, logbale://… and kafka://…: one sink decides what counts as stored"


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "Yes", "on", " on "])
def test_switches_are_on_in_many_words(text):
    """Nobody remembers which word which tool wants."""
    assert settings({"ADAPTIVE_ENABLED": text}).adaptive_enabled is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "OFF"])
def test_switches_are_off_in_many_words(text):
    """Nor here."""
    assert settings({"COMPRESSION_ENABLED": text}).compression_enabled is False


def test_the_file_has_types_and_may_use_strings(toml):
    """TOML's own numbers and booleans, or what the environment would say."""
    loaded = settings(file=toml('batch_interval = 2\nadaptive_enabled = true\nbatch_size = "9"\nsink = "null"\n'))
    assert (loaded.batch_interval, loaded.adaptive_enabled, loaded.batch_size, loaded.sink) == (2.0, True, 9, "null")


# Wrong values


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("COMPRESSION_LEVEL", "12", "1 to 9"),
        ("COMPRESSION_LEVEL", "0", "1 to 9"),
        ("COMPRESSION_LEVEL", "six", "a whole number in digits, 1 to 9"),
        ("COMPRESSION_LEVEL", "6.0", "a whole number in digits, 1 to 9"),
        ("COMPRESSION_ALGORITHM", "lz4", "gzip, none, zlib or zstd"),
        ("COMPRESSION_ENABLED", "maybe", "true or false"),
        ("SERVER_PORT", "65536", "0 to 65535"),
        ("SERVER_PORT", "-1", "0 to 65535"),
        ("BATCH_SIZE", "1_000", "a whole number in digits, 1 to 1000000000"),
        ("BATCH_SIZE", "1e3", "a whole number in digits, 1 to 1000000000"),
        ("BATCH_SIZE", "٣", "a whole number in digits, 1 to 1000000000"),
        ("BATCH_INTERVAL", "0", "over 0"),
        ("BATCH_INTERVAL", "1_0", "a number, over 0"),
        ("BATCH_INTERVAL", "nan", "a number, over 0"),
        ("BATCH_INTERVAL", "inf", "a number, over 0"),
        ("BATCH_INTERVAL", "1e999", "over 0"),
        ("DRAIN_TIMEOUT", "-0.5", "0 or more"),
        ("LOG_RATE", "2000000", "over 0, at most 1000000"),
        ("SERVER_HOST", "10.0.0.1:5000", "a host name or an IP address, without a port"),
        ("SERVER_HOST", "two words", "a host name or an IP address, without a port"),
        ("SERVER_HOST", "two..dots", "a host name or an IP address, without a port"),
        ("SERVER_HOST", "x" * 64, "a host name or an IP address, without a port"),
        (
            "SINK",
            "kafka",
            "archive, console, null, logbale://HOST:PORT or kafka://BROKER[:PORT],BROKER…/TOPIC, several with commas",
        ),
        (
            "SINK",
            "archive,",
            "archive, console, null, logbale://HOST:PORT or kafka://BROKER[:PORT],BROKER…/TOPIC, several with commas",
        ),
        ("SINK", "logbale://", "logbale://HOST:PORT, an IPv6 address in brackets"),
        ("SINK", "logbale://host:port", "logbale://HOST:PORT, an IPv6 address in brackets"),
        ("SINK", "logbale://ho st:5000", "a host name or an IP address, without a port"),
        ("SINK", "console,console", "each sink once"),
        (
            "SINK",
            "archive,null",
            ONE_SINK,
        ),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(variable, value, expected):
    """It names the variable, the value, what was expected, and where it came from."""
    assert refusal({variable: value}) == [f"{variable}={value!r}: expected {expected} (from the environment)"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("batch_size = true", "BATCH_SIZE=True: expected 1 to 1000000000"),
        ("batch_size = 5.0", "BATCH_SIZE=5.0: expected 1 to 1000000000"),
        ("log_rate = inf", "LOG_RATE=inf: expected over 0, at most 1000000"),
        ("run_time = nan", "RUN_TIME=nan: expected 0 or more"),
        ("adaptive_enabled = 1", "ADAPTIVE_ENABLED=1: expected true or false"),
        (
            'sink = ["null"]',
            "SINK=['null']: expected archive, console, null, logbale://HOST:PORT, kafka://BROKER[:PORT],BROKER…/TOPIC",
        ),
        ('archive_dir = ""', "ARCHIVE_DIR='': expected the path of a directory"),
        ('archive_dir = "a\\u0000"', r"ARCHIVE_DIR='a\x00': expected the path of a directory"),
        ("batchsize = 5", "'batchsize': there is no such setting; did you mean batch_size?"),
        ("BATCH_SIZE = 5", "'BATCH_SIZE': there is no such setting; did you mean batch_size?"),
        ("[receiver]\nsink = 'null'", "'receiver': there is no such setting; settings stand outside of [tables]"),
        ("zzz = 5", "'zzz': there is no such setting; `logbale config show` lists them, in capitals"),
    ],
)
def test_a_wrong_line_of_the_file_is_refused(toml, text, line):
    """Like a variable, and a name that is no setting is not passed over."""
    file = toml(text)
    assert refusal(file=file) == [f"{line} (from {file})"]


def test_a_wrong_line_of_the_file_is_refused_though_something_stands_in_for_it(toml):
    """Whoever checks the file learns of it, and not on the day when the variable goes."""
    file = toml('batch_size = "x"\nlog_rate = 5\n')
    line = f"BATCH_SIZE='x': expected a whole number in digits, 1 to 1000000000 (from {file})"
    assert refusal({"BATCH_SIZE": "5"}, file=file) == [line]
    assert refusal(flags={"batch_size": "5"}, file=file) == [line]


def test_a_flag_is_named_as_it_was_typed():
    """The short form where there is one."""
    assert refusal(flags={"compression_level": "12"}) == ["COMPRESSION_LEVEL='12': expected 1 to 9 (from --level)"]


def test_everything_that_is_wrong_is_said_at_once(toml):
    """Nobody wants to start ten times."""
    lines = refusal({"BATCH_SIZE": "0", "SINK": "x"}, {"compression_level": "0"}, toml("nope = 1\n"))
    assert [re.split("[=:]", line)[0] for line in lines] == ["'nope'", "BATCH_SIZE", "COMPRESSION_LEVEL", "SINK"]


def test_the_lowest_level_may_not_be_above_the_highest(toml):
    """Wherever the two came from."""
    file = toml("adaptive_max_level = 3\n")
    assert refusal({"ADAPTIVE_MIN_LEVEL": "7"}, file=file) == [
        "ADAPTIVE_MIN_LEVEL=7: expected at most ADAPTIVE_MAX_LEVEL=3"
        f" (from the environment; ADAPTIVE_MAX_LEVEL from {file})"
    ]
    assert settings({"ADAPTIVE_MIN_LEVEL": "3"}, file=file).adaptive_min_level == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot read the settings"), (b"a =", "not a TOML file"), (b"a = '\xff'", "not a TOML file")],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content, reason):
    """Going on with defaults would be a surprise."""
    file = tmp_path / "logbale.toml"
    if content is not None:
        file.write_bytes(content)
    [line] = refusal(file=file)
    assert line.startswith(f"{file}: {reason}")


@given(st.sampled_from(sorted(SETTINGS)), st.text(min_size=1))
def test_any_text_is_taken_or_refused_in_one_printable_line(name, text):
    """No value gets an answer that is longer than a line, or no answer."""
    try:
        settings({SETTINGS[name].variable: text})
    except ConfigError as error:
        line = str(error)
    else:
        return
    assert line.startswith(f"{SETTINGS[name].variable}=")
    assert line.isprintable()
    assert len(line) < 300


# Mistyped variables

OTHERS = re.findall(
    r"\w+",
    """
PATH HOME LANG LC_ALL TERM SHELL USER PWD OLDPWD HOSTNAME TZ TMPDIR DISPLAY LS_COLORS COLORTERM TERM_PROGRAM_VERSION
XDG_RUNTIME_DIR XDG_SESSION_ID XDG_STATE_HOME DBUS_SESSION_BUS_ADDRESS SESSION_MANAGER DESKTOP_SESSION SSH_CONNECTION
VIRTUAL_ENV PYTHON_VERSION PYTHONPATH LD_LIBRARY_PATH NO_COLOR HTTP_PROXY https_proxy NO_PROXY DEBIAN_FRONTEND
GITHUB_RUN_ID GITHUB_SERVER_URL CI_SERVER_HOST CI_SERVER_PORT CI_SERVER_NAME CI_SERVER_URL KUBERNETES_SERVICE_HOST
KUBERNETES_SERVICE_PORT KUBERNETES_PORT_443_TCP SERVICE_HOST SERVICE_PORT SERVER_NAME SERVER_ADDR SERVER_URL
SERVER_SOFTWARE SERVER_PROTOCOL WEB_SERVER_PORT SSH_SERVER_PORT DB_HOST DB_PORT REDIS_HOST REDIS_PORT POSTGRES_HOST
LOG_LEVEL LOG_FORMAT LOG_FILE LOG_PATH LOG_DIR LOG_DATE LOG_NAME RUN_ENV RUN_MODE RUN_ID RUN_TIMEOUT RUNTIME_DIRECTORY
SINK_URL SINK_TYPE BATCH_ID BATCH_NAME BATCH_TIMEOUT BATCH_SIZE_BYTES MAX_WORKERS MAX_RETRIES MAX_BODY_BYTES
DASHBOARD_URL DASHBOARD_USER METRICS_PATH METRICS_HOST METRICS_ADDR PROMETHEUS_PORT PROMETHEUS_MULTIPROC_DIR
ARCHIVE_URL ARCHIVE_BUCKET STATE_DIRECTORY CACHE_DIRECTORY LOGS_DIRECTORY CONFIGURATION_DIRECTORY INVOCATION_ID
JOURNAL_STREAM NOTIFY_SOCKET LISTEN_PID LISTEN_FDS SYSTEMD_EXEC_PID AWS_REGION AWS_BATCH_JOB_ID AWS_BATCH_CE_NAME
OTEL_SERVICE_NAME OTEL_EXPORTER_OTLP_ENDPOINT OTEL_BSP_MAX_EXPORT_BATCH_SIZE OTEL_BLRP_SCHEDULE_DELAY DOCKER_HOST
COMPOSE_PROJECT_NAME COMPOSE_FILE KAFKA_COMPRESSION_TYPE COMPRESSION_TYPE SLURM_JOB_ID WINDOW_ID PIP_NO_CACHE_DIR
MALLOC_ARENA_MAX OMP_NUM_THREADS PYTEST_CURRENT_TEST MAKE_TERMOUT SESSION_ID SESSION_KEY SESSION_NAME SEND_TIMEOUT_MS
""",
)


def test_a_variable_that_is_almost_ours_is_pointed_out(caplog):
    """One warning that names both, and no failure: it may be another program's."""
    assert settings({"COMPRESION_LEVEL": "3"}).compression_level == 6
    [line] = caplog.messages
    assert line == "the environment has COMPRESION_LEVEL, which is no setting; is COMPRESSION_LEVEL meant?"
    assert caplog.records[0].levelname == "WARNING"


@pytest.mark.parametrize(
    "name", ["BATCHSIZ_E", "BATCH_SZIE", "SERVER_PROT", "LOG_RAT", "ADAPTIVE_ENABLE", "METRIC_PORT", "LOGBALE_CONFG"]
)
def test_a_letter_too_many_missing_or_misplaced_is_noticed(name):
    """As people mistype."""
    assert [found for found, _ in mistyped({name: "1"})] == [name]


def test_the_variables_of_other_programs_are_left_alone():
    """A warning that is always there is read by nobody."""
    assert mistyped(dict.fromkeys(OTHERS, "x") | {setting.variable: "x" for setting in SETTINGS.values()}) == []
    assert mistyped(dict.fromkeys(OTHERS, "x")) == []


def test_what_looks_like_a_variable_that_is_set_is_somebody_elses():
    """Who sets both means both."""
    assert mistyped({"BATCH_SIZES": "1", "BATCH_SIZE": "1"}) == []


@given(st.sampled_from(sorted(_NAMES)), st.integers(0, 30), st.sampled_from(["", "X", "_", "SS"]), st.booleans())
def test_what_is_not_compared_is_not_like(name, place, letters, replaces):
    """Most names are ruled out by their letters alone; that rules out none that the comparison would find."""
    written = name[:place] + letters + name[place + replaces :]
    found = difflib.get_close_matches(written, _NAMES, n=1, cutoff=_LIKENESS)
    assert [bool(one) for one in found] == [_may_be_like(written, one) for one in found]


# Sinks and addresses


def test_sinks_keep_their_order_and_lose_their_spaces():
    """One durable sink, and views; console alone is a view too."""
    assert sink_names("archive, console") == ["archive", "console"]
    assert settings({"SINK": " console , null "}).sink == "console,null"
    assert settings({"SINK": "console"}).sink == "console"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("logs.example.org:5000", ("logs.example.org", "5000")),
        ("logs.example.org", ("logs.example.org", "")),
        (":5000", ("", "5000")),
        ("[::1]:5000", ("[::1]", "5000")),
        ("[::1]", ("[::1]", "")),
        ("::1", ("::1", "")),
        ("::", ("::", "")),
        ("fe80::1%eth0", ("fe80::1%eth0", "")),
        ("127.0.0.1:0", ("127.0.0.1", "0")),
        ("", ("", "")),
    ],
)
def test_an_address_is_cut_at_the_right_colon(text, parts):
    """IPv6 has colons of its own."""
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["127.0.0.1:", "logs.example.org:", "[::1]:", ":"])
def test_a_colon_without_a_port_is_no_default(text):
    """Where $PORT was empty, the default would be somebody else's."""
    with pytest.raises(ValueError, match="a port behind the colon"):
        split_address(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_is_read_as_it_is_written(address, port):
    """format_address, split_address and the settings agree, in both families."""
    host, port_text = split_address(format_address(str(address), port))
    loaded = settings(flags={"server_host": host, "server_port": port_text})
    assert (loaded.server_host, loaded.server_port) == (str(address), port)


def test_every_address_means_this_host_to_a_client():
    """What one listens on one cannot always connect to."""
    assert [connect_host(host) for host in ("0.0.0.0", "::", "10.1.2.3")] == ["127.0.0.1", "::1", "10.1.2.3"]


# What is made from the declarations


def test_the_example_file_is_up_to_date():
    """`python -m logbale.config` writes it anew."""
    assert (ROOT / ".env.example").read_text() == env_example()


def test_the_page_of_settings_is_up_to_date():
    """`python -m logbale.config` writes it anew."""
    assert (ROOT / "docs/settings.md").read_text() == settings_page()


def test_the_example_file_sets_what_is_the_default_anyway():
    """Every setting is in it, and taking the # away changes nothing but a default that another setting made, which the
    line above it says.
    """
    environ = dict(re.findall(r"^#([A-Z_]+)=(.*)$", env_example(), re.MULTILINE))
    assert environ.keys() == {setting.variable for setting in SETTINGS.values()}
    loaded = load({}, environ)
    assert msgspec.structs.asdict(loaded.settings) == msgspec.structs.asdict(Settings())
    changed = {
        name
        for name, value in msgspec.structs.asdict(load({}, {}).settings).items()
        if value != getattr(Settings(), name)
    }
    assert changed == {name for name, setting in SETTINGS.items() if setting.derived} == {"compression_algorithm"}
