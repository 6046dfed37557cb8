"""Image files as they come: transparent, turned, of sixteen bits, with what lies around the pixels."""

import os
import random
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from uldm_plugins.shared.checked_files import fault
from uldm_plugins.shared.containers import parse
from uldm_plugins.shared.decoding import decode
from uldm_plugins.shared.files import (
    Reading,
    image_names,
    image_shape,
    other_endings,
    read_image,
    shown,
)

MOST = 10_000


@pytest.fixture
def ramp():
    return np.linspace(0, 255, 20, dtype=np.uint8)[None].repeat(10, 0)


def saved(image, kind, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, bits, colour, rows, *chunks):
    """Return a PNG by hand; rows are bytes of packed samples."""
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def numbers(content):
    """Return the pixels on white, where some are transparent."""
    image = decode(parse(content), MOST)
    if "A" in image.mode:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert(
            image.mode[:-1]
        )
    return np.asarray(image).tolist()


def test_an_image_keeps_its_size_and_channels_by_default(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "a.png")
    grey = torch.from_numpy(ramp)
    assert torch.equal(read_image(tmp_path / "a.png"), grey[None])
    assert torch.equal(read_image(tmp_path / "a.png", channels=3), grey.expand(3, -1, -1))
    assert read_image(tmp_path / "a.png", size=7).shape == (1, 7, 7)
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "b.png")
    assert torch.equal(read_image(tmp_path / "b.png"), grey.expand(3, -1, -1))
    assert torch.equal(read_image(tmp_path / "b.png", channels=1), grey[None])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 2), (10, 10, 10, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    (image if mode == "RGBA" else image.convert(mode)).save(tmp_path / "a.png")
    grey = read_image(tmp_path / "a.png", channels=1)[0]
    assert grey[0, 0] == 255 and grey[1, 3] == 10
    assert mode == "P" or 126 <= grey[0, 1] <= 128
    assert Reading((2, 2), 3).read(tmp_path / "a.png").max() > 50
    assert image_shape(tmp_path / "a.png") == (1 if mode == "LA" else 3, 2, 4)


@pytest.mark.parametrize(
    ("bits", "row", "key", "expected"),
    [
        (1, b"\x40", 0, [255, 255]),
        (1, b"\x40", 1, [0, 255]),
        (2, b"\x60", 1, [255, 170]),
        (4, b"\x3c", 0x3, [255, 204]),
        (4, b"\x3c", 0xF3, [255, 204]),  # only so many bits of it count
        (8, b"\x03\x04", 3, [255, 4]),
        (16, b"\x03\x01\x03\x02", 0x0301, [255, 3]),
    ],
)
def test_one_grey_that_is_transparent_is_white_at_any_depth(bits, row, key, expected):
    assert numbers(png(2, bits, 0, [row], chunk(b"tRNS", struct.pack(">H", key)))) == [expected]


def test_one_colour_that_is_transparent_is_compared_with_all_of_its_bits():
    narrow = png(2, 8, 2, [bytes([1, 2, 3, 1, 2, 4])], chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert numbers(narrow) == [[[255, 255, 255], [1, 2, 4]]]
    rows = [struct.pack(">6H", 0x0102, 0x0304, 0x0506, 0x0102, 0x0304, 0x0507)] * 2
    wide = png(2, 16, 2, rows, chunk(b"tRNS", struct.pack(">HHH", 0x0102, 0x0304, 0x0506)))
    assert numbers(wide) == [[[255, 255, 255], [1, 3, 5]]] * 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_colour_of_a_palette_is_white(bits):
    row = {1: b"\x40", 2: b"\x10", 4: b"\x01", 8: b"\x00\x01"}[bits]
    palette = chunk(b"PLTE", bytes([9, 8, 7, 3, 2, 1]))
    assert numbers(png(2, bits, 3, [row], palette, chunk(b"tRNS", b"\0"))) == [[[255] * 3, [3, 2, 1]]]
    half = numbers(png(2, bits, 3, [row], palette, chunk(b"tRNS", b"\x80\xff")))
    assert half[0][1] == [3, 2, 1] and all(130 <= value <= 133 for value in half[0][0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_is_turned_as_pillow_turns_it(ramp, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = (
        Image.fromarray(ramp.astype(np.uint16) << 8)
        if mode == "I;16"
        else Image.fromarray(ramp).convert(mode)
    )
    content = saved(image, "PNG", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(BytesIO(content)))
    expected = np.asarray(turned) >> 8 if mode == "I;16" else np.asarray(turned.convert("L"))
    assert np.array_equal(np.asarray(decode(parse(content), MOST).convert("L")), expected)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_an_image_is_turned_as_its_exif_says(tmp_path, ramp, ending):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(tmp_path / f"a.{ending}", exif=exif, quality=95)
    found = read_image(tmp_path / f"a.{ending}", channels=1)
    assert found.shape == (1, 20, 10) and image_shape(tmp_path / f"a.{ending}")[1:] == (20, 10)
    assert found[0, -1].float().mean() - found[0, 0].float().mean() > 240


def test_orientation_stands_in_other_places_too(ramp):
    image = Image.fromarray(ramp)
    xmp = b'<x tiff:Orientation="6"/>'
    sound, segment = saved(image, "JPEG"), b"http://ns.adobe.com/xap/1.0/\0" + xmp
    with_xmp = sound[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + sound[2:]
    assert decode(parse(with_xmp), MOST).size == (10, 20)
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6</tiff:Orientation>")
    assert decode(parse(png(20, 8, 0, [bytes(20)] * 10, text)), MOST).size == (10, 20)
    assert decode(parse(saved(image, "WEBP", xmp=xmp)), MOST).size == (10, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    digits = exif.tobytes().hex().encode()
    profile = b"\nexif\n%8d\n%s\n" % (len(digits) // 2, digits)
    for body in (
        (b"tEXt", b"Raw profile type exif\0" + profile),
        (
            b"zTXt",
            b"Raw profile type exif\0\0" + zlib.compress(profile),
        ),
    ):
        content = png(20, 8, 0, [bytes(20)] * 10, chunk(*body))
        assert decode(parse(content), MOST).size == (10, 20)


BROKEN = [
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x09\0\0\0\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",
    b"Exif\0\0",
    b"Exif\0\0nothing",
]


@pytest.mark.parametrize("exif", BROKEN)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_broken_exif_leaves_a_sound_image_unturned(ramp, kind, exif):
    content = saved(Image.fromarray(ramp).convert("RGB"), kind, exif=exif)
    assert b"II*" in content or b"MM" in content or exif in BROKEN[-2:]
    assert decode(parse(content), MOST).size == (20, 10)


def test_broken_profiles_and_texts_leave_a_sound_image_sound():
    broken = [chunk(b"iCCP", b"x"), chunk(b"zTXt", b"Raw profile type exif\0\0no"), chunk(b"acTL", b"")]
    assert numbers(png(1, 8, 0, [b"\x07"], *broken, b"\0\0\0\1gAMA!!!!!")) == [[7]]
    sound = saved(Image.new("RGB", (8, 8), "red"), "JPEG")
    segments = b"\xff\xe0\0\4JF" + b"\xff\xee\0\7Adobe" + b"\xff\xe2\0\x06MPF\0"
    assert numbers(sound[:2] + segments + sound[2:]) == numbers(sound)


def test_the_first_picture_of_several_counts_and_what_lies_behind_it_does_not():
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    film = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40
    for content in (
        saved(red, "MPO", save_all=True, append_images=[blue]),
        saved(red, "PNG", save_all=True, append_images=[blue]),
        saved(red, "WEBP", save_all=True, append_images=[blue]),
        *(saved(red, kind) + film for kind in ("JPEG", "PNG", "WEBP")),
    ):
        (place,) = {tuple(pixel) for row in numbers(content) for pixel in row}
        assert place[0] > 240 and place[2] < 10


def test_four_colours_of_print_are_brought_to_three(ramp):
    image = Image.merge("CMYK", [Image.fromarray(ramp)] * 4)
    expected = Image.open(BytesIO(saved(image, "JPEG", quality=95))).convert("RGB")
    assert numbers(saved(image, "JPEG", quality=95)) == np.asarray(expected).tolist()


def test_sixteen_bits_keep_their_upper_half(tmp_path, ramp):
    Image.fromarray(ramp.astype(np.uint16) * 256 + 255).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(ramp)[None])
    assert image_shape(tmp_path / "a.png") == (1, 10, 20)


@pytest.mark.parametrize("read", [read_image, image_shape, Reading((4, 4), 1).read])
def test_what_is_no_image_is_named(tmp_path, read):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded"):
        read(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"b\.png cannot be decoded \(No such file"):
        read(tmp_path / "b.png")


def test_pillows_own_limit_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    content = saved(Image.new("RGBA", (20, 20)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(parse(content), 400).size == (20, 20)
    with pytest.raises(ValueError, match="more than 399 pixels"):
        decode(parse(content), 399)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_bomb_is_refused_before_it_is_decoded():
    with pytest.raises(ValueError, match="more than 10000 pixels"):
        decode(parse(png(30_000, 8, 2, [b""] * 3, chunk(b"tEXt", b""))), MOST)
    with pytest.raises(ValueError, match="cut short"):
        decode(parse(png(30, 8, 2, [b""] * 3)), MOST)


def damaged(content, draw):
    """Return a file with bytes changed or missing; a PNG's checksums are sometimes made to fit."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        changed[draw.randrange(len(changed) if draw.random() < 0.5 else 100)] = draw.randrange(256)
    if draw.random() < 0.3:
        changed = changed[: draw.randrange(len(changed))]
    place = 8
    while changed.startswith(b"\x89PNG") and place + 12 <= len(changed) and draw.random() < 0.95:
        end = place + 8 + int.from_bytes(changed[place : place + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[place + 4 : end]))
        place = end + 4
    return bytes(changed)


def test_whatever_is_damaged_is_refused_in_one_way_or_read():
    noise = np.random.default_rng(0).integers(256, size=(12, 16, 4), dtype=np.uint8)
    image, exif, draw = Image.fromarray(noise), Image.Exif(), random.Random(0)
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    several = {"save_all": True, "append_images": [image.convert("RGB")]}
    sound = [saved(image.convert(m), "PNG", exif=exif) for m in ("RGB", "RGBA", "L", "LA", "P", "1")]
    sound += [saved(image.convert(m), "JPEG", exif=exif, comment=b"x") for m in ("RGB", "L", "CMYK")]
    sound += [saved(image.convert(m), "WEBP", exif=exif, lossless=m == "RGB") for m in ("RGB", "RGBA")]
    sound += [saved(image.convert("RGB"), kind, **several) for kind in ("PNG", "WEBP", "GIF", "TIFF", "MPO")]
    sound += [saved(image.convert(m), "TIFF", exif=exif) for m in ("RGBA", "LA", "P", "1", "CMYK", "I;16")]
    sound += [saved(image.convert("RGB"), "TIFF", compression=c) for c in ("jpeg", "tiff_lzw", "packbits")]
    sound += [saved(image.convert(m), kind) for m in ("L", "P", "1") for kind in ("BMP", "GIF")]
    read = refused = 0
    for _ in range(3000):
        try:
            decode(parse(damaged(draw.choice(sound), draw)), MOST)
            read += 1
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
    assert read > 300 and refused > 1000


def test_links_to_folders_are_followed_and_each_folder_is_entered_once(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "z", inside / ".kept", outside):
        folder.mkdir(parents=True)
        (folder / "1.jfif").touch()
    for link, target in (
        ("a", "z"),
        ("b", outside),
        ("c", "."),
        ("d", inside / "z" / "none"),
        ("e", ".kept"),
    ):
        (inside / link).symlink_to(target)
    (inside / "z" / "up").symlink_to(inside)
    (outside / "loop").symlink_to(outside)
    (inside / "self").symlink_to("self")
    found, left_out = image_names(inside)
    assert found == [b"b/1.jfif", b"e/1.jfif", b"z/1.jfif"]
    assert left_out == {"d": "a broken link", "self": "a broken link"}


def test_images_that_are_not_read_are_said_and_no_other_files(tmp_path):
    names = [
        "a.bmp",
        "b.TIFF",
        "c.cr2",
        "d.heic",
        "e.avif",
        "f.gif",
        "notes.txt",
        "bare",
        "._g.jpg",
        "h.h5",
        ".i.txt",
        "j.svg",
        "k.ico",
    ]
    for name in names:
        (tmp_path / name).touch()
    found, left_out = image_names(tmp_path)
    assert found == [b"a.bmp", b"b.TIFF", b"f.gif"]
    assert set(left_out) == {"c.cr2", "d.heic", "e.avif", "j.svg", "k.ico", "._g.jpg"}
    assert left_out["d.heic"] == ".heic, not PNG, JPEG, WebP, BMP, TIFF or GIF: convert to one of these"
    assert left_out["._g.jpg"].startswith("hidden") and ".png" not in other_endings()


def test_pictures_of_runs_are_no_images_of_a_folder(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "own.png")
    run = tmp_path / "runs" / "x"
    (run / "stages").mkdir(parents=True)
    (run / "recipe.toml").touch()
    Image.fromarray(ramp).save(run / "samples.png")
    found, left_out = image_names(tmp_path)
    assert found == [b"own.png"] and left_out == {os.path.join("runs", "x"): "a run's folder"}
    with pytest.raises(ValueError, match=r"runs.x is a run's folder.*samples\.npz"):
        image_names(run)


def test_pipes_sockets_and_what_cannot_be_opened_are_said_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    faults = {path.stem: fault(path, MOST) for path in tmp_path.iterdir()}
    assert faults == {
        "pipe": "no regular file",
        "broken": "a broken link",
        "device": "no regular file",
        "empty": "empty",
        "folder": "no regular file",
    }
    monkeypatch.setattr("stat.S_ISREG", lambda mode: True)  # a pipe that has just taken a file's place
    assert fault(tmp_path / "pipe.png", MOST) == "empty"
    monkeypatch.setattr("os.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert fault(tmp_path / "empty.png", MOST) == "Permission denied"


def test_a_folder_that_cannot_be_listed_is_said(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    real = os.scandir

    def closed(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr("os.scandir", closed)
    assert image_names(tmp_path) == ([b"a.png"], {"closed": "Permission denied"})


def test_names_are_shown_in_one_line_whatever_their_bytes():
    assert shown(Path(os.fsdecode(b"a\xff\n\xc3\xa9.png"))) == "a\\xff\\né.png"


def read(tmp_path, image, *how, **options):
    image.save(tmp_path / "a.png")
    return Reading(*how, **options).read(tmp_path / "a.png")


def test_an_image_of_another_shape_is_cropped_padded_or_stretched(tmp_path):
    wide = Image.fromarray(np.array([[10] * 4 + [90] * 4] * 4, np.uint8))
    assert read(tmp_path, wide, (4, 4), 1, "crop")[..., 0].tolist() == [[10, 10, 90, 90]] * 4
    padded = read(tmp_path, wide, (8, 8), 1, "pad", "black")[..., 0]
    assert padded[2:6].tolist() == np.asarray(wide).tolist() and not padded[:2].any() and not padded[6:].any()
    stretched = read(tmp_path, wide, (8, 8), 1, "stretch")[..., 0]
    assert stretched.tolist() == [[10] * 4 + [90] * 4] * 8


def test_height_stands_before_width_and_the_part_has_the_wanted_shape(tmp_path):
    rows = np.arange(60, dtype=np.uint8).reshape(10, 6)
    assert read(tmp_path, Image.fromarray(rows), (2, 6), 1)[..., 0].tolist() == rows[4:6].tolist()
    assert read(tmp_path, Image.fromarray(rows), (10, 2), 1)[..., 0].tolist() == rows[:, 2:4].tolist()
    assert read(tmp_path, Image.fromarray(rows), (2, 1), 1, crop=2).tolist() == rows[4:6, 2:3, None].tolist()
    assert read(tmp_path, Image.fromarray(rows), (4, 4), 1, "stretch", crop=4).tolist() == (
        rows[3:7, 1:5, None].tolist()
    )


def test_four_channels_keep_what_is_transparent_and_no_hidden_colour_bleeds(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4], pixels[:, 4:] = (200, 100, 50, 255), (0, 255, 0, 0)
    found = read(tmp_path, Image.fromarray(pixels), (5, 5), 4, background="#010203")
    seen = found[..., 3] > 0
    assert np.abs(found[seen][:, :3].astype(int) - (200, 100, 50)).max() <= 1 and 0 < seen.sum() < 25
    assert (found[~seen] == (1, 2, 3, 0)).all() and found[0, 0, 3] > 240
    same = read(tmp_path, Image.fromarray(pixels), (8, 8), 4)
    assert (same[:, :4] == pixels[:, :4]).all() and (same[:, 4:] == (255, 255, 255, 0)).all()


@pytest.mark.parametrize(
    ("background", "colour"),
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("grey", (128, 128, 128)), ("#0a141e", (10, 20, 30))],
)
def test_the_background_is_below_and_around(tmp_path, background, colour):
    clear = Image.new("RGBA", (2, 4), (9, 9, 9, 0))
    flat = read(tmp_path, clear, (4, 4), 3, "pad", background)
    assert (flat == colour).all()
    assert (read(tmp_path, clear, (4, 4), 4, "pad", background) == (*colour, 0)).all()
    framed = read(tmp_path, Image.new("L", (2, 4), 77), (4, 4), 3, "pad", background)
    assert framed[0].tolist() == [list(colour), [77] * 3, [77] * 3, list(colour)]


@pytest.mark.parametrize(
    "wrong", [{"background": "whit"}, {"background": "#12345"}, {"channels": 2}, {"fit": "fill"}]
)
def test_readings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Reading(**{"size": (4, 4), "channels": 3, **wrong})


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_decoded_at_a_fraction_is_nearly_the_same(tmp_path, fit, orientation):
    waves = np.sin(np.arange(400) / 40)[:, None] + np.cos(np.arange(100) / 25)
    image, exif = Image.fromarray((waves * 60 + 128).astype(np.uint8)), Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", quality=95, exif=exif)
    image.save(tmp_path / "a.png", exif=exif)
    small, exact = (Reading((40, 16), 1, fit).read(tmp_path / name) for name in ("a.jpg", "a.png"))
    assert np.abs(small.astype(int) - exact).max() < 8
