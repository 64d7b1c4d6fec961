"""Reads metrics as Prometheus does."""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.harness import Gateway

PREFIX = "midm_gateway_"


@dataclass(frozen=True)
class Scrape:
    """One look at a gateway's metrics."""

    text: str
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]]
    kinds: dict[str, str]
    """By the name that a family is declared by."""
    helps: dict[str, str]

    def value(self, name: str, **labels: str) -> float:
        """Read one sample of ours; KeyError if there is none."""
        return self.samples[PREFIX + name][tuple(sorted(labels.items()))]

    def by(self, name: str, label: str) -> dict[str, float]:
        """Read what is not zero of a metric of ours, by one label."""
        found: dict[str, float] = {}
        for labels, value in self.samples[PREFIX + name].items():
            key = dict(labels)[label]
            found[key] = found.get(key, 0.0) + value
        return {key: value for key, value in found.items() if value}


async def scrape(gateway: Gateway, **headers: str) -> Scrape:
    """Ask a gateway for its metrics."""
    answer = await gateway.http.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return read(answer.text)


def read(text: str) -> Scrape:
    """Read what a scrape brought."""
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    kinds, helps = {}, {}
    for family in text_string_to_metric_families(text):
        kinds[family.name], helps[family.name] = family.type, family.documentation
        for sample in family.samples:
            of_name = samples.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in of_name, f"{sample.name} {labels} is there twice"
            of_name[labels] = sample.value
    return Scrape(text, samples, kinds, helps)
