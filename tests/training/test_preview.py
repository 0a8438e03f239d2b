import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pig_monai.diffusion.noise import PairNoise, Purpose
from pig_monai.diffusion.sampling import Denoiser, KnownImage, sample_pairs
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.diffusion.solvers import SOLVERS
from pig_monai.pictures import OUTLINE
from pig_monai.spaces import LatentSpace, PixelSpace
from pig_monai.training.events import TrainingEvents, listen, pictured
from pig_monai.training.optimisation import exponential_moving_average
from pig_monai.training.preview import Previews
from tests.autoencoder.known import autoencoder
from tests.diffusion.toy import rng
from tests.training.toy import run

SCHEDULE = NoiseSchedule()
SCALE = 12  # pixels of the picture for one of 16: tiles of 192
PITCH = 16 * SCALE + 4  # from one tile to the next


def noise(key, count=3):
    return torch.randn(count, 1, 8, 8, generator=rng(key))


@pytest.mark.parametrize("name", SOLVERS)
def test_two_known_images_are_reached_from_any_noise(name):
    solver, masks, slices = SOLVERS[name], noise(1).sign(), noise(2)
    draws = PairNoise(0, range(3), "cpu", Purpose.PREVIEW)
    found = sample_pairs(
        KnownImage(masks, SCHEDULE), KnownImage(slices, SCHEDULE), SCHEDULE, solver.timesteps(SCHEDULE, 25),
        solver.step, noise(3), noise(4), draws,
    )  # fmt: skip
    torch.testing.assert_close(found, (masks, slices), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
def test_beside_a_known_slice_the_guider_sees_that_slice_under_one_noise(name):
    """At every step y_t = α_t y₀ + σ_t ε, as in training; ε is fixed by the start y_T."""
    y0, y_T, seen = noise(2).double(), noise(4).double(), {}
    betas = 1e-4 + (0.02 - 1e-4) * np.arange(1024) / 1023
    alpha_bar = np.cumprod(1 - betas)
    known = KnownImage(noise(1).double(), SCHEDULE)

    def guider(noisy, condition, t):
        seen[t] = condition.numpy()
        return known(noisy, condition, t)

    grid, step = SOLVERS[name].timesteps(SCHEDULE, 25), SOLVERS[name].step
    sample_pairs(guider, KnownImage(y0, SCHEDULE), SCHEDULE, grid, step, noise(3).double(), y_T, lambda like: None)
    eps = (y_T.numpy() - np.sqrt(alpha_bar[1023]) * y0.numpy()) / np.sqrt(1 - alpha_bar[1023])
    assert list(seen) == [t for t, _ in grid]
    for t, y_t in seen.items():
        wanted = np.sqrt(alpha_bar[t]) * y0.numpy() + np.sqrt(1 - alpha_bar[t]) * eps
        np.testing.assert_allclose(y_t, wanted, rtol=0, atol=1e-9)


class Echo(nn.Module):
    """A network whose x̂₀ is what it is shown as its condition; predicts v."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))  # an average needs something to average

    def forward(self, noisy, timesteps, condition, spacing):
        alpha, sigma = SCHEDULE.scales(timesteps, noisy)
        return (alpha * noisy - condition) / sigma


def item(grey, bright_rows=slice(0), mask_rows=slice(0)):
    """A slice of one grey with bright rows, and a mask of rows somewhere else."""
    image, label = torch.full((1, 16, 16), grey), torch.zeros(1, 16, 16)
    image[:, 4:12, bright_rows] = 1.0
    label[:, 4:12, mask_rows] = 1.0
    return {"image": image, "label": label}


def previews(folder, role, heldout, training, guider=None, interval=2, network=None, space=None):
    ema = exponential_moving_average(network or Echo(), 0)
    space = space or PixelSpace()
    return Previews(folder, role, ema, SCHEDULE, "v", heldout, training, guider, space, False, "cpu", interval)


def tile(picture, column, row):
    """A tile of 16 × 16, each pixel the middle of a square of the picture."""
    pixels = np.asarray(picture)[row * PITCH :, column * PITCH :][: 16 * SCALE, : 16 * SCALE]
    return pixels[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]


def outlined_rows(picture, column, row):
    """The first and last row of the picture's tile that the outline encloses, in pixels of the slice."""
    pixels = np.asarray(picture)[row * PITCH :, column * PITCH :][: 16 * SCALE, : 16 * SCALE]
    (rows,) = np.nonzero((pixels == OUTLINE).all(-1).any(1))
    return ((rows.min() + 1) // SCALE, rows.max() // SCALE - 1) if len(rows) else None


def grey_of(value):
    return round((value + 1) * 127.5)


HELDOUT = [item(-0.9 + 0.2 * n, slice(1, 4), slice(8, 12)) for n in range(8)]
TRAINING = [item(0.05, slice(1, 4), slice(8, 12)), item(-0.05, slice(1, 4), slice(8, 12))]


@pytest.mark.parametrize(
    ("heldout", "greys"),
    [
        (HELDOUT, [-0.9, -0.7, -0.5, -0.1, 0.1, 0.3]),  # 6 of 8: numbers 0, 1, 2, 4, 5 and 6
        ([], [0.05, -0.05]),
    ],
)
def test_heldout_slices_are_shown_or_else_those_of_the_training(heldout, greys, tmp_path):
    picture = previews(tmp_path, "guider", heldout, TRAINING).draw()
    assert picture.size == (len(greys) * PITCH - 4, 2 * PITCH - 4)
    for column, grey in enumerate(greys):
        for row in (0, 1):
            shown = tile(picture, column, row)
            np.testing.assert_array_equal(shown[14, 14], [grey_of(grey)] * 3)
            np.testing.assert_array_equal(shown[2, 8], [255] * 3)  # rows of the picture are the array's last axis
        assert outlined_rows(picture, column, 0) == (8, 11)


def test_a_guiders_masks_are_outlined_on_the_slices_that_it_was_shown(tmp_path):
    picture = previews(tmp_path, "guider", HELDOUT[:2], TRAINING).draw()
    for column in (0, 1):  # the echo's mask is what is bright in the slice, not the true mask
        assert outlined_rows(picture, column, 1) == (1, 3)


def test_a_generators_slices_are_made_for_the_true_masks(tmp_path):
    picture = previews(tmp_path, "generator", HELDOUT[:2], TRAINING).draw()
    for column in (0, 1):  # the echo's slice is the mask itself: white in it, black around
        shown = tile(picture, column, 1)
        np.testing.assert_array_equal(shown[9:11, 8], [[255] * 3] * 2)
        np.testing.assert_array_equal(shown[2, 8], [0] * 3)
        assert outlined_rows(picture, column, 1) == (8, 11)


def test_beside_a_guider_a_generator_makes_whole_pairs(tmp_path):
    masks = torch.stack([item(0, mask_rows=slice(5, 8))["label"]] * 2) * 2 - 1
    picture = previews(tmp_path, "generator", HELDOUT[:2], TRAINING, guider=KnownImage(masks, SCHEDULE)).draw()
    for column in (0, 1):
        assert outlined_rows(picture, column, 0) == (8, 11)
        assert outlined_rows(picture, column, 1) == (5, 7)
        np.testing.assert_array_equal(tile(picture, column, 1)[6, 8], [255] * 3)


class Fixed(Echo):
    """A network that always ends at the same clean image; it keeps the spacings that it was told."""

    def __init__(self, x0):
        super().__init__()
        self.register_buffer("x0", x0)
        self.spacings = []

    def forward(self, noisy, timesteps, condition, spacing):
        self.spacings.append(spacing)
        return super().forward(noisy, timesteps, self.x0.expand(len(noisy), -1, -1, -1), spacing)


def test_a_joint_net_makes_masks_and_slices_from_noise(tmp_path):
    made = item(0.5, bright_rows=slice(2, 4), mask_rows=slice(5, 8))
    pair = torch.cat([made["label"] * 2 - 1, made["image"]])[None]
    picture = previews(tmp_path, "joint", HELDOUT[:2], TRAINING, network=Fixed(pair)).draw()
    for column in (0, 1):
        assert outlined_rows(picture, column, 0) == (8, 11)  # the truth above
        assert outlined_rows(picture, column, 1) == (5, 7)
        shown = tile(picture, column, 1)
        np.testing.assert_allclose(shown[14, 14], grey_of(0.5), atol=1)
        np.testing.assert_allclose(shown[2:4, 8], 255, atol=4)  # magnified smoothly


def test_pictures_of_latents_are_decoded(tmp_path):
    space = LatentSpace(autoencoder())
    latents = torch.randn(1, 3, 4, 4, generator=rng(5))
    encoded = [
        {"image": space.encode_slices(one["image"][None])[0], "label": space.encode_masks(one["label"][None])[0]}
        for one in HELDOUT[:2]
    ]
    picture = previews(tmp_path, "generator", encoded, [], network=Fixed(latents), space=space).draw()
    whole = space.decode_slices(latents)[0, 0]
    above = space.decode_slices(encoded[0]["image"][None])[0, 0]
    for row, wanted in ((0, above), (1, whole)):
        assert outlined_rows(picture, 0, row) == (8, 11)
        shown = tile(picture, 0, row)
        grey = (wanted.numpy().T[:6] + 1) * 127.5  # the outline lies below
        np.testing.assert_allclose(shown[:6, :, 0], grey, atol=12)  # magnified smoothly
        assert grey.std() > 12


def test_a_network_is_told_the_spacing_of_the_slices_that_are_shown(tmp_path):
    shown = [{**one, "spacing": torch.tensor([0.1 * n, 0.2])} for n, one in enumerate(HELDOUT[:2], 1)]
    drawing = previews(tmp_path, "generator", shown, [], network=Fixed(torch.zeros(1, 1, 16, 16)))
    drawing.draw()
    told = drawing.network.network.spacings
    assert len(told) == 25
    assert all(torch.equal(spacing, torch.tensor([[0.1, 0.2], [0.2, 0.2]])) for spacing in told)


def test_a_real_guider_and_the_same_noise_draw_the_same_picture(tmp_path):
    guider = Denoiser(Echo(), SCHEDULE, "v")
    one, other = (previews(tmp_path, "generator", HELDOUT, TRAINING, guider).draw() for _ in range(2))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_pictures_are_drawn_when_due_and_at_the_end(tmp_path):
    told = {}

    class Heard:
        def attach(self, engine):
            listen(engine, TrainingEvents.PICTURED, lambda e: told.update({e.state.iteration: pictured(e)}))

    run(lambda n: None, [Heard(), previews(tmp_path, "guider", HELDOUT[:2], TRAINING)], 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002.png", "00000004.png", "00000005.png"]
    assert list(told) == [2, 4, 5]
    np.testing.assert_array_equal(np.asarray(told[4]), np.asarray(Image.open(tmp_path / "00000004.png")))
    run(lambda n: None, [previews(tmp_path / "none", "guider", HELDOUT[:2], TRAINING, interval=0)], 5)
    assert not (tmp_path / "none").exists()
