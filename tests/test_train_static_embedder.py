"""The training script on a data folder of a few invented texts: what it reads, and that its model works."""

import gzip
import io
import json
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from kbqa.embedders.static import StaticEmbedder

SCRIPTS = Path(__file__).parents[1] / "scripts"

PAGE = """---
title: 备份
---
# 备份与恢复

介绍[备份](/br.md)的命令。

## 如何备份数据？

运行 `br backup full`。

```sql
# 这不是标题
SELECT 1;
```

### 恢复集群

运行 `br restore full`。
"""


@pytest.fixture
def script(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import train_static_embedder

    return train_static_embedder


def test_sections_know_their_headings_but_never_a_question(script):
    texts = list(script.sections(PAGE, asks=False))
    assert [text.heading for text in texts] == ["备份与恢复", "备份与恢复", "备份与恢复 > 恢复集群"]
    assert "介绍备份的命令。" in texts[0].body
    assert "# 这不是标题" in texts[1].body
    assert not any("如何备份" in text.heading + text.body for text in texts)
    assert {text.heading for text in script.sections(PAGE, asks=True)} == {""}


def test_no_question_of_the_manuals_question_set_is_read(script, testdata):
    questions = testdata / "data" / "retrieval" / "faq-tidb" / "queries.jsonl"
    asked = {json.loads(line)["text"] for line in questions.read_text(encoding="utf-8").splitlines()}
    headings = {part for text in script.read_texts(testdata / "data") for part in text.heading.split(" > ")}
    assert len(headings) > 1000
    assert not asked & headings


def write_data(folder: Path) -> None:
    subjects = ["年假", "报销", "服务器", "合同", "考勤", "培训", "采购", "招聘"]
    sentences = (
        "{0}须提前三天申请，由部门经理审批。{0}的记录保存五年，第{1}号文件为准。每年统计一次{0}，结果在内网公布。"
    )
    news = [sentences.format(subjects[at % 8], at) * 2 for at in range(160)]
    (folder / "text").mkdir(parents=True)
    with gzip.open(folder / "text" / "news-train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(news))
    (folder / "enterprise").mkdir()
    with tarfile.open(folder / "enterprise" / "tidb-docs-cn.tar.gz", "w:gz") as archive:
        for at in range(40):
            page = (PAGE.replace("备份", subjects[at % 8]) + news[at]).encode()
            member = tarfile.TarInfo(f"docs/page{at}.md")
            member.size = len(page)
            archive.addfile(member, io.BytesIO(page))


def test_a_miniature_is_trained_in_seconds_and_its_loss_falls(script, tmp_path):
    write_data(tmp_path / "data")
    out = tmp_path / "model.npz"
    command = [sys.executable, str(SCRIPTS / "train_static_embedder.py"), "--data", str(tmp_path / "data")]
    command += ["--out", str(out), "--steps", "200", "--rows", "200", "--buckets", "256", "--dim", "32"]
    command += ["--batch", "64", "--clusters", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    losses = [float(line.split("loss ")[1].split()[0]) for line in done.stdout.splitlines() if line.startswith("step ")]
    assert losses[-1] < losses[0]
    assert sha256(out.read_bytes()).hexdigest() in done.stdout
    embedder = StaticEmbedder(out)
    passages = embedder.embed_passages(["采购须提前三天申请", "合同的记录保存五年"])
    assert embedder.dim == 32
    assert np.argmax(passages @ embedder.embed_query("合同保存多久")) == 1
