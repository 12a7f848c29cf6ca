"""Write kbqa/data/traditional.txt: one line a character pair, traditional then simplified.

The pairs come from OpenCC (Apache-2.0, `pip install opencc`), configuration t2s, for every single Chinese character
that it maps to one other character. Run it again when OpenCC's tables have changed.
"""

from __future__ import annotations

from pathlib import Path

import opencc

RANGES = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x2A6E0))
TARGET = Path(__file__).parents[1] / "kbqa" / "data" / "traditional.txt"


def main() -> None:
    characters = [chr(code) for first, end in RANGES for code in range(first, end)]
    simplified = opencc.OpenCC("t2s").convert("\n".join(characters)).split("\n")
    pairs = [a + b for a, b in zip(characters, simplified, strict=True) if a != b and len(b) == 1]
    TARGET.write_text("\n".join(pairs) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(pairs)} characters, OpenCC {opencc.__version__}")


if __name__ == "__main__":
    main()
