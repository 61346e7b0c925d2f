"""The pages on models and on scaling say what the plan says today, and every setting of the three configurations."""

from pathlib import Path

import yaml

from benchmarks import scaling
from benchmarks.plans import MODELS, PAGE, ROOT, make_plans, write_page


def test_the_page_is_as_it_would_be_written_now():
    page = PAGE.read_text()
    now = write_page(page, make_plans())
    assert page == now, "run python -m benchmarks.plans"


def test_the_page_on_scaling_is_as_it_would_be_written_now():
    page = scaling.PAGE.read_text()
    assert page == scaling.write_page(page), "run python -m benchmarks.scaling"


def test_every_number_of_the_configurations_is_explained():
    rows = [line.split("|")[1:4] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    explained = {name.strip(" `") for row in rows for name in row[0].replace("(default)", "").split(",")}
    for config in MODELS:
        settings = yaml.safe_load(Path(ROOT / "configs" / f"{config}.yaml").read_text())
        numbers = {key for key, value in _leaves(settings) if isinstance(value, (int, float))}
        assert numbers - {"save_on_train_epoch_end", "auto_insert_metric_name", "weights_only"} <= explained, config


def _leaves(value, key=""):
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each, key)
    else:
        yield key, value
