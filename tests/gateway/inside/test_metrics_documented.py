"""The table of metrics in the README beside the dashboard is what a gateway tells."""

import re
from pathlib import Path

from tests.gateway.harness import Gateway
from tests.gateway.inside.scrape import PREFIX, scrape

README = Path(__file__).parents[3] / "gateway" / "monitoring" / "README.md"
ROW = re.compile(r"^\| `(midm_gateway_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)


async def test_the_table_of_metrics_is_what_a_gateway_tells(gateway: Gateway) -> None:
    await gateway.http.get("/")
    told = await scrape(gateway)
    rows = []
    for name, kind in told.kinds.items():
        if not name.startswith(PREFIX):
            continue
        shown = f"{name}_total" if kind == "counter" else name
        samples = told.samples.get(shown) or told.samples[f"{name}_count"]
        labels = ", ".join(f"`{label}`" for label, _ in next(iter(samples)))
        rows.append((shown, kind, labels, told.helps[name]))
    documented = [match.groups() for match in ROW.finditer(README.read_text())]
    assert [tuple(cell.strip() for cell in row) for row in documented] == rows
