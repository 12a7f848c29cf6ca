"""vectorstore/kbqa.sqlite: what many threads and processes look at, on a file that may be damaged or gone."""

import os
import re
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from kbqa.errors import ConfigError, KnowledgeBaseBusy, RegistryError, UnknownConversation, UnknownFeedback, UnknownJob
from kbqa.registry import (
    FILE,
    Conversation,
    Conversations,
    Database,
    Feedback,
    FeedbackLog,
    JobFile,
    Jobs,
    KeyRing,
    Progress,
    Round,
    Stops,
    expiry,
)
from kbqa.registry.database import MIGRATIONS
from kbqa.registry.keys import digest

NOW = time.mktime((2026, 11, 21, 12, 0, 0, 0, 0, -1))
DAY = 86_400


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectorstore" / FILE


@pytest.fixture
def database(path):
    made = Database(path)
    yield made
    made.close()


@pytest.fixture
def ring(database):
    return KeyRing(database)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_found_by_its_secret_and_the_file_does_not_hold_it(ring, path):
    made = ring.add("人事系统", "write", ["制度", "default"])
    assert re.fullmatch(r"kbqa_[\w-]{43}", made.secret)
    found = ring.by_digest()[digest(made.secret)]
    assert (found, found.bases, found.hint) == (made.key, {"制度", "default"}, made.secret[-4:])
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert made.secret.encode() not in stored
    assert made.secret.removeprefix("kbqa_").encode() not in stored


def test_no_two_keys_are_alike(ring):
    assert len({ring.add(f"k{number}").secret for number in range(20)}) == 20


def test_a_key_without_bases_opens_all(ring):
    assert ring.add("page").key.bases is None
    assert ring.all()[0].bases is None


def test_a_name_is_given_once_and_free_again_when_revoked(ring):
    first = ring.add("app")
    with pytest.raises(ConfigError, match=r"there is a key app already.*kbqa key revoke app"):
        ring.add("app")
    assert ring.revoke("app") == first.key
    assert ring.by_digest() == {}
    assert ring.add("app").secret != first.secret


def test_revoking_a_key_that_is_not_there_names_those_that_are(ring):
    with pytest.raises(ConfigError, match=r"there is no key nobody \(there are: none yet\)"):
        ring.revoke("nobody")
    ring.add("b")
    ring.add("a")
    with pytest.raises(ConfigError, match=r"\(there are: a, b\)"):
        ring.revoke("nobody")


@pytest.mark.parametrize("name", ["", "  ", " app", "a\nb", "\x1b[31m", "长" * 81])
def test_a_name_that_would_not_show_in_a_log_is_refused(ring, name):
    with pytest.raises(ConfigError, match="cannot name a key"):
        ring.add(name)
    assert ring.all() == []


def test_a_base_that_cannot_be_one_is_refused(ring):
    with pytest.raises(ConfigError, match="cannot name a knowledge base"):
        ring.add("app", bases=["../etc"])
    with pytest.raises(ConfigError, match="would open no base"):
        ring.add("app", bases=[])


def test_a_key_expires_at_its_time(ring):
    key = ring.add("guest", expires_at=time.time() + 60).key
    assert not key.expired(key.expires_at - 1)
    assert key.expired(key.expires_at)
    with pytest.raises(ConfigError, match="expired already"):
        ring.add("late", expires_at=time.time() - 1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * DAY), ("12h", DAY / 2), (" 1d ", DAY), ("2026-11-21", DAY / 2)]
)
def test_an_expiry_is_a_span_or_the_end_of_a_day(text, seconds):
    assert expiry(text, NOW) == NOW + seconds


@pytest.mark.parametrize("text", ["", "soon", "30", "-1d", "2026-02-30", "2026/01/01", "1000000d"])
def test_an_expiry_that_is_no_time_says_how_to_write_one(text):
    with pytest.raises(ConfigError, match="write 30d, 12h or a date"):
        expiry(text, NOW)


# --- the file --------------------------------------------------------------------------------------------------------


def test_reading_makes_no_file(ring, path):
    assert ring.all() == []
    assert not path.parent.exists()


def test_a_key_that_another_process_adds_or_revokes_is_seen_at_once(ring, path):
    ring.add("here")
    code = (
        "import sys; from pathlib import Path; from kbqa.registry import *\n"
        "ring = KeyRing(Database(Path(sys.argv[1]))); ring.add('there'); ring.revoke('here')"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert [key.name for key in ring.all()] == ["there"]


def test_many_threads_may_make_the_file_and_write_to_it(path):
    def add(number):
        database = Database(path)  # each with connections of its own, as processes have
        KeyRing(database).add(f"k{number}")
        database.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    database = Database(path)
    assert len(KeyRing(database).all()) == 24
    database.close()


def test_a_file_that_was_moved_away_and_made_anew_is_noticed(ring, path):
    ring.add("old")
    assert ring.all()
    for file in list(path.parent.iterdir()):
        file.unlink()
    assert ring.all() == []
    other = Database(path)
    KeyRing(other).add("new")
    other.close()
    assert [key.name for key in ring.all()] == ["new"]


def test_a_block_that_fails_leaves_nothing_behind(database):
    def begin_and_fail():
        with database.writing() as connection:
            connection.execute("INSERT INTO keys VALUES ('a', 'd', 'h', 'read', NULL, 0, NULL)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin_and_fail()
    assert KeyRing(database).all() == []


def test_a_damaged_file_is_said_to_be_damaged(ring, path):
    path.parent.mkdir()
    path.write_bytes(b"no database at all " * 500)
    with pytest.raises(RegistryError, match=f"{FILE} is damaged .*put a copy of it back"):
        ring.all()


def test_damage_that_no_question_meets_is_found_by_looking_at_the_whole_file(database, path):
    log = FeedbackLog(database)
    for number in range(40):
        log.add(Feedback("制度", "人事", "up", f"年假有几天？{number}", "十天。" * 200))
    database.check()
    database.close()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 3 * 4096)
        file.write(b"\xff" * 4096)
    damaged = Database(path)
    assert KeyRing(damaged).all() == []
    with pytest.raises(RegistryError, match=f"{FILE} is damaged .*; stop kbqa, remove {FILE}-wal and {FILE}-shm"):
        damaged.check()
    damaged.close()


def test_a_file_of_another_program_is_left_alone(ring, path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA application_id = 77")
        other.execute("CREATE TABLE keys (a)")
    before = path.read_bytes()
    with pytest.raises(RegistryError, match="another program's file"):
        ring.add("app")
    assert path.read_bytes() == before


def test_a_file_of_a_newer_kbqa_is_left_alone(ring, path):
    ring.add("app")
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    later = Database(path)
    with pytest.raises(RegistryError, match="written by a newer kbqa; update kbqa"):
        KeyRing(later).all()
    later.close()


def test_a_closed_database_says_so(ring, database):
    database.close()
    with pytest.raises(RegistryError, match="was closed"):
        ring.all()


def test_keys_can_be_read_where_nothing_can_be_written(tmp_path, mounts):
    with mounts(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as disk:
        database = Database(disk / FILE)
        KeyRing(database).add("app")
        database.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        database = Database(disk / FILE)
        assert [key.name for key in KeyRing(database).all()] == ["app"]
        for write in WRITERS:
            with pytest.raises(RegistryError, match=f"{FILE} cannot be .*mount its file system for writing"):
                write(database)
        database.close()


WRITERS = [
    lambda database: KeyRing(database).add("more"),
    lambda database: Jobs(database).add("制度", "ingest", "人事"),
    lambda database: Jobs(database).check_room(),
    lambda database: FeedbackLog(database).add(Feedback("制度", "人事", "up", "年假有几天？", "十天。")),
    lambda database: Conversations(database).start(Conversation("制度", "人事", "甲", "年假")),
]


@pytest.mark.parametrize("write", WRITERS)
def test_who_writes_the_first_word_where_nothing_can_be_written_hears_of_the_file_and_the_remedy(
    tmp_path, mounts, write
):
    with mounts(tmp_path / "disk", "-t", "tmpfs", "-o", "ro", "tmpfs") as disk:
        for path in (disk / FILE, disk / "vectorstore" / FILE):
            with pytest.raises(RegistryError, match=f"{FILE} cannot be used: .*; mount its file system for writing"):
                write(Database(path))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_who_may_not_write_hears_that_he_needs_the_right(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RegistryError, match=f"{FILE} cannot be used: .*; give this user the right to write it and"):
        KeyRing(Database(tmp_path / FILE)).add("more")


def test_a_file_in_the_folders_place_is_one_clear_error(ring, path):
    path.parent.write_text("这不是文件夹", encoding="utf-8")
    with pytest.raises(RegistryError, match=f"{FILE} cannot be .*; (check its folder and its disk|give this user)"):
        ring.add("app")


@pytest.mark.skipif(os.name == "nt", reason="a folder where the file should be is another error there")
def test_a_folder_in_the_files_place_is_one_clear_error(ring, path):
    path.mkdir(parents=True)
    with pytest.raises(RegistryError, match=FILE):
        ring.add("app")


# --- jobs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jobs(database):
    return Jobs(database)


def statuses(jobs, job):
    return {file.source: file.status for file in jobs.files(job.id, 100)}


def test_a_job_waits_runs_and_ends_and_is_told_of_all_the_while(jobs):
    added = jobs.add("制度", "ingest", "人事", ["车辆.md", "差旅.md"])
    assert (added.state, jobs.get(added.id)) == ("queued", added)
    assert statuses(jobs, added) == {"车辆.md": "queued", "差旅.md": "queued"}
    claimed = jobs.claim(())
    assert (claimed.id, claimed.state, claimed.attempts, claimed.sources) == (
        added.id,
        "running",
        1,
        ("车辆.md", "差旅.md"),
    )
    done = JobFile("车辆.md", "added", "md", 3)
    assert not jobs.tell(added.id, Progress(2, 1, "车辆.md", 3, {"added": 1}), [done])
    assert jobs.get(added.id).progress == Progress(2, 1, "车辆.md", 3, {"added": 1})
    jobs.finish(added.id, "done")
    ended = jobs.get(added.id)
    assert ended.state == "done"
    assert ended.finished_at >= ended.started_at >= ended.created_at
    assert statuses(jobs, added) == {"车辆.md": "added", "差旅.md": "skipped"}, "one had gone meanwhile"


def test_jobs_of_one_base_are_done_in_order_and_never_two_at_once(jobs):
    first, second, other = (jobs.add(base, "ingest", "x") for base in ("a", "a", "b"))
    assert jobs.claim(()).id == first.id
    assert jobs.claim({"a"}).id == other.id
    assert jobs.claim({"a", "b"}) is None
    assert jobs.claim({"b"}).id == second.id
    assert jobs.claim(()) is None


def test_a_job_that_waits_may_be_withdrawn_and_nobody_stumbles_over_it(jobs, monkeypatch):
    running, waiting = (jobs.add("a", "remove", "x", ["1.md"]) for _ in range(2))
    assert jobs.claim(()).id == running.id
    for job in (running, waiting):
        jobs.withdraw(job.id)
    assert [job.id for job in jobs.all()] == [running.id], "who works on one goes on"
    assert jobs.files(waiting.id, 10) == []
    waiting = jobs.add("b", "remove", "x", ["1.md"])
    writing = jobs._database.writing

    @contextmanager
    def meanwhile():
        with writing() as connection:
            connection.execute("DELETE FROM jobs WHERE id = ?", (waiting.id,))
        with writing() as connection:
            yield connection

    monkeypatch.setattr(jobs._database, "writing", meanwhile)
    assert jobs.claim(()) is None


def test_a_job_that_waits_is_cancelled_at_once_and_one_that_runs_is_asked_to_end(jobs):
    running, waiting = (jobs.add("a", "ingest", "x", ["1.md"]) for _ in range(2))
    jobs.claim(())
    assert jobs.cancel(waiting.id).state == "cancelled"
    assert statuses(jobs, waiting) == {"1.md": "cancelled"}
    assert jobs.cancel(running.id).state == "running"
    assert not jobs.wanted(running.id)
    assert jobs.tell(running.id, Progress())
    jobs.finish(running.id, "cancelled")
    assert jobs.cancel(running.id).state == "cancelled"
    with pytest.raises(UnknownJob, match="there is no job nix"):
        jobs.cancel("nix")


def test_what_ran_when_its_process_died_begins_anew_but_not_for_ever(jobs):
    job = jobs.add("a", "ingest", "x", ["1.md", "2.md"])
    for attempt in range(1, 4):
        assert jobs.claim(()).attempts == attempt
        jobs.tell(job.id, Progress(2, 1), [JobFile("1.md", "added", "md", 7)])
        assert [found.id for found in jobs.recover()] == [job.id]
        assert jobs.get(job.id).state == ("queued" if attempt < 3 else "failed")
    assert "the service ended or broke down 3 times" in jobs.get(job.id).error
    assert jobs.claim(()) is None


def test_uploads_that_wait_one_behind_the_other_are_done_in_one_go(jobs):
    first, second, third = (jobs.add("a", "ingest", "x", [f"{name}.md"]) for name in "123")
    jobs.add("b", "ingest", "x", ["b.md"])
    whole = jobs.add("a", "ingest", "x")
    behind = jobs.add("a", "ingest", "x", ["4.md"])
    assert [job.id for job in jobs.claim_alike(jobs.claim(()))] == [second.id, third.id]
    assert [jobs.get(job.id).state for job in (first, second, third, whole)] == ["running"] * 3 + ["queued"]
    for job in (first, second, third):
        jobs.finish(job.id, "done")
    claimed = jobs.claim({"b"})
    assert (claimed.id, jobs.claim_alike(claimed)) == (whole.id, [])
    assert jobs.get(behind.id).state == "queued"


def test_a_job_on_which_nobody_works_is_found_beside_those_that_run(jobs):
    lost, works = jobs.add("a", "ingest", "x"), jobs.add("b", "ingest", "x")
    jobs.claim(())
    jobs.claim({"a"})
    assert [job.id for job in jobs.recover({"b"})] == [lost.id]
    assert jobs.get(works.id).state == "running"


def test_what_a_job_had_done_before_it_began_anew_stays_told(jobs):
    job = jobs.add("a", "ingest", "x", ["1.md"])
    jobs.tell(job.id, Progress(), [JobFile("1.md", "added", "md", 7)])
    jobs.tell(job.id, Progress(), [JobFile("1.md", "queued"), JobFile("1.md", "unchanged")])
    assert jobs.files(job.id, 10) == [JobFile("1.md", "added", "md", 7)]


def test_a_job_that_was_cancelled_while_its_process_died_is_not_begun_anew(jobs):
    job = jobs.add("a", "ingest", "x")
    jobs.claim(())
    jobs.cancel(job.id)
    jobs.recover()
    assert jobs.get(job.id).state == "cancelled"


def test_a_service_that_ends_in_an_orderly_way_counts_no_attempt(jobs):
    job = jobs.add("a", "ingest", "x")
    jobs.claim(())
    jobs.put_back(job.id)
    assert (jobs.get(job.id).state, jobs.get(job.id).attempts) == ("queued", 0)


def test_jobs_are_listed_newest_first_and_only_those_that_may_be_seen(jobs):
    for base in ("a", "b", "a"):
        jobs.add(base, "ingest", "x")
    jobs.claim(())
    assert [job.base for job in jobs.all()] == ["a", "b", "a"]
    assert [job.base for job in jobs.all(lambda base: base == "b")] == ["b"]
    assert [job.state for job in jobs.all(base="a")] == ["queued", "running"]
    assert len(jobs.all(state="queued")) == 2


def test_so_many_jobs_may_wait_and_so_many_that_ended_are_remembered(jobs, monkeypatch):
    monkeypatch.setattr("kbqa.registry.jobs.MOST_WAITING", 3)
    monkeypatch.setattr("kbqa.registry.jobs.KEPT", 2)
    first, *_ = (jobs.add("a", "ingest", "x", ["1.md"]) for _ in range(3))
    with pytest.raises(KnowledgeBaseBusy, match="3 jobs wait already"):
        jobs.add("a", "ingest", "x")
    jobs.cancel(first.id)
    last = jobs.add("a", "ingest", "x")
    with pytest.raises(UnknownJob):
        jobs.get(first.id)
    assert jobs.files(first.id, 10) == []
    assert jobs.get(last.id) == last


# --- feedback --------------------------------------------------------------------------------------------------------

CITED = {"marker": 1, "source": "员工手册.md", "page": None, "heading": "年假", "quote": "10天", "span": [3, 6]}


@pytest.fixture
def feedback(database):
    return FeedbackLog(database)


def liked(question="年假有几天？", base="制度", who="人事", **fields):
    return Feedback(base, who, fields.pop("rating", "up"), question, "10天。", **fields)


def test_feedback_is_kept_as_it_was_given(feedback):
    given = liked(comment="正是我要的", citations=(CITED,), user="张三")
    feedback.add(given)
    assert list(feedback.all()) == [given]


def test_feedback_is_found_by_base_rating_and_time(feedback):
    old, down, other = liked(created_at=NOW), liked(rating="down"), liked(base="default")
    for given in (old, down, other):
        feedback.add(given)
    assert list(feedback.all()) == [old, down, other]
    assert list(feedback.all("制度")) == [old, down]
    assert list(feedback.all("制度", "down")) == [down]
    assert list(feedback.all(since=NOW + 1)) == [down, other]


def test_feedback_can_be_changed_by_the_key_that_gave_it_alone(feedback):
    given = liked()
    feedback.add(given)
    feedback.change(replace(given, rating="down", comment="过时了"))
    assert [(found.rating, found.comment) for found in feedback.all()] == [("down", "过时了")]
    for foreign in (replace(given, who="财务"), replace(given, base="default"), replace(given, id="nix")):
        with pytest.raises(UnknownFeedback, match="no feedback"):
            feedback.change(foreign)
    assert [found.rating for found in feedback.all()] == ["down"]


def test_the_newest_feedback_is_kept_and_all_of_it_read_page_by_page(feedback, monkeypatch):
    monkeypatch.setattr("kbqa.registry.feedback.KEPT", 5)
    monkeypatch.setattr("kbqa.registry.feedback.PAGE", 2)
    for number in range(8):
        feedback.add(liked(str(number)))
    assert [found.question for found in feedback.all()] == list("34567")


def test_feedback_can_be_taken_back_by_the_key_that_gave_it(feedback):
    kept, gone = liked(), liked(rating="down")
    for given in (kept, gone):
        feedback.add(given)
    assert feedback.ratings([kept.id, gone.id, "nix"]) == {kept.id: "up", gone.id: "down"}
    feedback.remove(kept.id, "财务")
    feedback.remove(gone.id, "人事")
    assert feedback.ratings([kept.id, gone.id]) == {kept.id: "up"}
    assert feedback.ratings([]) == {}


def test_a_registry_of_an_earlier_version_is_brought_up_to_date_with_what_it_holds(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as earlier:
        for statement in (*MIGRATIONS[0], *MIGRATIONS[1]):  # before there was feedback
            earlier.execute(statement)
        earlier.execute("INSERT INTO keys VALUES ('app', 'd', 'h', 'read', NULL, 0, NULL)")
        earlier.execute("PRAGMA user_version = 2")
        earlier.commit()
    database = Database(path)
    FeedbackLog(database).add(liked())
    assert [key.name for key in KeyRing(database).all()] == ["app"]
    assert len(list(FeedbackLog(database).all())) == 1
    database.close()


# --- conversations ---------------------------------------------------------------------------------------------------


@pytest.fixture
def conversations(database):
    return Conversations(database)


def talk(conversations, *questions, who="app", user="张三", name="", **fields):
    """A conversation in which these questions were asked; the answers are the questions in brackets."""
    begun = Conversation("制度", who, user, name or "谈话", **fields)
    conversations.start(begun)
    for question in questions:
        conversations.add(Round(begun.id, question, f"({question})", f"({question})[1]", (CITED,)))
    return begun


def asked(rounds):
    return [round.question for round in rounds]


def test_a_conversation_is_kept_as_it_was_held(conversations):
    begun = talk(conversations, "年假？", "病假？", inputs={"kb": "制度"})
    found = conversations.get(begun.id, "app", "张三")
    assert replace(found, updated_at=begun.updated_at) == begun
    assert found.updated_at >= begun.updated_at
    assert conversations.turns(begun.id, 10) == [("年假？", "(年假？)"), ("病假？", "(病假？)")]
    assert conversations.turns(begun.id, 1) == [("病假？", "(病假？)")]
    first, second = conversations.rounds(begun.id, "app", "张三", 10)
    assert (first.told, first.citations, second.question) == ("(年假？)[1]", (CITED,), "病假？")
    assert conversations.round(second.id, "app", "张三") == (second, found)
    assert conversations.first_question(begun.id, "app", "张三") == "年假？"
    conversations.start(begun)
    assert len(conversations.rounds(begun.id, "app", "张三", 10)) == 2, "begun twice, it is still one"


@pytest.mark.parametrize("owner", [("app", "李四"), ("other", "张三")])
def test_a_conversation_is_its_keys_and_users_alone(conversations, owner):
    begun = talk(conversations, "年假？")
    (round,) = conversations.rounds(begun.id, "app", "张三", 10)
    ways = [
        lambda: conversations.get(begun.id, *owner),
        lambda: conversations.rounds(begun.id, *owner, 10),
        lambda: conversations.round(round.id, *owner),
        lambda: conversations.rename(begun.id, *owner, "meins"),
        lambda: conversations.remove(begun.id, *owner),
        lambda: conversations.all(*owner, 10, after=begun.id),
        lambda: conversations.first_question(begun.id, *owner),
    ]
    for way in ways:
        with pytest.raises(UnknownConversation) as refused:
            way()
        assert round.id not in str(refused.value) or begun.id not in str(refused.value)
    assert conversations.all(*owner, 10) == []
    assert conversations.get(begun.id, "app", "张三").name == "谈话"


def test_conversations_are_listed_in_each_order_page_by_page(conversations):
    old, mid, new = (
        talk(conversations, name=name, created_at=at, updated_at=at)
        for name, at in zip("甲乙丙", (1, 2, 3), strict=True)
    )
    conversations.add(Round(old.id, "还有？", "有。", "有。", created_at=9))
    names = {
        order: "".join(one.name for one in conversations.all("app", "张三", 9, order=order))
        for order in ("created_at", "-created_at", "updated_at", "-updated_at")
    }
    assert names == {"created_at": "甲乙丙", "-created_at": "丙乙甲", "updated_at": "乙丙甲", "-updated_at": "甲丙乙"}
    assert [one.name for one in conversations.all("app", "张三", 1, after=new.id)] == ["乙"]
    assert [one.name for one in conversations.all("app", "张三", 9, after=old.id, order="created_at")] == ["乙", "丙"]
    assert conversations.all("app", "张三", 9, after=mid.id) == []


def test_rounds_are_read_backwards_page_by_page(conversations):
    begun = talk(conversations, *"12345")
    last = conversations.rounds(begun.id, "app", "张三", 2)
    before = conversations.rounds(begun.id, "app", "张三", 2, before=last[0].id)
    assert (asked(last), asked(before)) == (["4", "5"], ["2", "3"])
    other = talk(conversations, "x")
    (foreign,) = conversations.rounds(other.id, "app", "张三", 2)
    with pytest.raises(UnknownConversation, match="no message"):
        conversations.rounds(begun.id, "app", "张三", 2, before=foreign.id)


def test_a_conversation_that_is_removed_takes_its_rounds_with_it(conversations, database):
    begun = talk(conversations, "年假？")
    conversations.remove(begun.id, "app", "张三")
    conversations.add(Round(begun.id, "late", "", ""))
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM rounds").fetchone() == (0,)


def test_the_last_rounds_and_each_keys_last_conversations_are_kept(conversations, monkeypatch):
    monkeypatch.setattr("kbqa.registry.conversations.KEPT_ROUNDS", 3)
    monkeypatch.setattr("kbqa.registry.conversations.KEPT", 2)
    begun = talk(conversations, *"12345")
    assert asked(conversations.rounds(begun.id, "app", "张三", 10)) == ["3", "4", "5"]
    theirs = talk(conversations, who="other")
    for name in "ab":
        talk(conversations, name=name)
    assert [one.name for one in conversations.all("app", "张三", 9)] == ["b", "a"]
    assert conversations.get(theirs.id, "other", "张三"), "those of another key are not counted"


# --- stops -----------------------------------------------------------------------------------------------------------


def test_a_wish_to_stop_is_found_by_who_writes_the_answer_and_forgotten_later(database, monkeypatch):
    stops, ours, theirs = Stops(database), ("任务一", "人事", "甲"), ("任务一", "人事", "乙")
    assert stops.asked(["任务一"]) == set()
    for stop in (ours, theirs, ours, ("任务二", "人事", "甲")):
        stops.ask(stop)
    assert stops.asked(["任务一", "任务三"]) == {ours, theirs}
    monkeypatch.setattr("kbqa.registry.stops.KEPT", -1.0)
    stops.ask(("任务三", "人事", "甲"))
    assert stops.asked(["任务一", "任务二"]) == set()
