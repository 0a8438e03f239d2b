from __future__ import annotations

import numpy as np

from pig_monai.pictures import OUTLINE, contact_sheet, outlined, tile


def test_a_tile_is_upright_and_outlined() -> None:
    image = np.full((20, 30), -1.0)  # (W, H)
    image[15, 2] = 1  # column 15, row 2: top right
    mask = np.zeros((20, 30), bool)
    mask[4:7, 10:14] = True  # columns 4 … 6, rows 10 … 13
    pixels = np.asarray(tile(image, mask))
    assert pixels.shape == (30, 20, 3)
    assert tuple(pixels[2, 15]) == (255, 255, 255)
    outlined = (pixels == OUTLINE).all(axis=2)
    ring = np.zeros((30, 20), bool)
    ring[9:15, 3:8] = True
    ring[10:14, 4:7] = False
    corners = np.zeros_like(ring)
    corners[np.ix_([9, 14], [3, 7])] = True
    np.testing.assert_array_equal(outlined | corners, ring)
    assert (pixels[10:14, 4:7] == 0).all()  # the lesion itself stays visible
    assert not (np.asarray(tile(image, None)) == OUTLINE).all(axis=2).any()


def test_small_lesions_show_in_small_tiles() -> None:
    mask = np.zeros((64, 64), bool)
    mask[33, 47] = True
    pixels = np.asarray(tile(np.full((64, 64), -1.0), mask, scale=0.25))
    outlined = np.argwhere((pixels == OUTLINE).all(axis=2))
    np.testing.assert_array_equal(outlined.mean(axis=0), [47 // 4, 33 // 4])


def test_a_sheet_has_its_tiles_in_reading_order() -> None:
    slices = [np.full((10, 8), value) for value in (-1.0, 0.0, 1.0)]
    sheet = contact_sheet(slices, [None] * 3, columns=2)
    assert sheet.size == (2 * 10 + 4, 2 * 8 + 4)
    assert [sheet.getpixel(place) for place in ((5, 4), (19, 4), (5, 16))] == [(v, v, v) for v in (0, 128, 255)]
    assert contact_sheet([], []).size == (1, 1)


def test_several_masks_are_outlined_in_their_colours() -> None:
    one, other = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    one[4:7, 4:7] = True
    other[12:15, 20:24] = True
    picture = np.asarray(outlined(np.full((20, 30), -1.0), [(one, (255, 0, 0)), (other, (0, 255, 0))]))
    for mask, colour in ((one, (255, 0, 0)), (other, (0, 255, 0))):
        shown = np.argwhere((picture == colour).all(axis=2))  # (row, column)
        np.testing.assert_array_equal(shown.mean(axis=0), np.argwhere(mask.T).mean(axis=0))
    both = np.asarray(outlined(np.full((20, 30), -1.0), [(one, (255, 0, 0)), (one, (0, 255, 0))]))
    assert not (both == (255, 0, 0)).all(axis=2).any()  # the later one is drawn over the earlier one
