"""What lies in deploy/ promises: rules that Prometheus takes and that fire, and no name that is not exported."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_metrics_port import OVERVIEW, RECEIVER, SHIPPER

from logbale.exposition import Exposition

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus-rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (in Debian's package prometheus)"
)


def promtool(*arguments, text=None):
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def pages():
    """/metrics of both ends."""
    yield Exposition(lambda: RECEIVER, lambda: OVERVIEW).text().decode()
    yield Exposition(lambda: SHIPPER).text().decode()


def questions():
    """Each query of the dashboard, with values for its variables."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(found) >= 20
    return [one.replace("$instance", ".*").replace("$__rate_interval", "1m") for one in found]


def test_every_name_that_is_used_is_exported():
    """A rule about a series that nobody has never fires, and nobody notices."""
    exported = set(re.findall(r"^(\w+)(?:\{| )", "".join(pages()), re.MULTILINE))
    used = set(re.findall(r"\blogbale_\w+", RULES.read_text() + DASHBOARD.read_text()))
    assert len(used) > 20
    assert used - {"logbale_build_info"} <= exported | {"logbale_build_info"}
    assert used <= exported, used - exported


@needs_promtool
def test_the_rules_are_rules():
    """promtool reads them, and their expressions."""
    promtool("check", "rules", RULES)


@needs_promtool
def test_the_rules_fire_when_they_should(tmp_path):
    """Each of them once, on made-up series: prometheus_rules_test.yml."""
    text = (ROOT / "tests" / "prometheus_rules_test.yml").read_text()
    assert set(re.findall(r"alert: (\w+)", RULES.read_text())) == set(re.findall(r"alertname: (\w+)", text))
    (tmp_path / "test.yml").write_text(text.replace("RULES", str(RULES)))
    promtool("test", "rules", tmp_path / "test.yml")


@needs_promtool
def test_the_dashboards_queries_are_queries(tmp_path):
    """As rules, which promtool can check."""
    rules = [{"record": f"query:{n}", "expr": expression} for n, expression in enumerate(questions())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")


@needs_promtool
@pytest.mark.parametrize("end", ["receiver", "shipper"])
def test_the_metrics_are_as_prometheus_wants_them(end):
    """Names, types, units and help texts: what promtool's lint looks at."""
    receiver, shipper = pages()
    promtool("check", "metrics", text=receiver if end == "receiver" else shipper)


def test_the_dashboard_is_one():
    """Its panels have ids and places of their own, and each asks the data source that is chosen."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels if panel["type"] != "row")
