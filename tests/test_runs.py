import json

import pytest

from pig_monai.errors import PigError
from pig_monai.runs import check_run, open_run

OWNED = ["checkpoints", "model.pt"]


def a_run(folder, workflow="guider", **settings):
    open_run(folder, workflow, settings, OWNED)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/state_00000001.pt").write_text("a state")
    (folder / "notes.txt").write_text("the user's own")
    return folder


def test_the_same_run_continues(tmp_path):
    folder = a_run(tmp_path, seed=0, channels=(1, 2))
    open_run(folder, "guider", {"channels": [1, 2], "seed": 0}, OWNED)
    assert (folder / "checkpoints/state_00000001.pt").read_text() == "a state"
    with pytest.raises(PigError, match="holds a run; give --resume"):
        check_run(folder, "guider", {"seed": 0, "channels": [1, 2]}, OWNED, resume="False")


@pytest.mark.parametrize("settings", [{"seed": 1}, {}, {"seed": 0, "new": 3}])
def test_any_difference_is_refused_with_its_name(tmp_path, settings):
    with pytest.raises(PigError, match=r"seed = 0, not|new = None, not 3"):
        check_run(a_run(tmp_path, seed=0), "guider", settings, OWNED)


def test_overwriting_removes_a_runs_own_files_only(tmp_path):
    folder = a_run(tmp_path, seed=0)
    open_run(folder, "guider", {"seed": 1}, OWNED, overwrite="true")
    assert not (folder / "checkpoints").exists()
    assert (folder / "notes.txt").read_text() == "the user's own"
    assert json.loads((folder / "run.json").read_text()) == {"workflow": "guider", "settings": {"seed": 1}}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_of_this_workflow_is_never_touched(tmp_path, overwrite):
    generator = a_run(tmp_path / "generator", workflow="generator")
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "datalist.json").write_text("{}")
    for folder, owned in ((generator, OWNED), (dataset, ["datalist.json"])):
        with pytest.raises(PigError, match="but no guider run"):
            open_run(folder, "guider", {}, owned, overwrite=overwrite)
        assert (folder / owned[0]).exists()


def test_a_start_that_failed_before_it_wrote_anything_blocks_nothing(tmp_path):
    open_run(tmp_path, "guider", {"fold": 7}, OWNED)
    open_run(tmp_path, "guider", {"fold": 0}, OWNED)
    assert json.loads((tmp_path / "run.json").read_text())["settings"] == {"fold": 0}
