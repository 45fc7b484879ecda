"""Each criterion says its formula and its source where users read them."""

import re

import pytest

from pai_bench.support.registry import CRITERIA, SCHEDULES, Plugin


@pytest.mark.parametrize("plugin", CRITERIA.plugins(), ids=lambda plugin: plugin.name)
def test_a_criterions_docstring_has_its_formula_and_its_source(plugin: Plugin) -> None:
    first, _, rest = (plugin.target.__doc__ or "").partition("\n")
    assert first.startswith("score = "), first
    assert first.endswith(".")
    papers = re.findall(r"arXiv:\d{4}\.\d{5}", plugin.source)
    assert papers or plugin.source == "baseline"
    assert all(paper in rest for paper in papers)


@pytest.mark.parametrize("plugin", SCHEDULES.plugins(), ids=lambda plugin: plugin.name)
def test_a_schedules_docstring_has_its_formula_and_its_source(plugin: Plugin) -> None:
    docstring = plugin.target.__doc__ or ""
    assert "``" in docstring.partition("\n")[0]
    assert all(paper in docstring for paper in re.findall(r"arXiv:\d{4}\.\d{5}", plugin.source))
