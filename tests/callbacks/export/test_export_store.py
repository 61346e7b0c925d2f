import json
import shutil
from types import SimpleNamespace

import pytest

from visplay.callbacks import DiskBudgetError, HubTarget, Retention
from visplay.callbacks.export.export_store import ExportStore, check_disk, directory_bytes
from visplay.callbacks.export.hub import UploadError, push_to_hub

MIB = 1 << 20


def fill(size=10):
    return lambda directory: (directory / "model").write_bytes(b"x" * size) and None


def iterations(store, scores, size=10):
    for iteration, score in enumerate(scores, 1):
        for role in ("questioner", "reasoner"):
            store.write(iteration, role, size, fill(size))
        store.finish(iteration, score)


def there(store):
    return sorted(path.name for path in store.directory.iterdir() if path.is_dir())


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (Retention(last=1), ["iteration-4"]),
        (Retention(last=2), ["iteration-3", "iteration-4"]),
        (Retention(last=1, metric="m"), ["iteration-2", "iteration-4"]),
        (Retention(last=1, metric="m", highest=False), ["iteration-1", "iteration-4"]),
        (Retention(last=9, metric="m"), [f"iteration-{n}" for n in (1, 2, 3, 4)]),
    ],
)
def test_the_last_and_the_best_stay(tmp_path, keep, stay):
    store = ExportStore(tmp_path, keep)
    iterations(store, [0.1, 0.7, 0.7, None])
    assert there(store) == stay
    assert all((tmp_path / name / "reasoner" / "model").is_file() for name in stay)
    again = ExportStore(tmp_path, keep)  # as after a resume
    assert {f"iteration-{n}" for n in again.scores} == set(stay)
    if keep.metric:
        assert json.loads((tmp_path / "exports.json").read_text())["best"] == (2 if keep.highest else 1)


def test_an_iteration_in_the_making_takes_nothing_away(tmp_path):
    store = ExportStore(tmp_path, Retention(last=1))
    iterations(store, [0.1])
    store.write(2, "questioner", 10, fill())
    assert there(store) == ["iteration-1", "iteration-2"]


def test_the_budget_is_checked_before_anything_is_written(tmp_path):
    store = ExportStore(tmp_path, Retention(max_gib=3 / 1024))
    store.write(1, "questioner", 2 * MIB, fill(2 * MIB))
    before = directory_bytes(tmp_path)
    with pytest.raises(DiskBudgetError, match=r"max_gib: 0.00 GiB are there and 0.00 GiB are needed, more than"):
        store.write(1, "reasoner", 2 * MIB, lambda directory: pytest.fail("it was written"))
    assert directory_bytes(tmp_path) == before
    with pytest.raises(DiskBudgetError, match="an export needs .* GiB, and the disk of"):
        check_disk(tmp_path / "not" / "there", 1 << 60)


def test_a_run_that_would_not_fit_is_refused_before_it_starts(tmp_path):
    store = ExportStore(tmp_path / "new", Retention(last=2, metric="m", max_gib=4 / 1024))
    store.check_plan(MIB, iterations=9)  # two last, the best, and the one being written
    store.check_plan(2 * MIB, iterations=2)
    with pytest.raises(DiskBudgetError, match="max_gib: .* of 4 iterations; raise it, or lower keep.last"):
        store.check_plan(2 * MIB, iterations=9)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("settings", "message"), [({"last": 0}, "last: 0 must"), ({"max_gib": 0}, "max_gib: 0 must")])
def test_what_cannot_be_kept(settings, message):
    with pytest.raises(ValueError, match=message):
        Retention(**settings)


class Hub:
    """Notes what a client of the Hub is asked; the repositories named public are there."""

    def __init__(self, *public, fails=None):
        self.calls, self.repos, self.fails = [], dict.fromkeys(public, False), fails

    def create_repo(self, repo, private, exist_ok):
        assert exist_ok
        if self.fails:
            raise self.fails
        self.repos.setdefault(repo, private)

    def repo_info(self, repo):
        return SimpleNamespace(private=self.repos[repo])

    def upload_folder(self, **settings):
        self.calls.append(settings)


def test_an_upload_is_private_unless_told_otherwise(tmp_path):
    hub, upload = Hub(), {"folder_path": str(tmp_path), "commit_message": "why"}
    assert push_to_hub(tmp_path, HubTarget("me/visplay-{role}"), "reasoner", "why", hub) == "me/visplay-reasoner"
    push_to_hub(tmp_path, HubTarget("me/mine", private=False), "reasoner", "why", hub)
    assert hub.repos == {"me/visplay-reasoner": True, "me/mine": False}
    assert hub.calls == [{"repo_id": "me/visplay-reasoner"} | upload, {"repo_id": "me/mine"} | upload]


def test_what_is_to_be_private_does_not_go_where_all_can_read_it(tmp_path):
    hub = Hub("me/known")
    with pytest.raises(UploadError, match="was not uploaded: me/known is there and public; make it private"):
        push_to_hub(tmp_path, HubTarget("me/known"), "reasoner", "why", hub)
    assert not hub.calls
    push_to_hub(tmp_path, HubTarget("me/known", private=False), "reasoner", "why", hub)
    assert len(hub.calls) == 1


def test_an_upload_that_fails_says_that_the_export_is_there(tmp_path):
    with pytest.raises(UploadError, match="is complete, and was not uploaded to me/x: no network"):
        push_to_hub(tmp_path, HubTarget("me/x"), "reasoner", "why", Hub(fails=RuntimeError("no network")))


@pytest.mark.parametrize("wrong", ["mine", "a/b/c", "/x", "me/", "me/{what}", "me/{role", "me/a b"])
def test_what_is_no_repository(wrong):
    with pytest.raises(ValueError, match="repo: must be owner/name"):
        HubTarget(wrong)


def test_what_a_killed_process_left_is_cleared_away_and_replaced(tmp_path):
    keep = Retention(last=1, max_gib=4.5 / 1024)
    store = ExportStore(tmp_path, keep)
    for iteration in (1, 2):
        for role in ("questioner", "reasoner"):
            store.write(iteration, role, MIB, fill(MIB))
    (tmp_path / "iteration-2" / ".reasoner.77.new").mkdir()
    (tmp_path / "iteration-2" / ".reasoner.77.new" / "model").write_bytes(b"x" * MIB)

    store = ExportStore(tmp_path, keep)  # killed before iteration 1 was let go, resumed in the Reasoner's phase
    store.check_plan(2 * MIB, iterations=3, first=2)
    store.write(2, "reasoner", MIB, fill(MIB))
    assert directory_bytes(tmp_path) - (tmp_path / "exports.json").stat().st_size == 4 * MIB
    store.finish(2, 0.5)
    assert there(store) == ["iteration-2"]
    assert sorted(path.name for path in (tmp_path / "iteration-2").iterdir()) == ["questioner", "reasoner"]


def test_exports_of_another_run_are_left_alone(tmp_path):
    store = ExportStore(tmp_path, Retention(last=2))
    iterations(store, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"has exports of iterations \[2, 3\], and this run begins in iteration 1"):
        ExportStore(tmp_path, Retention()).check_plan(MIB, iterations=3)
    ExportStore(tmp_path, Retention()).check_plan(MIB, iterations=3, first=3)
    assert there(store) == ["iteration-2", "iteration-3"]


def test_room_for_all_that_stays_is_seen_before_the_run(tmp_path):
    share = shutil.disk_usage(tmp_path).free // 2
    ExportStore(tmp_path, Retention(last=1)).check_plan(share, iterations=1)
    with pytest.raises(DiskBudgetError, match="an export needs .* GiB, and the disk of"):
        ExportStore(tmp_path, Retention(last=2)).check_plan(share, iterations=9)


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_an_iteration_without_a_score_is_not_the_best(tmp_path, score):
    store = ExportStore(tmp_path, Retention(last=1, metric="m"))
    iterations(store, [score, 0.1, score])
    assert there(store) == ["iteration-2", "iteration-3"]
    assert store.best == 2
    assert json.loads((tmp_path / "exports.json").read_text())["scores"] == {"2": 0.1, "3": None}
