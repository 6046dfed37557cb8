"""Codes as colours: which square has which, and how many can be told apart."""

import pytest
import torch

from uldm_plugins.pictures.codes import code_colours, code_map


@pytest.mark.parametrize("codebook_size", [1, 2, 7, 64, 256])
def test_no_two_codes_have_one_colour(codebook_size):
    colours = code_colours(codebook_size)
    assert colours.shape == (codebook_size, 3) and colours.dtype == torch.uint8
    assert len(colours.unique(dim=0)) == codebook_size


def test_neighbours_in_number_are_far_apart():
    colours = code_colours(256).float()
    assert (colours[1:] - colours[:-1]).norm(dim=1).min() > 50


def test_each_code_fills_its_square():
    codes = torch.randint(0, 16, (2, 7, 7), dtype=torch.int32)
    maps = code_map(codes, 28, 16)
    assert maps.shape == (2, 3, 28, 28) and maps.dtype == torch.uint8
    squares = maps.unflatten(3, (7, 4)).unflatten(2, (7, 4)).permute(0, 2, 4, 3, 5, 1)
    assert torch.equal(squares, code_colours(16)[codes.long()][:, :, :, None, None].expand_as(squares))


def test_the_maps_of_several_codes_stand_side_by_side():
    codes = torch.randint(0, 16, (2, 3, 4, 4))
    maps = code_map(codes, 8, 16)
    assert maps.shape == (2, 3, 8, 24)
    assert torch.equal(maps[..., 8:16], code_map(codes[:, 1], 8, 16))


def test_a_size_that_is_no_multiple_is_filled():
    assert code_map(torch.zeros(1, 3, 3), 10, 4).shape == (1, 3, 10, 10)
    assert code_map(torch.zeros(0, 3, 3), 10, 4).shape == (0, 3, 10, 10)


def test_more_codes_than_colours_are_drawn_all_the_same():
    assert code_map(torch.tensor([[[65535, 0]]]), 2, 65536).shape == (1, 3, 2, 2)


@pytest.mark.parametrize("codes", [[[[4]]], [[[-1]]]])
def test_a_code_that_there_is_not_is_refused(codes):
    with pytest.raises(ValueError, match="of 4"):
        code_map(torch.tensor(codes), 4, 4)
