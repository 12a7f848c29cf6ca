"""How fast does kbqa take documents in, and how does that grow?

    python scripts/bench_ingest.py                         # a generated manual of 1,200 Markdown files
    python scripts/bench_ingest.py --folder path/to/docs   # your own
    python scripts/bench_ingest.py --scale 10k,100k        # corpora of so many chunks, made of small files

Where KBQA_TESTDATA names the data sets, the manual is a real one (1,201 files). Every figure is of a fresh process,
start-up included, and the median of --runs. Memory is the largest sum over all processes of a run. `--naive` adds
the LangChain program of naive_rag.py on a subset of the files, in turn with kbqa on the same subset.

Needs psutil (pip install 'kbqa[dev]').
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
QUESTION = "如何备份集群数据？"
CHUNKS_PER_FILE = 3.4  # of the small files that --scale makes
YESTERDAY = 86_400  # files seem to be so old, in seconds, as in a folder that was not written just now


@dataclass(frozen=True)
class Run:
    """One finished process and its children: wall time, processor time, peak of their memory; what it printed."""

    seconds: float
    cpu: float  # seconds of all cores together: hardly changes when others use the machine too (0 on Windows)
    megabytes: float
    lines: list[str]


def run(*command: str | Path) -> Run:
    """Run a Python program; it must succeed."""
    start, cpu = time.perf_counter(), _cpu_of_children()
    program = [sys.executable, *map(str, command)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode not in (0, 3):  # 3: some files failed, the rest went in
        raise SystemExit(f"{' '.join(map(str, command))} ended with exit code {process.returncode}")
    return Run(seconds, _cpu_of_children() - cpu, peak[0] / 2**20, output.splitlines())


def _cpu_of_children() -> float:
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in [root, *root.children(recursive=True)]:
                total += member.memory_info().rss
        except psutil.Error:  # it ended in the meantime
            continue
        peak[0] = max(peak[0], total)
        time.sleep(0.05)


# --- corpora ---------------------------------------------------------------------------------------------------------

WORDS = (
    "数据 集群 节点 配置 版本 升级 备份 恢复 事务 索引 查询 优化 存储 副本 分区 监控 告警 日志 权限 用户 部署 "
    "扩容 缩容 参数 内存 磁盘 网络 延迟 吞吐 缓存 快照 同步 异步 导入 导出 校验 一致性 可用性 员工 部门 审批 "
    "流程 报销 差旅 住宿 交通 补贴 发票 财务 预算 采购 供应商 合同 条款 付款 验收 质量 检验 仓库 库存 物流 "
    "客户 投诉 服务 热线 保修 维修 更换 退货 产品 型号 规格 电压 温度 安装 调试 说明书 手册 培训 考试 证书 "
    "年假 病假 加班 考勤 薪资 绩效 晋升 招聘 离职 社保 公积金 医疗 保险 安全 消防 应急 演练 口令 账号 登录 "
    "加密 审计 漏洞 补丁 防火墙 网关 路由 接口 协议 端口 证明 申请 提交 批准 驳回 通知 公告 会议 纪要 计划 "
    "项目 进度 风险 成本 里程碑 交付 测试 上线 回滚 需求 设计 开发 文档 评审 指标 报表 统计 分析 趋势 同比 "
    "环比 增长 下降 收入 利润 市场 渠道 区域 华东 西南"
).split()
LINKS = "的 和 在 对 与 按 由 应当 可以 不得 必须 之后 之前 以及 如果 则 每年 每月 三个工作日内".split()
PREFIXES = "max min raft sync region snapshot".split()


def make_corpus(folder: Path, files: int, seed: int = 11) -> None:
    """`files` small Markdown files of invented Chinese: headings, paragraphs, now and then a table."""
    chance = random.Random(seed)

    def clause() -> str:
        return "".join(chance.choice(WORDS) + chance.choice(LINKS) for _ in range(3)) + chance.choice(WORDS)

    def name() -> str:
        return f"{chance.choice(PREFIXES)}_{chance.choice(('size', 'age', 'limit'))}_{chance.randrange(9999)}"

    for number in range(files):
        parts = [f"# {chance.choice(WORDS)}{chance.choice(WORDS)}说明 {number}"]
        for section in range(chance.randint(1, 4)):
            parts.append(f"## {section + 1} {chance.choice(WORDS)}{chance.choice(WORDS)}")
            for _ in range(chance.randint(1, 3)):
                sentences = [f"{clause()}，{clause()} {chance.randint(1, 9999)}。" for _ in range(5)]
                parts.append("".join(sentences))
            if chance.random() < 0.2:
                rows = [f"| {name()} | {chance.randint(1, 999)} |" for _ in range(6)]
                parts.append("\n".join(["| 参数 | 默认值 |", "|---|---|", *rows]))
        path = folder / f"{number // 1000:03}" / f"{number:06}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _age(folder)


def _age(folder: Path) -> None:
    then = time.time() - YESTERDAY
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


@contextmanager
def the_corpus(given: Path | None) -> Iterator[tuple[str, Path]]:
    """(what it is, folder): the one given, or the manual of the data sets, or a generated one."""
    if given is not None:
        yield given.name, given
        return
    testdata = os.environ.get("KBQA_TESTDATA")
    archive = Path(testdata, "data/enterprise/tidb-docs-cn.tar.gz") if testdata else None
    with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
        if archive is not None and archive.is_file():
            with tarfile.open(archive) as packed:
                packed.extractall(scratch, filter="data")
            yield "the TiDB manual (pingcap/docs-cn)", Path(scratch)
        else:
            make_corpus(Path(scratch), 1200)
            yield "a generated manual", Path(scratch)


def subset(folder: Path, count: int, target: Path) -> None:
    """Copy `count` Markdown files, evenly spread over the folder, to `target`."""
    files = sorted(folder.rglob("*.md"))
    for number in range(min(count, len(files))):
        source = files[number * len(files) // min(count, len(files))]
        copy = target / source.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy)


# --- kbqa ------------------------------------------------------------------------------------------------------------


class Base:
    """A home folder with one base, driven through the command line."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.documents = home / "knowledge" / "default"

    def kbqa(self, *arguments: str) -> Run:
        return run("-m", "kbqa", *arguments, "--home", self.home, "--json")

    def ingest(self) -> tuple[Run, dict[str, float]]:
        done = self.kbqa("ingest")
        summary: dict[str, float] = json.loads(done.lines[-1])["summary"]
        return done, summary

    @property
    def disk(self) -> float:
        """Megabytes below vectorstore/."""
        return sum(path.stat().st_size for path in (self.home / "vectorstore").rglob("*") if path.is_file()) / 1e6

    def forget(self) -> None:
        shutil.rmtree(self.home / "vectorstore", ignore_errors=True)

    def change_one(self) -> None:
        path = min(self.documents.rglob("*.md"))
        changed = f"{path.read_text(encoding='utf-8')}\n又加了一句话，编号 {time.time_ns()}。\n"
        path.write_text(changed, encoding="utf-8")


def size(folder: Path) -> tuple[int, float]:
    """(files, megabytes)"""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes) / 1e6


@dataclass(frozen=True)
class Measured:
    """Medians of several rounds of: take all in, do it again, change one file and do it again, ask."""

    cold: Run
    again: Run
    changed: Run
    asked: Run
    summary: dict[str, float]  # of a cold run, as `kbqa ingest --json` prints it
    disk: float


def measure(base: Base, runs: int) -> Measured:
    rounds: list[tuple[Run, Run, Run, Run]] = []
    for _ in range(runs):
        base.forget()
        cold, summary = base.ingest()
        again, _ = base.ingest()
        base.change_one()
        changed, _ = base.ingest()
        rounds.append((cold, again, changed, base.kbqa("ask", QUESTION)))
    cold, again, changed, asked = (middle(steps) for steps in zip(*rounds, strict=True))
    return Measured(cold, again, changed, asked, summary, base.disk)


def middle(done: Sequence[Run]) -> Run:
    """The medians of several runs, and what the last one printed."""
    seconds, cpu, megabytes = (
        statistics.median(figures)
        for figures in zip(*((one.seconds, one.cpu, one.megabytes) for one in done), strict=True)
    )
    return Run(seconds, cpu, megabytes, done[-1].lines)


# --- reports ---------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a Markdown table; the first is the header."""
    header, *body = rows
    for row in (header, ["---"] * len(header), *body):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def report_corpus(name: str, folder: Path, runs: int) -> None:
    files, megabytes = size(folder)
    with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
        base = Base(Path(scratch))
        shutil.copytree(folder, base.documents)
        found = measure(base, runs)
    seconds, summary = found.cold.seconds, found.summary
    print(f"### kbqa on {name}: {files:,} files, {megabytes:.1f} MB; median of {runs}\n")
    print(
        f"{summary['added']:,} files taken in, {summary['failed']} failed, {summary['skipped']} skipped; "
        f"{summary['chunks']:,} chunks, {found.disk:.1f} MB on disk\n"
    )
    rates = [f"{summary['added'] / seconds:.0f}", f"{megabytes / seconds:.2f}"]
    steps = [("ingest, nothing changed", found.again), ("ingest, one file changed", found.changed)]
    rows = [["step", "seconds", "cpu s", "peak MB", "files/s", "MB/s"]]
    for step, done in (("ingest, cold", found.cold), *steps, (f"ask {QUESTION}", found.asked)):
        rows.append([step, f"{done.seconds:.2f}", f"{done.cpu:.1f}", f"{done.megabytes:.0f}", *rates])
        rates = ["", ""]
    table(rows)


def report_naive(name: str, folder: Path, count: int, runs: int) -> None:
    """kbqa and the LangChain program on the same files, in turn."""
    naive = HERE / "naive_rag.py"
    rounds: list[tuple[Run, Run, Run, Run]] = []
    with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
        base, index = Base(Path(scratch, "home")), Path(scratch, "index")
        subset(folder, count, base.documents)
        files, megabytes = size(base.documents)
        for _ in range(runs):
            base.forget()
            ours, _ = base.ingest()
            theirs = run(naive, "ingest", base.documents, index)
            rounds.append((ours, theirs, base.kbqa("ask", QUESTION), run(naive, "query", index, QUESTION)))
    ours, theirs, asked, queried = (middle(steps) for steps in zip(*rounds, strict=True))
    print(f"### beside the naive program: {files:,} files of {name}, {megabytes:.2f} MB; median of {runs}\n")
    rows = [["", "kbqa", "naive", "naive / kbqa"]]
    for step, mine, other in (("ingest", ours, theirs), ("one question, cold", asked, queried)):
        for unit in ("seconds", "cpu", "megabytes"):
            a, b = getattr(mine, unit), getattr(other, unit)
            rows.append([f"{step}, {unit}", f"{a:.1f}", f"{b:.1f}", f"{b / a:.1f}"])
    rows.append(["files/s", f"{files / ours.seconds:.1f}", f"{files / theirs.seconds:.2f}", ""])
    table(rows)
    print(f"The naive program's own figures: {theirs.lines[-1]}\n", flush=True)


def report_scale(targets: Sequence[int], runs: int) -> None:
    """Corpora of growing size, so that what grows faster than the corpus shows."""
    rows = ["chunks,files,MB,cold s,cpu s,chunks/s,peak MB,disk MB,unchanged s,one changed s,ask s,ask MB".split(",")]
    for target in targets:
        with tempfile.TemporaryDirectory(prefix="kbqa-bench-") as scratch:
            base = Base(Path(scratch))
            make_corpus(base.documents, max(1, round(target / CHUNKS_PER_FILE)))
            files, megabytes = size(base.documents)
            found = measure(base, runs)
        chunks = found.summary["chunks"]
        row = [f"{chunks:,}", f"{files:,}", f"{megabytes:.1f}", f"{found.cold.seconds:.1f}", f"{found.cold.cpu:.1f}"]
        row += [f"{chunks / found.cold.seconds:.0f}", f"{found.cold.megabytes:.0f}", f"{found.disk:.0f}"]
        row += [f"{done.seconds:.2f}" for done in (found.again, found.changed, found.asked)]
        rows.append([*row, f"{found.asked.megabytes:.0f}"])
    print(f"### how it grows, generated small files; median of {runs}\n")
    table(rows)


def count(text: str) -> int:
    """`10k` -> 10000, `1m` -> 1000000"""
    factor = {"k": 1000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    return int(float(text.rstrip("kKmM")) * factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="the documents to take in")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--naive", type=int, nargs="?", const=150, default=0, metavar="FILES", help="files for both")
    parser.add_argument("--scale", type=lambda text: [count(part) for part in text.split(",")], metavar="10k,100k")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    if given.scale:
        report_scale(given.scale, given.runs)
        return
    with the_corpus(given.folder) as (name, folder):
        report_corpus(name, folder, given.runs)
        if given.naive:
            report_naive(name, folder, given.naive, given.runs)


if __name__ == "__main__":
    main()
