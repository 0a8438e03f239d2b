import pickle

import numpy as np
import pytest
import torch

from pig_monai.checkpoint import REQUIRED_META, check_pair, load_weights, save_weights
from pig_monai.errors import PigError
from pig_monai.training.meta import mask_statistics, median_spacing


class Mischief:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a checkpoint was run')",))


def test_a_checkpoint_cannot_run_code(tmp_path):
    with pytest.raises(SystemExit):
        pickle.loads(pickle.dumps(Mischief()))  # it would, if it were unpickled without care
    torch.save({"model": {}, "meta": {"role": "guider", "x": Mischief()}}, tmp_path / "model_guider.pt")
    with pytest.raises(PigError, match=r"cannot be read as weights"):
        load_weights(tmp_path, "guider")


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_torn_and_foreign_files_are_named(tmp_path, content):
    path = tmp_path / "model_guider.pt"
    save_weights(path, {"w": torch.ones(1000)}, {"role": "guider"})
    path.write_bytes(path.read_bytes()[:600] if content is None else content)
    with pytest.raises(PigError, match=str(path)):
        load_weights(path, "guider")


def test_a_training_state_is_not_taken_for_weights(tmp_path):
    torch.save({"network": {}, "iteration": 3}, tmp_path / "state_00000003.pt")
    with pytest.raises(PigError, match="does not describe itself"):
        load_weights(tmp_path / "state_00000003.pt", "guider")


def meta(role: str, **more: object) -> dict:
    return {**dict.fromkeys(REQUIRED_META), "role": role, **more}


@pytest.mark.parametrize("key", ["network", "prediction", "fold"])
def test_a_meta_that_lacks_something_is_named(tmp_path, key):
    incomplete = {name: value for name, value in meta("guider").items() if name != key}
    save_weights(tmp_path / "a.pt", {}, incomplete)
    with pytest.raises(PigError, match=f"lacks {key}"):
        load_weights(tmp_path / "a.pt", "guider")


def test_equal_weights_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        save_weights(tmp_path / name / "model_guider.pt", {"w": torch.ones(5)}, meta("guider"))
    one, two = (tmp_path / name / "model_guider.pt" for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()


def test_roles_are_not_exchanged(tmp_path):
    save_weights(tmp_path / "a.pt", {"w": torch.ones(1)}, meta("generator"))
    with pytest.raises(PigError, match="guider_ckpt .* holds a generator"):
        load_weights(tmp_path / "a.pt", "guider")


def test_weights_come_back_as_they_were(tmp_path):
    state = {"w": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last)}
    save_weights(tmp_path / "model_guider.pt", state, meta("guider", spacing=[0.1, 0.2]))
    found, described = load_weights(tmp_path, "guider")  # a run folder is as good as the file
    assert torch.equal(found["w"], state["w"])
    assert described["spacing"] == [0.1, 0.2]


def test_a_pair_must_fit():
    one = {"schedule": {"T": 1}, "image_size": 64, "preprocessing": {}, "fold": 0, "data": "a", "prediction": "v"}
    check_pair(one, {**one, "prediction": "epsilon"})  # each converts its own prediction
    with pytest.raises(PigError, match="image_size is 64 and the generator's is 32"):
        check_pair(one, {**one, "image_size": 32})


def test_mask_statistics_count_what_was_drawn():
    one, two = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    one[2:4, 2:4] = True  # 4 % in one piece
    two[0, 0] = two[1, 1] = two[5, 5] = True  # 3 %; (0, 0) and (1, 1) touch at a corner: two pieces
    found = mask_statistics([one, two])
    assert found["count"] == 2
    assert (found["area"]["0.0"], found["area"]["0.5"], found["area"]["1.0"]) == pytest.approx((0.03, 0.035, 0.04))
    assert (found["components"]["0.0"], found["components"]["1.0"]) == (1, 2)


def test_median_spacing_grows_as_slices_shrink():
    entries = [{"spacing": [0.1, 0.2]}, {"spacing": None}, {"spacing": [0.3, 0.4]}, {"spacing": [0.2, 0.3]}]
    assert median_spacing(entries, stored_size=512, image_size=128) == pytest.approx([0.8, 1.2])
    assert median_spacing([{"spacing": None}], 512, 128) is None
