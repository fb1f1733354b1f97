import pytest

from tests.processes import run
from ztsnr.preview import one_of_many


@pytest.mark.parametrize("flag", [[], ["-m"], ["--multirun"]])
def test_lists_of_options_become_combinations(flag):
    words = one_of_many([*flag, "schedule=a,b", "seed=1", "loss=c,d"])
    assert words[:3] == ["schedule=a", "seed=1", "loss=c"]
    assert words[3] == 'swept=["schedule=a","loss=c"]'
    assert words[4] == 'others=[["schedule=a","loss=d"],["schedule=b","loss=c"],["schedule=b","loss=d"]]'


def test_what_is_no_list_stays_and_ranges_and_choices_are_lists_of_which_24_can_be_shown():
    words = ["--config-dir", "mine", "schedule=a", "weighting.gamma=3"]
    assert one_of_many(words) == words
    assert "weighting.gamma=1" in one_of_many(["weighting.gamma=range(1,3)"])
    assert one_of_many(["seed=choice(4,5)"])[0] == "seed=4"
    with pytest.raises(SystemExit, match="at most 24"):
        one_of_many(["seed=range(0,25)"])


@pytest.mark.slow
def test_one_combination_is_told_and_drawn(tmp_path):
    done = run(tmp_path, "preview", "schedule=ztsnr", "loss=novelai_v3")
    assert "above 14.6" in done.stdout
    assert "Starved" in done.stdout
    assert (tmp_path / "objective.png").stat().st_size > 10_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["objective.png"]


@pytest.mark.slow
def test_several_combinations_stand_side_by_side_even_where_one_is_refused(tmp_path):
    done = run(tmp_path, "preview", "-m", "schedule=ztsnr,laplace", "loss=eps,vpred", "output=all.svg")
    assert "schedule=laplace loss=eps" in done.stdout
    assert "refused" in done.stdout
    assert (tmp_path / "all.svg").exists()
