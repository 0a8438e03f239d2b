from itertools import islice

from pig_monai.training.batches import ShuffledBatches


def test_every_epoch_shows_every_item_once_and_batches_are_full():
    batches = list(islice(ShuffledBatches(10, 4, seed=1), 5))  # two epochs of ten in five batches of four
    assert all(len(batch) == 4 for batch in batches)
    stream = [item for batch in batches for item in batch]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert len(ShuffledBatches(10, 4)) == 3


def test_a_batch_larger_than_the_data_is_filled_from_the_next_epochs():
    (batch,) = islice(ShuffledBatches(3, 8, seed=0), 1)
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


def test_seeking_finds_the_batch_that_walking_finds():
    walked = list(islice(ShuffledBatches(7, 3, seed=5), 40))
    for iteration in (0, 1, 6, 7, 39):
        stream = ShuffledBatches(7, 3, seed=5)
        stream.iteration = iteration
        assert next(iter(stream)) == walked[iteration]
    assert next(iter(ShuffledBatches(7, 3, seed=6))) != walked[0]
