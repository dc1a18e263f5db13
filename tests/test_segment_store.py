"""Stores that take a name once: a directory, obstore's memory, and an S3 (moto's) that answers If-None-Match."""

import io
import os
import threading
from contextlib import contextmanager

import pytest

from logbale.errors import StorageError
from logbale.segment_store import Strays
from logbale.segment_store.directory import DirectoryStore, check_directory
from logbale.segment_store.opening import open_store, store_address

FOLDER = "logs/00003"


@contextmanager
def s3(monkeypatch):
    """The URL of a bucket of moto's S3."""
    boto3 = pytest.importorskip("boto3", reason="moto[s3,server] is not installed")
    server_of = pytest.importorskip("moto.server", reason="moto[s3,server] is not installed")
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        values = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1", "ENDPOINT": endpoint}
        for name, value in {**values, "ALLOW_HTTP": "true"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        bucket = f"archive-{server.get_host_and_port()[1]}"  # moto's buckets outlive its servers
        client.create_bucket(Bucket=bucket)
        client.close()
        yield f"s3://{bucket}/some/prefix"
    finally:
        server.stop()


@pytest.fixture(params=["directory", "memory", "s3"])
def store(request, tmp_path, monkeypatch):
    """A store with nothing in it."""
    if request.param == "directory":
        yield open_store(f"file://{tmp_path}/some/prefix")
        return
    pytest.importorskip("obstore", reason="obstore is not installed")
    if request.param == "memory":
        from logbale.segment_store.bucket import BucketStore

        yield memory_store(BucketStore)
        return
    with s3(monkeypatch) as url:
        yield open_store(url)


def memory_store(kind):
    """obstore's memory takes no options for a network."""
    from obstore.store import MemoryStore

    store = kind.__new__(kind)
    store._url, store._store, store.strays = "memory:", MemoryStore(), Strays()
    return store


def name(start):
    return f"{FOLDER}/{start:020}.ndjson.zst"


def test_a_name_is_taken_once(store):
    """The second put under a name is refused, and changes nothing."""
    assert store.put(name(0), io.BytesIO(b"first"))
    assert not store.put(name(0), io.BytesIO(b"second"))
    assert store.read(name(0), 0, 100) == b"first"


def test_of_many_that_want_a_name_one_gets_it(store):
    """A race for a name has one winner, and its bytes are there."""
    begin = threading.Barrier(8)
    won = []

    def race(number):
        begin.wait()
        if store.put(name(7), io.BytesIO(b"%d" % number)):
            won.append(b"%d" % number)

    threads = [threading.Thread(target=race, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.read(name(7), 0, 100)] == won


def test_the_last_is_the_highest_name(store):
    """last() gives the highest start with its size, of its folder alone; a folder that is not there has none."""
    assert store.last(FOLDER) is None
    for start in (0, 1200, 90):
        store.put(name(start), io.BytesIO(b"x" * (start + 1)))
    store.put("logs/00004/00000000000000009999.ndjson.zst", io.BytesIO(b"of another partition"))
    last = store.last(FOLDER)
    assert (last.name, last.size) == (name(1200), 1201)


def test_what_no_archiver_put_there_is_passed_over_and_said_once(store, tmp_path, caplog):
    """A copy, a note, a folder's marker: whatever is not called as a segment of the folder is none, however high."""
    store.put(name(7), io.BytesIO(b"the last"))
    strays = [f"{FOLDER}/notes.txt", f"{FOLDER}/zz.ndjson.zst", f"{name(9)}.bak", f"{FOLDER}/9.ndjson.zst"]
    for stray in strays:
        store.put(stray, io.BytesIO(b"no segment"))
    for _ in range(3):
        assert store.last(FOLDER).name == name(7)
    assert len(store.strays) == 4
    said = [record.getMessage() for record in caplog.records]
    assert sorted(said) == sorted(f"{stray}: no archiver of ours put that there; it is passed over" for stray in strays)


def test_strays_are_remembered_within_bounds(store, monkeypatch):
    """Whoever may write there may write without end."""
    monkeypatch.setattr("logbale.segment_store.MAX_STRAYS", 3)
    for number in range(5):
        store.put(f"{FOLDER}/{number}.txt", io.BytesIO(b""))
    assert store.last(FOLDER) is None
    assert len(store.strays) == 3


def test_a_part_can_be_read(store):
    """read() gives a range, and less where the segment ends before."""
    store.put(name(0), io.BytesIO(b"0123456789"))
    assert store.read(name(0), 6, 4) == b"6789"
    assert store.read(name(0), 2, 3) == b"234"
    assert store.read(name(0), 8, 100) == b"89"


def test_what_is_not_there_is_an_error(store):
    """To read a name that nobody put is a StorageError that says where."""
    with pytest.raises(StorageError, match="logs/00003"):
        store.read(name(5), 0, 10)


def test_a_large_segment_is_one_conditional_put(store):
    """More than a multipart's chunk: a multipart upload would not be refused where the name is taken."""
    body = os.urandom(6 << 20)
    assert store.put(name(0), io.BytesIO(body))
    assert not store.put(name(0), io.BytesIO(body))
    assert store.read(name(0), len(body) - 5, 5) == body[-5:]


# a directory


def test_a_file_is_synced_before_it_has_its_name(tmp_path, monkeypatch):
    """fsync of the bytes, link, fsync of the directory: a name that is seen after a power cut has its bytes."""
    calls = []
    for call in ("fsync", "link"):
        real = getattr(os, call)

        def noted(*arguments, real=real, call=call):
            calls.append(call)
            return real(*arguments)

        monkeypatch.setattr(os, call, noted)
    DirectoryStore(tmp_path).put("segment.ndjson.zst", io.BytesIO(b"bytes"))
    assert calls[-3:] == ["fsync", "link", "fsync"]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_put_that_fails_leaves_no_name(tmp_path, fail, call):
    """After an error there is no segment, nothing half written, and a second try succeeds."""
    store = DirectoryStore(tmp_path)
    fail(call)
    with pytest.raises(StorageError, match="store the segment"):
        store.put(name(0), io.BytesIO(b"bytes"))
    fail()
    assert store.last(FOLDER) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert store.put(name(0), io.BytesIO(b"bytes"))


def test_what_a_crash_left_is_deleted_after_a_day(tmp_path):
    """A put that was cut off leaves a file that no reader sees; a day later it goes."""
    store = DirectoryStore(tmp_path)
    store.put(name(0), io.BytesIO(b"bytes"))
    left, recent = (tmp_path / FOLDER / f".{age}.unfinished" for age in ("old", "new"))
    for path in (left, recent):
        path.write_bytes(b"half")
    os.utime(left, (1, 1))
    assert store.last(FOLDER).name == name(0)
    assert (left.exists(), recent.exists()) == (False, True)


def test_segments_are_for_their_owner(tmp_path):
    """Directories 0700, files 0600."""
    DirectoryStore(tmp_path / "archive").put(name(0), io.BytesIO(b"bytes"))
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "archive").rglob("*") if path.is_dir()}
    assert modes == {0o700}
    assert (tmp_path / "archive" / name(0)).stat().st_mode & 0o777 == 0o600


def test_a_file_system_without_links_is_refused_at_the_start(tmp_path, fail):
    """The message says what is missing and the way out, before anything is read from Kafka."""
    fail("link", 95)
    with pytest.raises(StorageError, match=r"no hard links here .*; use a file system that has them, or a bucket"):
        check_directory(tmp_path)
    fail()
    check_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []


# a bucket


def test_a_bucket_that_is_not_there_is_an_error_at_the_start(monkeypatch):
    """open_store() looks whether it may list: wrong credentials or names show at once."""
    pytest.importorskip("obstore", reason="obstore is not installed")
    with s3(monkeypatch), pytest.raises(StorageError, match=r"s3://none/x: cannot list .*NoSuchBucket"):
        open_store("s3://none/x")


# addresses


@pytest.mark.parametrize("text", ["file:///srv/archive", "s3://bucket/some/prefix", "gs://bucket", "az://container/x"])
def test_an_address_names_a_store(text):
    """Directories and buckets."""
    assert store_address(text) == text


@pytest.mark.parametrize(
    "text", ["", "/srv/archive", "file://host/srv", "file:///", "s3://", "ftp://host/x", "s3://bucket/x?y=1"]
)
def test_what_names_no_store_is_refused(text):
    """The message says what was expected."""
    with pytest.raises(ValueError, match="file:///directory"):
        store_address(text)


def test_credentials_do_not_stand_in_an_address():
    """Command lines are seen by everybody."""
    with pytest.raises(ValueError, match="from the environment"):
        store_address("s3://key:secret@bucket/prefix")


@pytest.fixture
def no_credentials(monkeypatch):
    """Nothing in the environment, and nobody at the address that a machine in a cloud has for asking."""
    pytest.importorskip("obstore", reason="obstore is not installed")
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")


@pytest.mark.parametrize(
    ("url", "given", "set_it"),
    [
        ("s3://bucket/prefix", {}, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (files in ~/.aws are not read)"),
        ("s3://bucket", {"AWS_ACCESS_KEY_ID": "key"}, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("az://container", {}, "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_missing_credentials_are_named_by_what_to_set(no_credentials, monkeypatch, url, given, set_it):
    """And not by the address that a cloud's machine is asked at."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError) as refused:
        open_store(url)
    assert str(refused.value).startswith(f"{url}: there are no credentials for it; {set_it}")
    assert "127.0.0.1" not in str(refused.value)


def test_an_endpoint_without_tls_has_to_be_meant(no_credentials, monkeypatch):
    """What allows it is named."""
    values = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "ENDPOINT": "http://127.0.0.1:1", "ALLOW_HTTP": ""}
    for name, value in values.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(StorageError, match=r"the endpoint is http://.* set AWS_ALLOW_HTTP=true"):
        open_store("s3://bucket")
