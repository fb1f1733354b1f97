import pytest

from tests.processes import run
from ztsnr.config.combinations import first_combination
from ztsnr.core.errors import ConfigError


def test_lists_of_options_become_combinations():
    words = first_combination(["schedule=a,b", "seed=1", "loss=c,d"])
    assert words[:3] == ["schedule=a", "seed=1", "loss=c"]
    assert words[3] == 'swept=["schedule=a","loss=c"]'
    assert words[4] == 'others=[["schedule=a","loss=d"],["schedule=b","loss=c"],["schedule=b","loss=d"]]'


def test_overrides_without_lists_are_unchanged():
    words = ["schedule=a", "weighting.gamma=3"]
    assert first_combination(words) == words


def test_ranges_and_choices_are_lists():
    assert "weighting.gamma=1" in first_combination(["weighting.gamma=range(1,3)"])
    assert first_combination(["seed=choice(4,5)"])[0] == "seed=4"


def test_more_than_24_combinations_are_refused():
    with pytest.raises(ConfigError, match="at most 24"):
        first_combination(["seed=range(0,25)"])


@pytest.mark.slow
def test_one_combination_prints_its_summary_and_writes_a_figure(tmp_path):
    result = run(tmp_path, "preview", "schedule=ztsnr", "loss=novelai_v3")
    assert "above 14.6" in result.stdout
    assert "Starved" in result.stdout
    assert (tmp_path / "objective.png").stat().st_size > 10_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["objective.png"]


@pytest.mark.slow
@pytest.mark.parametrize("position", [0, 1, 3])
def test_several_combinations_are_compared_even_where_one_is_refused(tmp_path, position):
    words = ["schedule=ztsnr,laplace", "loss=eps,vpred", "output=all (2).svg"]
    result = run(tmp_path, "preview", *words[:position], "-m", *words[position:])
    assert "schedule=laplace loss=eps" in result.stdout
    assert "refused" in result.stdout
    assert (tmp_path / "all (2).svg").exists()
