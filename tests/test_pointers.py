import pytest

from kbqa.pointers import label_of, pointers, spellings
from kbqa.types import Chunk


def table(heading, text="级别 | 元\n一级 | 800"):
    return Chunk("办法.md", 0, text, (0, len(text)), heading=heading)


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("标准见附表 2。", "附表2"),
        ("参数见表2-3。", "表2-3"),
        ("参数见表3.2。", "表3.2"),
        ("参数见表 2－3。", "表2-3"),
        ("限额见附表一。", "附表1"),
        ("限额见附表十二。", "附表12"),
        ("清单见《附件3》。", "附件3"),
        ("结果如表3所示。", "表3"),
        ("按直径查表2。", "表2"),
        ("方法见附录A。", "附录a"),
        ("方法见附录A.1。", "附录a.1"),
        ("详见表３。", "表3"),
    ],
)
def test_a_sentence_points_at_the_table_with_this_label(sentence, label):
    assert pointers(sentence) == {label: sentence}


@pytest.mark.parametrize(
    "sentence",
    ["详见附件。", "见下表。", "见表一览。", "填写意见表1份。", "附检查表2份。", "附表1列出城市。", "见表2-", ""],
)
def test_other_sentences_point_nowhere_or_at_the_whole_label(sentence):
    assert set(pointers(sentence)) <= {"表2"}


@pytest.mark.parametrize(
    ("heading", "label"),
    [
        ("附则 > 附表一 限额", "附表1"),
        ("附表 1", "附表1"),
        ("表2-3 尺寸", "表2-3"),
        ("表3.2", "表3.2"),
        ("《附件3》", "附件3"),
        ("附件", ""),
        ("表彰", ""),
    ],
)
def test_a_table_bears_the_label_of_its_heading(heading, label):
    assert label_of(table(heading)) == label


def test_a_table_bears_the_label_of_the_line_above_it_and_not_of_a_cell():
    assert label_of(table("费用", "表2-3 尺寸\n级别 | 元\n一级 | 800")) == "表2-3"
    assert label_of(table("目录", "名称 | 页\n表3 | 12")) == ""
    assert label_of(table("附表一", "没有表格。")) == ""


@pytest.mark.parametrize(
    ("label", "written"),
    [("附表1", "附表一"), ("附表12", "附表 十二"), ("表20", "表二十"), ("附录a.1", "附录A.1"), ("表2-3", "表2－3")],
)
def test_a_label_is_looked_for_as_documents_write_it(label, written):
    assert {label, written} <= set(spellings(label))
