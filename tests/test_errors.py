import errno
import os

import pytest

from pig_monai.errors import PigError, disk_full, find_user_error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_the_users_error(number):
    line = "no space left in runs/a; free some and run the same command again: it continues"
    cause = OSError(number, os.strerror(number), "runs/a/model.pt")
    assert str(find_user_error(cause)) == line
    try:
        try:
            raise cause
        except OSError as inner:
            raise RuntimeError("MONAI's own words") from inner
    except RuntimeError as outer:
        assert str(find_user_error(outer)) == line
    assert str(disk_full(OSError(number, "no file named"))).startswith("no space left on the disk; ")


def test_any_other_failed_write_is_not_a_full_disk():
    for number in (errno.EACCES, errno.EIO, errno.ENOENT):
        assert find_user_error(OSError(number, os.strerror(number), "a")) is None


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    from monai.utils import optional_import

    package, _ = optional_import("no_such_package.inner")
    with pytest.raises(Exception, match="no_such_package") as caught:
        package.anything()
    assert str(find_user_error(caught.value)) == "no_such_package is not installed; pip install no_such_package"


def test_an_error_that_a_worker_sent_as_text_is_found():
    from torch.utils.data import DataLoader, Dataset

    class Broken(Dataset):
        def __getitem__(self, index):
            try:
                raise PigError("a; b is c", "do d")
            except PigError as cause:
                raise RuntimeError("applying transform") from cause

        def __len__(self):
            return 1

    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(Broken(), num_workers=1))
    assert caught.value.__cause__ is None  # the worker's exception itself does not arrive …
    assert str(find_user_error(caught.value)) == "a; b is c; do d"  # … its words do
    assert find_user_error(RuntimeError("PigError: some words; in a bug's own message")) is None
