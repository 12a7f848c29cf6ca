"""Text recognition: pictures, and pages of PDFs that are pictures.

RapidOCR with the models that its wheel carries; nothing is fetched, for the paths of the models are given to it.
A page takes seconds, so the engine is made once per process. How many threads it takes is the process's business:
the environment variable KBQA_OCR_THREADS, which the sandbox sets for its workers; all cores without it.
"""

from __future__ import annotations

import io
import os
import warnings
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions
from kbqa.readers.glyphs import Segment, Table
from kbqa.readers.layout import arrange
from kbqa.readers.paragraphs import Paragraph
from kbqa.readers.progress import advance
from kbqa.readers.structure import Page, blocks_of
from kbqa.types import Block

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["NEEDS_OCR", "can_ocr", "ocr", "read_image"]

NEEDS_OCR = "pip install 'kbqa[ocr]'"

_MAX_PIXELS = 180_000_000  # an A0 sheet at 300 dpi has 140 million
_MAX_SIDE = 4000  # longer sides are scaled down before recognition
_MAX_FRAMES = 500  # pages of a TIFF
_FLAT = 6  # times as wide as high: such strips are padded, the detector overlooks them
_LINE_TO_TYPE = 0.72  # of a detected box's height: the detector draws its boxes larger than the type
_UNEVEN = 0.22  # of the usual height: by so much lines of one size of type differ
_MARGIN = 24  # pixels around a padded picture


def can_ocr() -> bool:
    return find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None


def read_image(data: bytes, options: ReadOptions) -> Content:
    """The text in a picture; every page of a TIFF. Raises DocumentError: needs-ocr, bomb, corrupt, empty."""
    if not options.ocr:
        raise DocumentError("is a picture, and text recognition is switched off", kind="needs-ocr")
    if not can_ocr():
        raise DocumentError(f"is a picture; to recognise its text: {NEEDS_OCR}", kind="needs-ocr")
    blocks: list[Block] = []
    frames = _frames(data)
    for number, picture in enumerate(frames, 1):
        advance(number, len(frames))
        page = Page(number, _items(picture), scanned=True)
        blocks += blocks_of([page])
    if not blocks:
        raise DocumentError("no text was recognised in the picture", kind="empty")
    return Content(blocks=tuple(blocks), pages=len(frames))


def _items(picture: Image) -> list[Paragraph | Table]:
    return arrange(ocr(picture))


def _frames(data: bytes) -> list[Image]:
    """The pages of the file as upright pictures without transparency."""
    from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked right below, with our own limit
            picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > _MAX_PIXELS:
            raise DocumentError(f"{picture.width} x {picture.height} pixels are too many", kind="bomb")
        if picture.format == "JPEG":
            picture.draft("RGB", (_MAX_SIDE, _MAX_SIDE))
        if picture.format != "TIFF":
            return [_shrunk(_opaque(ImageOps.exif_transpose(picture)))]
        frames: list[Image.Image] = []
        for frame in ImageSequence.Iterator(picture):
            if len(frames) == _MAX_FRAMES or frame.width * frame.height > _MAX_PIXELS:
                raise DocumentError("the picture has too many pages or pixels", kind="bomb")
            frames.append(_shrunk(_opaque(ImageOps.exif_transpose(frame))))
        return frames
    except Image.DecompressionBombError as error:
        raise DocumentError(f"the picture is too large: {error}", kind="bomb") from error
    except UnidentifiedImageError as error:
        raise DocumentError("is damaged or in no picture format that kbqa reads", kind="corrupt") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for damaged files
        raise DocumentError(f"the picture is damaged: {error}", kind="corrupt") from error


def _opaque(picture: Image) -> Image:
    """RGB, on white where the picture is transparent; white type on nothing is put on black."""
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    alpha = picture.getchannel("A")
    # The mean colour of what can be seen, weighted by how much of it can be seen.
    light = picture.convert("L").resize((64, 64))
    weight = alpha.resize((64, 64))
    seen = sum(weight.tobytes()) or 1
    mean = sum(value * share for value, share in zip(light.tobytes(), weight.tobytes(), strict=True)) / seen
    ground = Image.new("RGB", picture.size, "black" if mean > 200 else "white")
    ground.paste(picture, mask=alpha)
    return ground


def _shrunk(picture: Image) -> Image:
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return picture


def ocr(picture: Image, scale: float = 1.0) -> list[Segment]:
    """The lines of text in `picture` (RGB) where they stand, coordinates divided by `scale`.

    `size` is the estimated size of the type; lines of about the usual size all get the usual one, because the
    detected heights depend on which letters a line happens to have.
    """
    import numpy as np

    pixels, dx, dy = _padded(np.asarray(picture)[:, :, ::-1])  # the engine wants blue first
    try:
        found = _engine(_threads())(np.ascontiguousarray(pixels))
    except DocumentError:
        raise
    except Exception as error:
        if "alloc" in str(error):
            raise MemoryError from error
        reason = str(error).strip().rsplit("\n", 1)[-1][:200]
        raise DocumentError(f"text recognition failed: {reason}", kind="unreadable") from error
    if found.boxes is None or not found.txts:
        return []
    lines = []
    for order, (box, text) in enumerate(zip(found.boxes, found.txts, strict=True)):
        x0, y0 = (float(value) for value in box.min(axis=0))
        x1, y1 = (float(value) for value in box.max(axis=0))
        size = min(x1 - x0, y1 - y0) * _LINE_TO_TYPE / scale
        lines.append(
            Segment(text, (x0 - dx) / scale, (y0 - dy) / scale, (x1 - dx) / scale, (y1 - dy) / scale, size, order=order)
        )
    usual = median(line.size for line in lines)
    return [_resized(line, usual) if abs(line.size - usual) < _UNEVEN * usual else line for line in lines]


def _resized(line: Segment, size: float) -> Segment:
    return Segment(line.text, line.x0, line.top, line.x1, line.bottom, size, order=line.order)


def _padded(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int, int]:
    """`pixels` (height, width, 3) with a margin if very flat or small, and how far that moved them right and down."""
    import numpy as np

    height, width = pixels.shape[:2]
    if width <= _FLAT * height and min(width, height) > 64:
        return pixels, 0, 0
    corner = np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
    dy = max(_MARGIN, (width // _FLAT - height) // 2)
    padded = np.empty((height + 2 * dy, width + 2 * _MARGIN, 3), dtype=np.uint8)
    padded[:] = corner
    padded[dy : dy + height, _MARGIN : _MARGIN + width] = pixels
    return padded, _MARGIN, dy


def _threads() -> int:
    given = os.environ.get("KBQA_OCR_THREADS", "")
    return max(1, int(given) if given.isdecimal() else os.cpu_count() or 1)


@lru_cache(maxsize=1)
def _engine(threads: int) -> Any:
    """The recogniser, with the models that lie in its package: given none, it would look for them on the network."""
    import rapidocr

    models = Path(rapidocr.__file__).parent / "models"
    params: dict[str, Any] = {
        "Global.log_level": "critical",
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    for task in ("det", "cls", "rec"):
        found = sorted(models.glob(f"*_{task}_*.onnx"))
        if not found:
            raise DocumentError(
                f"the installed rapidocr lacks its {task} model: pip install --force-reinstall rapidocr",
                "missing-extra",
            )
        params[f"{task.capitalize()}.model_path"] = str(found[0])
    return rapidocr.RapidOCR(params=params)
