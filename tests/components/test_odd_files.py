"""Image files of every format and mode: the pixels are what numpy makes of the numbers that were written."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from uldm_core import registry
from uldm_plugins.shared import profiles
from uldm_plugins.shared.containers import parse
from uldm_plugins.shared.decoding import decode
from uldm_plugins.shared.files import Reading

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(256, size=(8, 16), dtype=np.uint8)
RGB = DRAW.integers(256, size=(8, 16, 3), dtype=np.uint8)
ALPHA = DRAW.choice(np.array([0, 90, 255], np.uint8), (8, 16))
WIDE_GREY = DRAW.integers(65536, size=(8, 16), dtype=np.uint16)
WIDE = DRAW.integers(65536, size=(8, 16, 4), dtype=np.uint16)
WIDE_GREY[0, :3], WIDE[0, 0] = (0, 65535, 256), 65535
FEW = DRAW.integers(4, size=(8, 16), dtype=np.uint8)
PALETTE = np.array([[10, 20, 30], [200, 100, 50], [0, 0, 255], [255, 255, 255]], np.uint8)
BITS = GREY > 127
RGBA = np.dstack([RGB, ALPHA])
SMOOTH = np.full((8, 16, 3), (180, 120, 60), np.uint8)
INK = np.full((8, 16, 4), (30, 60, 90, 20), np.uint8)


def expected(colours, alpha=255):
    """Return what four channels must be: grey in all three, white where nothing is to be seen."""
    colours = np.broadcast_to(colours[..., None], (*colours.shape, 3)) if colours.ndim == 2 else colours
    alpha = np.broadcast_to(np.asarray(alpha, np.uint8), colours.shape[:2])
    return np.dstack([np.where(alpha[..., None] > 0, colours, 255), alpha]).astype(np.uint8)


def inked(inks):
    """Return the colours of inks on white paper, as every program without profiles has them."""
    inks = inks.astype(float)
    return np.round((255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255)


def saved(image, kind, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def paletted():
    image = Image.fromarray(FEW)
    image.putpalette(PALETTE.tobytes())
    return image


def png(bits, colour, samples, *chunks):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in samples.astype(f">u{bits // 8}")))
    parts = [
        chunk(b"IHDR", head),
        *(chunk(*one) for one in chunks),
        chunk(b"IDAT", rows),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(samples, tags=(), order="<", planes=False, bits=None):
    """Return a TIFF of one uncompressed strip, or one a plane."""
    height, width, *depth = samples.shape
    depth = depth[0] if depth else 1
    data = samples.astype(samples.dtype.newbyteorder(order))
    strips = [data[..., place].tobytes() for place in range(depth)] if planes else [data.tobytes()]
    bits = bits or samples.dtype.itemsize * 8
    starts = [8 + sum(map(len, strips[:place])) for place in range(len(strips))]
    entries = {256: [width], 257: [height], 258: [bits] * depth, 259: [1], 262: [2 if depth >= 3 else 1]}
    entries |= {273: starts, 277: [depth], 278: [height], 279: list(map(len, strips))}
    entries |= {284: [2 if planes else 1], **dict(tags)}
    body, later = b"".join(strips), b""
    start = 8 + len(body)
    lines = struct.pack(order + "H", len(entries))
    for tag, values in sorted(entries.items()):
        numbers = struct.pack(f"{order}{len(values)}I", *values)
        place = struct.pack(order + "I", start + 6 + 12 * len(entries) + len(later))
        lines += struct.pack(order + "HHI", tag, 4, len(values)) + (numbers if len(values) == 1 else place)
        later += numbers if len(values) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + body + lines + bytes(4) + later


def bmp(bits, rows, *, height=8, compression=0, masks=()):
    """Return a BMP of 16 columns with rows that are packed."""
    extra = struct.pack(f"<{len(masks)}I", *masks)
    start = 14 + 40 + len(extra)
    info = struct.pack("<IiiHHIIiiII", 40, 16, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + info + extra + rows


def gif(*frames, screen=(16, 8)):
    """Return a GIF; frames are their left, top, and indices of colours."""
    parts = [b"GIF89a", struct.pack("<HH", *screen), bytes([0x81, 0, 0]), PALETTE.tobytes()]
    for left, top, indices in frames:
        codes = "".join(f"{c:03b}"[::-1] for value in indices.flatten() for c in (4, int(value))) + "101"
        codes = codes.ljust(-(-len(codes) // 8) * 8, "0")
        data = bytes(int(codes[place : place + 8][::-1], 2) for place in range(0, len(codes), 8))
        parts.append(b"," + struct.pack("<HHHHB", left, top, *indices.shape[::-1], 0) + b"\2")
        parts += [bytes([len(data[p : p + 255])]) + data[p : p + 255] for p in range(0, len(data), 255)] + [
            b"\0"
        ]
    return b"".join((*parts, b";"))


def profile(space, tags):
    """Return a colour profile, version 2."""
    start, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12x4s", start + len(data), b"lcms", 0x02400000, b"mntr", space, PCS[space], b"acsp"
    )
    return (head + bytes(28) + struct.pack(">III", 63190, 65536, 54061)).ljust(128, b"\0") + table + data


PCS = {b"RGB ": b"XYZ ", b"GRAY": b"XYZ ", b"CMYK": b"Lab "}
PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def xyz(*values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(power):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(power * 256))


WHITE = {b"wtpt": xyz(0.9642, 1, 0.8249)}


def rgb_profile(power, order=(0, 1, 2)):
    """Return a profile of sRGB's primaries in an order, with a power in place of its curve."""
    tags = {name + b"XYZ": xyz(*PRIMARIES[place]) for name, place in zip((b"r", b"g", b"b"), order)}
    return profile(b"RGB ", {**WHITE, **tags, **{name + b"TRC": gamma(power) for name in (b"r", b"g", b"b")}})


LINEAR, TURNED = rgb_profile(1), rgb_profile(1, (1, 2, 0))
GREY_LINEAR = profile(b"GRAY", {**WHITE, b"kTRC": gamma(1)})
RAMP = bytes(range(256))
# the lightness of paper by how much black ink is on it alone: other inks do nothing
NODES = bytes(v for node in range(16) for v in (0 if node & 1 else 255, 128, 128))
LUT = b"mft1\0\0\0\0\4\3\2\0" + struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
BLACK_ONLY = profile(b"CMYK", {**WHITE, b"A2B0": LUT + RAMP * 4 + NODES + RAMP * 3})


def srgb_of_linear(numbers):
    light = numbers / 255
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def grey_of_lightness(lightness):
    """Return the sRGB of L*, 0 to 100."""
    f = (lightness + 16) / 116
    return srgb_of_linear(255 * (f**3 if f > 6 / 29 else (f - 4 / 29) * 3 * (6 / 29) ** 2))


def ycck():
    """Return a JPEG whose four colours are stored as YCCK: Adobe's marker says so."""
    content = bytearray(saved(ink_image(), "JPEG", quality=100))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


def ink_image():
    return Image.merge("CMYK", [Image.fromarray(np.ascontiguousarray(INK[..., place])) for place in range(4)])


def colours_of_ycck():
    """Undo YCCK: what is stored are inverted inks, of which the first three are luma and chroma."""
    y, cb, cr, k = 255 - INK[0, 0].astype(float)
    red, green, blue = (
        y + 1.402 * (cr - 128),
        y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
        y + 1.772 * (cb - 128),
    )
    stored = np.clip([255 - red, 255 - green, 255 - blue, k], 0, 255)
    return np.broadcast_to(inked(255 - stored), RGB.shape)


image = Image.fromarray
TWO = {"save_all": True, "append_images": [Image.new("RGB", (16, 8), "red")]}
LA = Image.merge("LA", [image(GREY), image(ALPHA)])
HALVES = WIDE[..., :3] >> 8
FIVE_SIX = np.stack([RGB[..., 0] >> 3, RGB[..., 1] >> 2, RGB[..., 2] >> 3], -1).astype(np.uint16)
PACKED = (FIVE_SIX[..., 0] << 11 | FIVE_SIX[..., 1] << 5 | FIVE_SIX[..., 2]).astype("<u2")
OPENED = np.round(FIVE_SIX / (31, 63, 31) * 255)
PARTLY = np.where(ALPHA[..., None] == 90, 255, ALPHA[..., None]).astype(np.uint8)  # 0 or 255
BGRA = RGBA[..., [2, 1, 0, 3]]
MASKS = (0xFF0000, 0xFF00, 0xFF)
TILED = {322: [16], 323: [16], 324: [8], 325: [256]}

EXACT = {
    "png of one bit": (saved(image(BITS), "PNG"), expected(BITS * 255)),
    "png of grey": (saved(image(GREY), "PNG"), expected(GREY)),
    "png of grey with alpha": (saved(LA, "PNG"), expected(GREY, ALPHA)),
    "png with a palette": (saved(paletted(), "PNG"), expected(PALETTE[FEW])),
    "png with a clear colour": (
        saved(paletted(), "PNG", transparency=2),
        expected(PALETTE[FEW], 255 * (FEW != 2)),
    ),
    "png with a palette of alphas": (
        saved(paletted(), "PNG", transparency=bytes([0, 9, 99, 255])),
        expected(PALETTE[FEW], np.array([0, 9, 99, 255])[FEW]),
    ),
    "png of colours": (saved(image(RGB), "PNG"), expected(RGB)),
    "png with alpha": (saved(image(RGBA), "PNG"), expected(RGB, ALPHA)),
    "png of 16 bits grey": (png(16, 0, WIDE_GREY), expected(WIDE_GREY >> 8)),
    "png of 16 bits grey with alpha": (
        png(16, 4, WIDE[..., :2]),
        expected(WIDE[..., 0] >> 8, WIDE[..., 1] >> 8),
    ),
    "png of 16 bits": (png(16, 2, WIDE[..., :3]), expected(HALVES)),
    "png of 16 bits with alpha": (png(16, 6, WIDE), expected(HALVES, WIDE[..., 3] >> 8)),
    "apng": (saved(image(RGB), "PNG", **TWO), expected(RGB)),
    "bmp of one bit": (saved(image(BITS), "BMP"), expected(BITS * 255)),
    "bmp of grey": (saved(image(GREY), "BMP"), expected(GREY)),
    "bmp with a palette": (saved(paletted(), "BMP"), expected(PALETTE[FEW])),
    "bmp of colours": (saved(image(RGB), "BMP"), expected(RGB)),
    "bmp from the top": (bmp(24, RGB[..., ::-1].tobytes(), height=-8), expected(RGB)),
    "bmp of 32 bits": (bmp(32, BGRA[::-1].tobytes()), expected(RGB)),
    "gif of grey": (saved(image(GREY), "GIF"), expected(GREY)),
    "gif with a palette": (saved(paletted(), "GIF"), expected(PALETTE[FEW])),
    "gif with a clear colour": (
        saved(paletted(), "GIF", transparency=2),
        expected(PALETTE[FEW], 255 * (FEW != 2)),
    ),
    "gif with an animation": (gif((0, 0, FEW), (0, 0, FEW * 0)), expected(PALETTE[FEW])),
    "gif larger than its screen": (gif((0, 0, FEW), screen=(3, 3)), expected(PALETTE[FEW])),
    "webp": (saved(image(RGB), "WEBP", lossless=True), expected(RGB)),
    "webp with alpha": (saved(image(RGBA), "WEBP", lossless=True, exact=True), expected(RGB, ALPHA)),
    "webp with an animation": (saved(image(RGB), "WEBP", lossless=True, **TWO), expected(RGB)),
    "tiff of one bit": (saved(image(BITS), "TIFF"), expected(BITS * 255)),
    "tiff of one bit, group 4": (saved(image(BITS), "TIFF", compression="group4"), expected(BITS * 255)),
    "tiff of grey": (saved(image(GREY), "TIFF"), expected(GREY)),
    "tiff of grey with alpha": (saved(LA, "TIFF"), expected(GREY, ALPHA)),
    "tiff with a palette": (saved(paletted(), "TIFF"), expected(PALETTE[FEW])),
    "tiff of white zero": (tiff(GREY, {262: [0]}), expected(255 - GREY)),
    "tiff of colours": (saved(image(RGB), "TIFF"), expected(RGB)),
    "tiff of planes": (tiff(RGB, planes=True), expected(RGB)),
    "tiff of tiles": (tiff(np.pad(GREY, ((0, 8), (0, 0))), {257: [8], **TILED}), expected(GREY)),
    "tiff with alpha": (saved(image(RGBA), "TIFF"), expected(RGB, ALPHA)),
    "tiff with a fourth sample": (tiff(RGBA, {338: [0]}), expected(RGB)),
    "tiff, lzw": (saved(image(RGBA), "TIFF", compression="tiff_lzw"), expected(RGB, ALPHA)),
    "tiff, deflate": (saved(image(RGB), "TIFF", compression="tiff_adobe_deflate"), expected(RGB)),
    "tiff, packbits": (saved(image(GREY), "TIFF", compression="packbits"), expected(GREY)),
    "big tiff": (saved(image(RGB), "TIFF", big_tiff=True), expected(RGB)),
    "tiff of two pages": (saved(image(RGB), "TIFF", **TWO), expected(RGB)),
    "tiff of 12 bits": (
        tiff(np.full((8, 24), 0xAB, np.uint8), {256: [16]}, bits=12),
        expected(np.tile([0xAB, 0xBA], (8, 8))),
    ),
    "tiff of 16 bits grey": (tiff(WIDE_GREY), expected(WIDE_GREY >> 8)),
    "tiff of 16 bits grey, high byte first": (tiff(WIDE_GREY, order=">"), expected(WIDE_GREY >> 8)),
    "tiff of 16 bits, white zero": (tiff(WIDE_GREY, {262: [0]}), expected(65535 - WIDE_GREY >> 8)),
    "tiff of 16 bits, lzw": (
        saved(image(WIDE_GREY), "TIFF", compression="tiff_lzw"),
        expected(WIDE_GREY >> 8),
    ),
    "tiff of 16 bits colours": (tiff(WIDE[..., :3]), expected(HALVES)),
    "tiff of 16 bits colours, high byte first": (tiff(WIDE[..., :3], order=">"), expected(HALVES)),
    "tiff of 16 bits with alpha": (tiff(WIDE, {338: [2]}), expected(HALVES, WIDE[..., 3] >> 8)),
    "tiff of 16 bits in planes": (tiff(WIDE[..., :3], planes=True), expected(HALVES)),
}
ABOUT = {  # name: content, expected, how far from it
    "bmp of 16 bits": (
        bmp(16, PACKED[::-1].tobytes(), compression=3, masks=(0xF800, 0x7E0, 0x1F)),
        expected(OPENED),
        1,
    ),
    "tiff of weighted colours": (
        tiff(np.dstack([(RGB * (PARTLY / 255)).astype(np.uint8), PARTLY]), {338: [1]}),
        expected(RGB, PARTLY[..., 0]),
        1,
    ),
    "tiff of inks": (tiff(INK, {262: [5]}), expected(inked(INK)), 2),
    "tiff of lightness": (
        tiff(np.full((8, 16, 3), (128, 0, 0), np.uint8), {262: [8]}),
        expected(np.full((8, 16), grey_of_lightness(128 / 2.55))),
        2,
    ),
    "tiff, jpeg": (saved(image(SMOOTH), "TIFF", compression="jpeg"), expected(SMOOTH), 3),
    "jpeg of grey": (saved(image(SMOOTH[..., 0].copy()), "JPEG"), expected(SMOOTH[..., 0]), 2),
    "jpeg": (saved(image(SMOOTH), "JPEG"), expected(SMOOTH), 3),
    "jpeg, progressive": (saved(image(SMOOTH), "JPEG", progressive=True), expected(SMOOTH), 3),
    "jpeg of inks": (saved(ink_image(), "JPEG", quality=100), expected(inked(INK)), 3),
    "jpeg of inks as luma and chroma": (ycck(), expected(colours_of_ycck()), 4),
    "webp with loss": (saved(image(SMOOTH), "WEBP"), expected(SMOOTH), 4),
}
LINES = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16) * 2
COLOURED = np.stack([LINES, LINES[::-1], LINES[:, ::-1]], -1)
for kind in ("PNG", "TIFF", "WEBP"):
    more = {"lossless": True} if kind == "WEBP" else {}
    ABOUT[f"{kind}, linear"] = (
        saved(image(COLOURED), kind, icc_profile=LINEAR, **more),
        expected(srgb_of_linear(COLOURED)),
        1,
    )
    ABOUT[f"{kind}, linear, with alpha"] = (
        saved(image(np.dstack([COLOURED, ALPHA])), kind, icc_profile=LINEAR, **more),
        expected(srgb_of_linear(COLOURED), ALPHA),
        1,
    )
ABOUT |= {
    "jpeg, linear": (
        saved(image(SMOOTH), "JPEG", icc_profile=LINEAR),
        expected(srgb_of_linear(SMOOTH)),
        4,
    ),
    "png with other primaries": (
        saved(image(COLOURED), "PNG", icc_profile=TURNED),
        expected(srgb_of_linear(COLOURED[..., [2, 0, 1]])),
        1,
    ),
    "png of grey, linear": (
        saved(image(LINES), "PNG", icc_profile=GREY_LINEAR),
        expected(srgb_of_linear(LINES)),
        1,
    ),
    "png of grey and alpha, linear": (
        saved(Image.merge("LA", [image(LINES), image(ALPHA)]), "PNG", icc_profile=GREY_LINEAR),
        expected(srgb_of_linear(LINES), ALPHA),
        1,
    ),
    "png with a palette, linear": (
        saved(paletted(), "PNG", icc_profile=LINEAR),
        expected(srgb_of_linear(PALETTE)[FEW]),
        1,
    ),
    "png of 16 bits, linear": (
        saved(image(LINES.astype(np.uint16) << 8), "PNG", icc_profile=GREY_LINEAR),
        expected(srgb_of_linear(LINES)),
        1,
    ),
    "jpeg of inks with a profile": (
        saved(ink_image(), "JPEG", quality=100, icc_profile=BLACK_ONLY),
        expected(np.full((8, 16), grey_of_lightness(100 * (1 - INK[0, 0, 3] / 255)))),
        3,
    ),
}
ODD = {name: (*row, 0) for name, row in EXACT.items()} | ABOUT


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_read_as_it_was_meant(tmp_path, name):
    content, wanted, tolerance = ODD[name]
    (tmp_path / "a").write_bytes(content)
    found = Reading((8, 16), 4).read(tmp_path / "a")
    assert np.abs(found.astype(int) - wanted).max() <= tolerance
    flat = Reading((8, 16), 3, background="black").read(tmp_path / "a").astype(int)
    assert np.abs(flat - np.round(wanted[..., :3] * (wanted[..., 3:] / 255.0))).max() <= tolerance + 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_format_that_says_how_it_is_turned_is_turned(kind, orientation):
    exif, picture = (
        Image.Exif(),
        np.kron(np.array([[20, 90], [150, 230]], np.uint8), np.ones((16, 24), np.uint8)),
    )
    exif[0x0112] = orientation
    turned = picture[:: -1 if orientation in (3, 4, 6, 7) else 1, :: -1 if orientation in (2, 3, 7, 8) else 1]
    content = saved(image(picture), kind, exif=exif)
    found = np.asarray(decode(parse(content), 10_000).convert("L"))
    wanted = turned.T if orientation >= 5 else turned
    assert found.shape == wanted.shape and np.abs(found.astype(int) - wanted).max() < 6


REFUSED = {
    "floating-point": tiff(np.ones((8, 16), np.float32), {339: [3]}),
    "over 16 bits": tiff(np.ones((8, 16), np.uint32)),
    "signed": tiff(np.ones((8, 16), np.int16), {339: [2]}),
    "small copy": tiff(GREY, {254: [1]}),
    "raw data": tiff(GREY, {262: [32803]}),
    "damaged: 2 values": tiff(GREY, {256: [16, 16]}),
    "damaged: its tiles": tiff(GREY, {322: [1 << 16], 323: [1 << 16], 324: [8], 325: [128]}),
    "cut short": tiff(RGB)[:-9],
    "Pillow cannot decode it": tiff(GREY, {259: [65000]}),
    "no PNG, JPEG, WebP, BMP, TIFF or GIF": b"\0\0\0\x18ftypheic",
    "no image in it": gif(),
    "over 6 samples a pixel": tiff(np.ones((8, 16, 7), np.uint8)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_certain_pixels_is_refused_with_a_reason(reason):
    with pytest.raises(ValueError, match=reason):
        decode(parse(REFUSED[reason]), 10_000)


@pytest.mark.parametrize("cut", [20, 60, 100])
@pytest.mark.parametrize(
    "name", ["bmp of colours", "gif of grey", "tiff of colours", "tiff, lzw", "png", "webp"]
)
def test_what_is_cut_short_is_refused(name, cut):
    content = next(content for odd, (content, *_) in ODD.items() if odd.startswith(name))
    with pytest.raises(ValueError, match=r"cut short|Pillow cannot"):
        decode(parse(content[: len(content) * cut // 101]), 10_000)


def test_further_images_of_a_file_are_noticed():
    more = {name: parse(content).more for name, (content, *_) in ODD.items()}
    assert {name for name, what in more.items() if what == "animated"} == {
        "apng",
        "gif with an animation",
        "webp with an animation",
    }
    assert {name for name, what in more.items() if what == "of several pages"} == {"tiff of two pages"}


@pytest.mark.parametrize("pack", [True, False])
def test_that_the_first_picture_is_used_is_said_with_a_count(tmp_path, caplog, pack):
    for name in ("apng", "gif with an animation", "tiff of two pages", "png of colours", "bmp of grey"):
        (tmp_path / f"{name}.{name.split()[0][-4:]}").write_bytes(ODD[name][0])
    for _ in range(2):  # found, then remembered
        caplog.clear()
        registry.build("dataset", "image_folder", root=str(tmp_path), size=4, pack=pack)
        lines = [record.getMessage() for record in caplog.records if "first picture" in record.getMessage()]
        assert [line.partition("used: ")[2] for line in lines] == [
            "2 animated (apng.apng, gif with an animation.gif)",
            "1 of several pages (tiff of two pages.tiff)",
        ]


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HALF_A_PROFILE = LINEAR[: len(LINEAR) // 2]


@pytest.mark.parametrize("profile", [SRGB, b"no profile", HALF_A_PROFILE, GREY_LINEAR, BLACK_ONLY, b""])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_srgbs_own_profile_and_those_that_are_broken_change_nothing(kind, profile):
    more = {"lossless": True} if kind == "WEBP" else {}
    content = saved(image(RGB), kind, icc_profile=profile, **more)
    assert np.array_equal(decode(parse(content), 10_000), RGB)


def test_a_profile_is_read_once_and_shared_between_threads(monkeypatch):
    read, real = [], profiles._transform
    monkeypatch.setattr(profiles, "_transform", lambda *given: read.append(given) or real(*given))
    profiles._conversion.cache_clear()
    container = parse(saved(image(np.tile(COLOURED, (40, 20, 1))), "PNG", icc_profile=TURNED))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: np.asarray(decode(container, 1 << 20)), range(24)))
    assert len(read) <= 8 and all(np.array_equal(one, found[0]) for one in found)
    before = len(read)
    decode(container, 1 << 20)
    assert len(read) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "TIFF, lzw"])
def test_more_pixels_than_pillow_allows_are_read(tmp_path, kind):
    """One and a half times Pillow's limit, beyond which it warns; warnings are errors here."""
    wide = Image.linear_gradient("L").resize((14_000, 9_600))
    options = {"compression": "tiff_lzw"} if "," in kind else {}
    wide.save(tmp_path / "a", kind.split(",")[0], **options)
    reading = Reading((96, 140), 1, max_pixels=200_000_000)
    small = np.asarray(Image.linear_gradient("L").resize((140, 96)), int)
    assert np.abs(reading.read(tmp_path / "a")[..., 0] - small).max() <= 3
    with pytest.raises(ValueError, match="more than 100000000 pixels"):
        Reading((96, 140), 1).read(tmp_path / "a")


@pytest.mark.slow
def test_a_large_picture_with_alpha_and_a_profile_is_brought_to_size(tmp_path):
    colours = np.kron(COLOURED, np.ones((400, 300, 1), np.uint8))
    alpha = np.where(np.arange(4800) < 2400, 255, 0).astype(np.uint8)[None].repeat(3200, 0)
    image(np.dstack([colours, alpha])).save(tmp_path / "a.png", icc_profile=LINEAR, compress_level=1)
    found = Reading((8, 16), 4, "stretch").read(tmp_path / "a.png")[2:6, 1:7].astype(int)
    assert (
        np.abs(found[..., :3] - srgb_of_linear(COLOURED)[2:6, 1:7]).max() < 3 and found[..., 3].min() >= 253
    )
