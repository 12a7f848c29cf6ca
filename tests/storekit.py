"""What the tests of the store share: small documents of real Chinese, vectors made from the text, low limits.

Run as a program (`python storekit.py FOLDER STEPS...`) it is the other process: it writes, says on stdout what was
acknowledged, and dies where it is told to.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import numpy as np

from kbqa.store import FileStat, Limits, Passport, Store, text_digest
from kbqa.types import Block, Chunk, Document

DIM = 24
PASSPORT = Passport("测试", "fingerprint-1", DIM, "splitter-1", "1")
LOW = Limits(words_tail=12, seal_at=10, fan_out=3, fast_scan=2000, dead_share=0.2)

LAWS = """劳动者连续工作一年以上的，享受带薪年休假。具体办法由国务院规定。
用人单位应当按照合同约定的内容为劳动者安排年休假，跨年度安排的应当书面说明。
差旅费按照出差地区分档报销，住宿费凭发票在限额以内据实报销。
采购金额超过五十万元的项目应当公开招标，评标委员会由五人以上单数组成。
服务器机房的温度应当保持在十八至二十七摄氏度，湿度保持在百分之四十至六十。
数据库每天凌晨两点进行全量备份，备份文件保留九十天后自动清理。
员工离职应当提前三十日以书面形式通知用人单位，并办理工作交接。
新员工试用期不得超过六个月，同一用人单位与同一劳动者只能约定一次试用期。
项目经理负责项目进度、质量与成本，每周五提交项目周报。
会议室预订请使用 KB-2024-001 系统，未预订者不得占用。""".splitlines()


def vector(text: str, dim: int = DIM) -> np.ndarray:
    """(dim,) unit length, the same for the same text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    made = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return made / np.linalg.norm(made)


def texts(source: str, count: int = 3) -> list[str]:
    """Paragraphs that only this source has, each with a number of its own to search for."""
    mark = int.from_bytes(hashlib.sha256(source.encode("utf-8", "surrogatepass")).digest()[:4], "little")
    return [f"{LAWS[(mark + at) % len(LAWS)]}编号{mark}{at:03}" for at in range(count)]


def number(source: str, at: int = 0) -> str:
    """The number in `texts(source)[at]`, a word that no other passage has."""
    return texts(source, at + 1)[at].rsplit("编号", 1)[1]


def document(source: str, paragraphs: list[str]) -> Document:
    digest = hashlib.sha256("\n".join(paragraphs).encode()).hexdigest()
    return Document(source, f"《{source}》", tuple(Block("text", text) for text in paragraphs), digest, "text")


def chunks(made: Document) -> list[Chunk]:
    cut, at = [], 0
    for ordinal, block in enumerate(made.blocks):
        cut.append(
            Chunk(made.source, ordinal, block.text, (at, at + len(block.text)), title=made.title, heading="第一章")
        )
        at += len(block.text) + 2
    return cut


def stat(made: Document) -> FileStat:
    return FileStat(made.digest, 100, 1_700_000_000_000_000_000)


def put(writer, source: str, paragraphs: list[str] | None = None, origin: str = "folder", dim: int = DIM) -> Document:
    made = document(source, texts(source) if paragraphs is None else paragraphs)
    cut = chunks(made)
    by_digest = {text_digest(chunk.text): chunk.text for chunk in cut}
    given = {digest: vector(by_digest[digest], dim) for digest in writer.missing(by_digest)}
    writer.put(made, cut, [text_digest(chunk.text) for chunk in cut], given, stat(made), origin)
    return made


def acknowledge(source: str) -> None:
    print(source, flush=True)


def die_at_sync(count: int) -> None:
    """From now on the `count`-th time that something is brought to disk kills this process."""
    import kbqa.store.files as files

    really, left = os.fsync, [count]

    def fsync(handle: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        really(handle)

    files.os.fsync = fsync


def main(folder: Path, steps: list[str]) -> None:
    if "die" in steps:
        die_at_sync(int(steps[steps.index("die") + 1]))
    match steps[0]:
        case "write":  # COUNT: documents until killed or done
            with Store.open(folder, LOW) as store, store.write() as writer:
                for at in range(int(steps[1])):
                    put(writer, f"第{at}份.md")
                    acknowledge(f"第{at}份.md")
        case "churn":  # replaces the same few documents again and again
            with Store.open(folder, LOW) as store, store.write() as writer:
                for at in range(int(steps[1])):
                    put(writer, f"第{at % 7}份.md", [*texts(f"第{at % 7}份.md"), f"第{at}版"])
                    acknowledge(f"第{at % 7}份.md")
        case "rebuild":
            with Store.rebuild(folder, PASSPORT, LOW) as writer:
                for at in range(int(steps[1])):
                    put(writer, f"新{at}.md")
                acknowledge("built")
            acknowledge("switched")
        case "hold":  # the lock, until stdin closes
            with Store.open(folder, LOW) as store, store.write() as writer:
                acknowledge("held")
                for line in sys.stdin:
                    put(writer, line.strip())
                    acknowledge(line.strip())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
