"""A file that follows what changes."""

import threading

from deepzero_jax.training.folder import read_json
from deepzero_jax.training.live import LiveJson


def test_it_holds_what_was_written_last_whatever_its_length(tmp_path):
    content = {}
    live = LiveJson(tmp_path / "folder/live.json", lambda: content)
    for length in (3, 5000, 2, 4000, 4090, 1):
        content = {"text": length * "x"}
        live.update()
        assert read_json(live.path) == content
    content = {"saved": True}
    live.save()
    assert read_json(live.path) == content
    live.close()
    other = LiveJson(live.path, lambda: {})
    other.update()
    assert read_json(live.path) == {}


def test_a_disk_that_refuses_an_update_does_not_end_what_is_counted(tmp_path):
    (tmp_path / "file").touch()
    LiveJson(tmp_path / "file/live.json", lambda: {"count": 1}).update()


def test_threads_never_leave_an_older_count(tmp_path):
    count, lock = [0], threading.Lock()
    live = LiveJson(tmp_path / "live.json", lambda: {"count": count[0]})

    def work():
        for _ in range(500):
            with lock:
                count[0] += 1
            live.update()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_json(live.path) == {"count": 4000}
