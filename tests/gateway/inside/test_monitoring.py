"""The dashboard and the alerts speak of metrics that are there, and are what Grafana takes."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.gateway.harness import Gateway, call_of
from tests.gateway.inside.scrape import Scrape, scrape
from tests.llm.scripted import ScriptedModel

MONITORING = Path(__file__).parents[3] / "gateway" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
NAME = re.compile(r"\b(?:midm_gateway|process)_\w+")
SELECTOR = re.compile(r"\b((?:midm_gateway|process)_\w+)\{([^}]*)\}")
LABEL = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
GROUPING = re.compile(r"\bby \(([^)]*)\)")
COLUMNS = 24
OF_PROMETHEUS = {"instance", "job"}
"""Labels that are added by whoever scrapes."""


def expressions() -> list[str]:
    shown = [target["expr"] for panel in SHOWN for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in RULES)]


@pytest.fixture
async def told(gateway: Gateway, model: ScriptedModel) -> Scrape:
    """A scrape of a gateway that has done something."""
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "hi", "one")
        await tab.chat("fail")
        await (await call_of(model)).error("no")
        await tab.ends(2)
        await tab.refused(type="cancel")
    await gateway.http.get("/")
    return await scrape(gateway)


async def test_every_metric_that_is_spoken_of_is_there(told: Scrape) -> None:
    named = {name for text in expressions() for name in NAME.findall(text)}
    assert len(named) > 25
    assert sorted(named - told.samples.keys()) == []


async def test_every_label_and_value_that_is_spoken_of_is_there(told: Scrape) -> None:
    for text in expressions():
        known = set(OF_PROMETHEUS)
        for name in NAME.findall(text):
            known |= {label for labels in told.samples[name] for label, _ in labels}
        for grouped in GROUPING.findall(text):
            assert {label.strip() for label in grouped.split(",")} <= known, text
        for name, selector in SELECTOR.findall(text):
            for label, _, said in LABEL.findall(selector):
                if label in OF_PROMETHEUS:
                    continue
                values = {dict(labels)[label] for labels in told.samples[name]}
                assert set(said.split("|")) <= values, (name, label)


def test_every_metric_of_ours_is_on_the_dashboard_but_who_it_is() -> None:
    readme = (MONITORING / "README.md").read_text()
    documented = set(re.findall(r"^\| `(midm_gateway_\w+)` \|", readme, re.MULTILINE))
    text = json.dumps(DASHBOARD)
    assert documented
    assert {name for name in documented if name not in text} == set()


def test_counters_are_read_as_rates_and_quantiles_by_their_bounds() -> None:
    for text in expressions():
        for found in re.finditer(r"\w+_(?:total|bucket|sum|count)\b", text):
            assert re.search(r"(?:rate|increase)\($", text[: found.start()]), text
        if "histogram_quantile" in text:
            assert re.search(r"sum by \(le\b", text), text


def test_the_dashboard_can_be_found_by_others_and_is_nobody_elses() -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["id"] is None
    assert DASHBOARD["schemaVersion"] >= 36


def test_panels_have_numbers_and_names_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    titles = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert len(set(titles)) == len(titles)
    assert {panel["type"] for panel in PANELS} == {"row", "stat", "timeseries"}


def test_panels_lie_beside_each_other_and_not_upon() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    for at in places:
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= COLUMNS
        assert at["w"] > 0
        assert at["h"] > 0
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_every_panel_asks_the_source_that_is_chosen_and_the_nodes_that_are() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["instance"]["datasource"] == chosen
    for panel in SHOWN:
        assert panel["datasource"] == chosen
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        for target in panel["targets"]:
            assert target["datasource"] == chosen
            text = target["expr"]
            assert text.count('instance=~"$instance"') == len(NAME.findall(text)), text


def test_every_alert_says_what_is_wrong_and_where() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["summary"].endswith(".")
